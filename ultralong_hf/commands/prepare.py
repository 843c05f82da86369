"""`ultralong prepare`: documents -> token store: rows of exactly the target length."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from ultralong_hf.errors import InputError

if TYPE_CHECKING:
    pass

_EPILOG = """example: pack a folder of books and a file of articles into rows of 1M tokens, joined by <s>

  ultralong prepare books/ articles.jsonl.gz --tokenizer meta-llama/Llama-3.1-8B-Instruct \\
      --target-length 1M --output store-1m

A SOURCE is a file, a folder, a glob in quotes or a Hub dataset: JSON lines, Parquet or text, plain, .gz,
.zst or .bz2; a text file is one document. Work that was interrupted goes on when the same command is given
again.
"""
_FROM_RECIPE = {
    "target_length": "data.target_length",
    "output": "data.output_dir",
    "text_column": "data.text_column",
    "seed": "data.seed",
    "workers": "data.workers",
}
"""Options that override a recipe's key."""


def configure(parser: argparse.ArgumentParser) -> None:
    """The options of `ultralong prepare`."""
    from ultralong_hf.data.separators import KINDS

    parser.epilog = _EPILOG
    parser.add_argument("sources", nargs="*", metavar="SOURCE", help="file, folder, glob or Hub dataset")
    parser.add_argument(
        "--recipe", metavar="NAME_OR_FILE", help="take sources and settings from its data section"
    )
    parser.add_argument(
        "--tokenizer", metavar="MODEL", help="folder or Hub id; with --recipe: that of its model"
    )
    parser.add_argument("--target-length", metavar="LENGTH", help="tokens of a row: 128K, 1M, 1048576")
    parser.add_argument("--output", metavar="DIR", help="where the store is written, or goes on")
    parser.add_argument("--separator", metavar="TEXT", help="between documents (default: <s>)")
    parser.add_argument(
        "--separator-kind", metavar="KIND", help=f"what it is (default: text); one of {', '.join(KINDS)}"
    )
    parser.add_argument(
        "--text-column", metavar="NAME", help="of JSON lines, Parquet and datasets (default: text)"
    )
    parser.add_argument("--seed", type=int, help="of a recipe's mixture (default: 0)")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="threads that tokenize (default: one a core)"
    )
    parser.add_argument("--json", action="store_true", help="print what the store holds as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Makes the store and prints what it holds."""
    from ultralong_hf.data.packing import prepare_dataset
    from ultralong_hf.data.inspection import describe_store

    arguments = _recipe_arguments(args) if args.recipe else _plain_arguments(args)
    prepare_dataset(arguments.pop("sources"), **arguments)
    facts = describe_store(arguments["output_dir"])
    print(json.dumps(facts, indent=2) if args.json else _summary(facts))
    return 0


def _plain_arguments(args: argparse.Namespace) -> dict[str, Any]:
    needed = {"SOURCE": args.sources, "--tokenizer": args.tokenizer}
    needed |= {"--target-length": args.target_length, "--output": args.output}
    if missing := [name for name, value in needed.items() if not value]:
        raise InputError(f"{', '.join(missing)} missing: give them, or a recipe with --recipe.")
    optional = {"text_column": args.text_column, "seed": args.seed, "workers": args.workers}
    return {
        "sources": [{"path": source} for source in args.sources],
        "tokenizer": args.tokenizer,
        "target_length": args.target_length,
        "output_dir": args.output,
        "separator": _separator(args) or "<s>",
        **{name: value for name, value in optional.items() if value is not None},
    }


def _recipe_arguments(args: argparse.Namespace) -> dict[str, Any]:
    from ultralong_hf.lab.names import document_sources, model_location
    from ultralong_hf.recipes import load_recipe

    if args.sources:
        raise InputError(f"{args.sources[0]!r} and --recipe: sources come from one of them. Leave one out.")
    overrides = {
        key: getattr(args, name) for name, key in _FROM_RECIPE.items() if getattr(args, name) is not None
    }
    if (separator := _separator(args)) is not None:
        overrides["data.separator"] = separator
    recipe = load_recipe(args.recipe, overrides)
    data = recipe.data
    return {
        "sources": document_sources(recipe),
        "tokenizer": model_location(args.tokenizer or recipe.model.name_or_path),
        "target_length": data.target_length,
        "output_dir": data.output_dir,
        "separator": data.separator,
        "text_column": data.text_column,
        "mixture": data.mixture,
        "seed": data.seed,
        "workers": data.workers,
    }


def _separator(args: argparse.Namespace) -> dict[str, Any] | None:
    """None if the command line says nothing of it."""
    if args.separator is None and args.separator_kind is None:
        return None
    return {"kind": args.separator_kind or "text", "value": args.separator}


def _summary(facts: dict[str, Any]) -> str:
    documents, tokens = facts["documents"], facts["tokens"]
    return "\n".join(
        [
            f"{facts['path']}: {facts['rows']:,} rows of {facts['target_length']:,} tokens, "
            f"{facts['bytes']:,} bytes",
            f"documents: {documents['read']:,} read, {documents['used']:,} used, "
            f"{documents['dropped']:,} dropped",
            f"tokens: {tokens['read']:,} read = {tokens['packed']:,} packed + "
            f"{tokens['separators']:,} of separators + {tokens['dropped']:,} dropped",
        ]
    )
