"""`ultralong prepare --stage preference`: documents -> pairs of answers to long prompts."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultralong_hf.errors import InputError

if TYPE_CHECKING:
    from ultralong_hf.recipes.schema import PreferenceDataSection

_OWN = ("pairs", "lengths", "distractors")
"""Options of this stage alone."""
_SHARED = ("sources", "stage", "recipe", "tokenizer", "output", "json", "seed")
_KEYS = {
    "pairs": "grounded.pairs",
    "lengths": "grounded.lengths",
    "distractors": "grounded.distractors",
    "output": "grounded.output_dir",
    "seed": "seed",
}
"""Option -> key of the section `preference_data`."""


def configure(group: argparse._ArgumentGroup) -> None:
    """The options of this stage."""
    group.add_argument("--pairs", type=int, metavar="N", help="how many (default: 1000)")
    group.add_argument(
        "--lengths", nargs="+", metavar="LENGTH", help="tokens of prompt and answer, by turns: 1K 8K 64K"
    )
    group.add_argument(
        "--distractors", type=int, metavar="N", help="facts that look like the one asked for (default: 6)"
    )


def refuse_for_others(args: argparse.Namespace) -> None:
    """Raises InputError for options of this stage where another is prepared."""
    if given := [f"--{name}" for name in _OWN if getattr(args, name) is not None]:
        raise InputError(f"{', '.join(given)} would have no effect here: add --stage preference.")


def run(args: argparse.Namespace) -> int:
    """Makes the pairs, and prints their account."""
    from ultralong_hf.data.grounding.pairs import PAIRS, account_text
    from ultralong_hf.data.tokenization import load_tokenizer
    from ultralong_hf.training.pairs import make_grounded

    _refuse_idle(args)
    section, tokenizer = _from_recipe(args) if args.recipe else _plain(args)
    account = make_grounded(section, load_tokenizer(tokenizer))
    assert section.grounded is not None
    path = Path(section.grounded.output_dir) / PAIRS
    if args.json:
        print(json.dumps({"path": str(path), **account}, indent=2))
        return 0
    with path.open(encoding="utf-8") as file:
        first = json.loads(file.readline())
    print(f"{path}: {account_text(account, first)}")
    return 0


def _refuse_idle(args: argparse.Namespace) -> None:
    allowed = {*_OWN, *_SHARED, "command", "run"}
    idle = [
        name for name, value in vars(args).items() if name not in allowed and value not in (None, [], False)
    ]
    if idle:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in idle)
        raise InputError(f"{names} would have no effect on preference pairs. Leave it out.")


def _options(args: argparse.Namespace) -> dict[str, Any]:
    return {key: getattr(args, option) for option, key in _KEYS.items() if getattr(args, option) is not None}


def _from_recipe(args: argparse.Namespace) -> tuple[PreferenceDataSection, str]:
    from ultralong_hf.lab.names import model_location
    from ultralong_hf.recipes import load_recipe

    if args.sources:
        raise InputError(f"{args.sources[0]!r} and --recipe: sources come from one of them. Leave one out.")
    overrides = {f"preference_data.{key}": value for key, value in _options(args).items()}
    recipe = load_recipe(args.recipe, overrides)
    return recipe.preference_data, model_location(args.tokenizer or recipe.model.name_or_path)


def _plain(args: argparse.Namespace) -> tuple[PreferenceDataSection, str]:
    from ultralong_hf.lab.names import model_location
    from ultralong_hf.recipes.checking import Faults, build
    from ultralong_hf.recipes.schema import PreferenceDataSection

    needed = {
        "SOURCE": args.sources,
        "--tokenizer": args.tokenizer,
        "--lengths": args.lengths,
        "--output": args.output,
    }
    if missing := [name for name, value in needed.items() if not value]:
        raise InputError(f"{', '.join(missing)} missing: give them, or a recipe with --recipe.")
    values = _options(args)
    grounded = {key.removeprefix("grounded."): values.pop(key) for key in list(values) if "." in key}
    faults = Faults("command line", {})
    content = {**values, "grounded": {**grounded, "documents": args.sources}}
    section = build(PreferenceDataSection, content, ("preference_data",), faults)
    if section is None:
        raise InputError(*faults.messages)
    return section, model_location(args.tokenizer)
