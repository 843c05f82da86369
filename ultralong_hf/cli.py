"""The `ultralong` command: finds the subcommand, runs it, turns our errors into lines and an exit status."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence

from ultralong_hf import __version__
from ultralong_hf.errors import InputError, UltraLongError

# Subcommand -> its line in `ultralong --help`. The module commands/NAME.py is imported only when it runs.
COMMANDS = {
    "extend": "write a model folder whose RoPE is stretched to a longer window",
    "inspect": "show a model's RoPE, a token store, or a row of one",
    "prepare": "documents -> token store: rows of exactly the target length",
    "plan": "what training needs: memory, time, sizes and options",
    "launch-config": "accelerate's YAML and a SLURM script for a recipe",
    "eval": "needle grids, RULER, LV-Eval, InfiniteBench, loss by position, the standard side",
    "ablate": "which parts of the recipe matter, arm against arm over several seeds",
    "publish": "a trained model as a folder that others can load, with its card; and to the hub",
    "chat": "ask questions over long documents, in the browser",
    "serve-config": "the command that serves a model at its length, and whether a server reads it as trained",
    "run": "a recipe from documents to a checked release folder: every stage, resumed",
    "status": "how far each stage of a run is",
    "lab": "the laptop lab: its corpus, tokenizer and base model, and the quickstart",
}

# Subcommands that take any key of a recipe, `--section.key value`, as `args.overrides`; `args.words` is all
# that was written.
WITH_KEYS = ("run",)

# Commands of two words whose options are their own: commands/NAME.py has `run(arguments)`.
NESTED = {("eval", "report"): "eval_report"}


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser; options are filled in for `command` alone, so that --help of all stays quick."""
    parser = argparse.ArgumentParser(
        prog="ultralong",
        description="The UltraLong recipe on the Hugging Face stack.",
        epilog="example: ultralong inspect meta-llama/Llama-3.1-8B-Instruct --target 1M",
    )
    parser.add_argument("--version", action="version", version=f"ultralong-hf {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        sub = subparsers.add_parser(
            name, help=summary, description=summary, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if name == command:
            module = importlib.import_module(f"ultralong_hf.commands.{name.replace('-', '_')}")
            module.configure(sub)
            sub.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 on success, 2 on bad input (a line a fault, each begins with `error:`), 1 otherwise."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if tuple(arguments[:2]) in NESTED:
        module = importlib.import_module(f"ultralong_hf.commands.{NESTED[arguments[0], arguments[1]]}")
        return _run(lambda: module.run(arguments[2:]))
    command = next((a for a in arguments if not a.startswith("-")), None)
    return _run(lambda: _parse_and_run(command, arguments))


def _parse_and_run(command: str | None, arguments: list[str]) -> int:
    known = argparse.Namespace()
    if command in WITH_KEYS:
        from ultralong_hf.recipes.overrides import take_overrides

        known.words = arguments
        arguments, known.overrides = take_overrides(arguments)
    parsed = build_parser(command).parse_args(arguments, known)
    return int(parsed.run(parsed))


def _run(command: Callable[[], int]) -> int:
    try:
        return int(command())
    except UltraLongError as error:
        for fault in error.faults:
            print(f"error: {fault}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    except BrokenPipeError:  # the reader, such as `head`, has what it wants
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on.", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
