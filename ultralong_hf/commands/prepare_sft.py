"""`ultralong prepare --stage sft`: conversations of many sources -> the blend of the SFT stage."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultralong_hf.errors import InputError

if TYPE_CHECKING:
    from ultralong_hf.recipes.schema import InstructSection

_OWN = {"data": None, "samples": None, "max_length": None, "confirm_requests": False}
"""Options of this stage alone, and their values where they are not given."""
_SHARED = {"sources", "stage", "recipe", "tokenizer", "output", "json", "seed", "on_error", "max_bad_share"}
_KEYS = {
    "data": "data_dir",
    "samples": "samples",
    "max_length": "max_length",
    "seed": "seed",
    "on_error": "on_error",
    "max_bad_share": "max_bad_share",
}
"""Option -> key of the section `instruct`."""


def configure(group: argparse._ArgumentGroup) -> None:
    """The options of this stage."""
    group.add_argument(
        "--data", metavar="DIR", help="folder with copies of Hub datasets: owner/name, owner--name or name"
    )
    group.add_argument("--samples", type=int, metavar="N", help="of the whole blend (default: the recipe's)")
    group.add_argument(
        "--max-length", metavar="LENGTH", help="drop longer conversations (default: 8K tokens)"
    )
    group.add_argument(
        "--confirm-requests",
        action="store_true",
        help="send the requests of instruct.rewrite; else what they would cost is told, and none is sent",
    )


def refuse_for_documents(args: argparse.Namespace) -> None:
    """Raises InputError for options of this stage where another is prepared."""
    given = [f"--{name.replace('_', '-')}" for name, unset in _OWN.items() if getattr(args, name) != unset]
    if given:
        raise InputError(
            f"{', '.join(given)} would have no effect on documents: add --stage sft, or leave it out."
        )


def run(args: argparse.Namespace) -> int:
    """Makes the blend, and prints its report."""
    from ultralong_hf.data.instructions.blend import prepare_blend
    from ultralong_hf.data.instructions.report import report_text

    _refuse_idle(args)
    section, tokenizer, output = _from_recipe(args) if args.recipe else _plain(args)
    report = prepare_blend(
        section,
        tokenizer=tokenizer,
        output_dir=output,
        confirm_requests=args.confirm_requests,
        say=lambda line: print(line, file=sys.stderr),
    )
    if args.json:
        print(json.dumps({"path": str(output), **report}, indent=2))
    else:
        print(f"{output}: {report['samples']:,} samples, {report['tokens']:,} tokens\n{report_text(report)}")
        print(f"drawn: {Path(output) / 'report.png'}")
    return 0


def _refuse_idle(args: argparse.Namespace) -> None:
    allowed = {*_OWN, *_SHARED, "command", "run"}
    idle = [
        name for name, value in vars(args).items() if name not in allowed and value not in (None, [], False)
    ]
    if idle:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in idle)
        raise InputError(f"{names} would have no effect on conversations. Leave it out.")


def _options(args: argparse.Namespace) -> dict[str, Any]:
    return {
        f"instruct.{key}": getattr(args, option)
        for option, key in _KEYS.items()
        if getattr(args, option) is not None
    }


def _from_recipe(args: argparse.Namespace) -> tuple[InstructSection, str, Path]:
    from ultralong_hf.lab.names import model_location
    from ultralong_hf.recipes import load_recipe
    from ultralong_hf.training.samples import blend_folder

    if args.sources:
        raise InputError(f"{args.sources[0]!r} and --recipe: sources come from one of them. Leave one out.")
    recipe = load_recipe(args.recipe, _options(args))
    tokenizer = model_location(args.tokenizer or recipe.model.name_or_path)
    return recipe.instruct, tokenizer, Path(args.output or blend_folder(recipe))


def _plain(args: argparse.Namespace) -> tuple[InstructSection, str, Path]:
    from ultralong_hf.lab.names import model_location
    from ultralong_hf.recipes.checking import Faults, build
    from ultralong_hf.recipes.schema import InstructSection

    needed = {"SOURCE": args.sources, "--tokenizer": args.tokenizer, "--output": args.output}
    if missing := [name for name, value in needed.items() if not value]:
        raise InputError(f"{', '.join(missing)} missing: give them, or a recipe with --recipe.")
    values = {key.removeprefix("instruct."): value for key, value in _options(args).items()}
    faults = Faults("command line", {})
    section = build(InstructSection, {"sources": args.sources, **values}, ("instruct",), faults)
    if section is None:
        raise InputError(*faults.messages)
    return section, model_location(args.tokenizer), Path(args.output)
