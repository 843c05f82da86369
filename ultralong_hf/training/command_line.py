"""The command line of the example scripts: a recipe, and any of its keys on top of it.

The keys of the stage's own section are those of TRL's scripts (`--learning_rate 1e-5`), read by TrlParser;
all others are written with their section (`--data.target_length 2M`).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

from accelerate import PartialState
from torch.distributed.elastic.multiprocessing.errors import get_error_handler
from transformers import Trainer
from trl import TrlParser

from ultralong_hf.errors import InputError, RecipeError, UltraLongError
from ultralong_hf.parallel.preflight import check_parallel
from ultralong_hf.recipes import PRESETS, Recipe, load_recipe
from ultralong_hf.recipes.checking import nearest
from ultralong_hf.recipes.overrides import take_overrides
from ultralong_hf.recipes.schema import SECTIONS, TRL_SECTIONS
from ultralong_hf.recipes.trl_keys import trl_class


def parse_recipe(stage: str, arguments: Sequence[str] | None = None) -> tuple[Recipe, argparse.Namespace]:
    """The recipe of `--recipe`, with the overrides of `arguments` (none: those of the process), and the rest.

    The rest is `model`, a folder or id to start from in place of the recipe's, or None, and `check_parallel`.
    Raises RecipeError for what is no key, naming the nearest one, and for bad values.
    """
    parser = _parser(stage)
    words = list(sys.argv[1:] if arguments is None else arguments)
    words, sections = take_overrides(words)
    given, unknown = parser.parse_known_args(words)
    faults = [_unknown(word, parser) for word in unknown if word.startswith("-")]
    if not faults:  # else they are most likely the values of the unknown options
        faults = [f"{word} belongs to no option." for word in unknown]
    values = vars(given)
    options = argparse.Namespace(
        model=values.pop("model", None), check_parallel=values.pop("check_parallel", False)
    )
    name = values.pop("recipe", None)
    if name is None:
        faults.append(f"--recipe is missing: a YAML file, or one of {', '.join(PRESETS)}.")
    if faults:
        raise RecipeError(*faults)
    own = {f"{stage}.{key}": value for key, value in values.items()}
    return load_recipe(name, {**own, **sections}), options


def check_set_up(make_trainer: Callable[..., Trainer], recipe: Recipe, options: argparse.Namespace) -> None:
    """What `--check-parallel` does in place of training; see `check_parallel`. Prints the comparison."""
    trainer = make_trainer(recipe, model=options.model)
    result = check_parallel(trainer)
    if trainer.accelerator.process_index == 0:
        print("\n".join([*result.lines(), "The set-up is right."]))


def refuse_check(options: argparse.Namespace, reason: str) -> None:
    """Raises RecipeError for `--check-parallel` in a stage without it."""
    if options.check_parallel:
        raise RecipeError(f"this stage has no --check-parallel: {reason}.")


def run(main: Callable[[], None]) -> int:
    """Runs a script's `main`; errors of ours are lines on stderr. Exit status: 0, 2 for bad input, else 1.

    What ends this process is also left for the launcher, which shows it as the cause when it ends the others.
    The process group is destroyed at the end: a process that leaves without may abort, or hang the others.
    """
    try:
        main()
        return 0
    except UltraLongError as error:
        _tell_launcher(error)
        if os.environ.get("RANK", "0") == "0":  # every process meets the same error, as a rule
            for fault in error.faults:
                print(f"error: {fault}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    except Exception as error:
        _tell_launcher(error)
        raise
    finally:
        if PartialState._shared_state:
            PartialState().destroy_process_group()


def _tell_launcher(error: Exception) -> None:
    """torchrun, which accelerate launches with, reads a file of each process for its summary."""
    if os.environ.get("TORCHELASTIC_ERROR_FILE"):
        get_error_handler().record_exception(error)


class _Parser(TrlParser):
    """Says what is wrong as RecipeError, not with a page of usage; knows what was given from what was not."""

    def error(self, message: str) -> NoReturn:
        raise RecipeError(message)


def _parser(stage: str) -> _Parser:
    parser = _Parser(
        [trl_class(TRL_SECTIONS[stage])],
        usage="accelerate launch %(prog)s --recipe NAME_OR_FILE [--KEY VALUE ...] [--SECTION.KEY VALUE ...]",
        description=(
            f"The stage {stage} of a recipe. The options below are the keys of trl.{TRL_SECTIONS[stage]}; "
            f"those of the sections {', '.join(SECTIONS)} are written with the section."
        ),
        epilog="example: accelerate launch %(prog)s --recipe lab --learning_rate 1e-4 --rope.method yarn",
        allow_abbrev=False,
    )
    for action in parser._actions:  # a key that is not given keeps the recipe's value
        if action.dest != "help":
            action.default = argparse.SUPPRESS
    ours = parser.add_argument_group("recipe")
    ours.add_argument("--recipe", metavar="NAME_OR_FILE", help=f"a YAML file, or one of {', '.join(PRESETS)}")
    ours.add_argument(
        "--check-parallel",
        action="store_true",
        default=argparse.SUPPRESS,
        help="train nothing: compare one short step of this launch with one process; stop where they differ",
    )
    ours.add_argument("--model", metavar="PATH", help="a model folder or id to start from, not the recipe's")
    return parser


def _unknown(word: str, parser: argparse.ArgumentParser) -> str:
    option = word.partition("=")[0]
    return f"{option} is no option of this script.{nearest(option, _options(parser))}"


def _options(parser: argparse.ArgumentParser) -> Iterable[str]:
    """All options but the second spellings of HfArgumentParser (--learning-rate)."""
    options = [option for action in parser._actions for option in action.option_strings]
    second = {option.replace("_", "-") for option in options if "_" in option}
    return [option for option in options if option not in second]
