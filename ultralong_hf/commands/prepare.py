"""`ultralong prepare`: documents -> token store: rows of the target length; with --stage sft a blend."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ultralong_hf.commands import prepare_preference, prepare_sft
from ultralong_hf.errors import InputError

_EPILOG = """example: pack a folder of books and a file of articles into rows of 1M tokens, joined by <s>

  ultralong prepare books/ articles.jsonl.gz --tokenizer meta-llama/Llama-3.1-8B-Instruct \\
      --target-length 1M --output store-1m --order shuffled --token-budget 1B

A SOURCE is a file, a folder, a glob in quotes or a Hub dataset: JSON lines, Parquet or text, plain, .gz,
.zst or .bz2; a text file is one document. Mixture, filters and shares of sources are set in a recipe. Work
that was interrupted goes on when the same command is given again.

On many machines, each makes a part, and one joins them; the store is the same as from one machine:

  ultralong prepare --recipe my.yaml --shard 0/8 --output parts/0     (to 7/8, parts/7)
  ultralong prepare --merge store-1m parts/*

With --stage sft, conversations become the blend of the second stage:

  ultralong prepare --stage sft --recipe ultralong-1m --output blend --data copies/
  ultralong prepare --stage sft chats.jsonl --tokenizer meta-llama/Llama-3.1-8B-Instruct --output blend

With --stage preference, facts are hidden in documents: pairs of a grounded answer and a wrong one.

  ultralong prepare --stage preference books/ --tokenizer meta-llama/Llama-3.1-8B-Instruct \\
      --lengths 2K 16K 128K --pairs 3000 --output pairs
"""
_FROM_RECIPE = {
    "target_length": "data.target_length",
    "output": "data.output_dir",
    "text_column": "data.text_column",
    "order": "data.order",
    "keep_tail": "data.keep_tail",
    "min_length": "data.min_document_length",
    "token_budget": "data.token_budget",
    "epochs": "data.epochs",
    "on_error": "data.on_error",
    "max_bad_share": "data.max_bad_share",
    "engine": "data.engine",
    "seed": "data.seed",
    "workers": "data.workers",
}
"""Options that override a recipe's key; the end of the key is an argument of `prepare_dataset`."""


def configure(parser: argparse.ArgumentParser) -> None:
    """The options of `ultralong prepare`."""
    parser.epilog = _EPILOG
    parser.add_argument("sources", nargs="*", metavar="SOURCE", help="file, folder, glob or Hub dataset")
    parser.add_argument(
        "--stage",
        choices=("cpt", "sft", "preference"),
        default="cpt",
        help="cpt: documents become rows (default); sft: conversations become a blend; preference: documents "
        "become pairs of a grounded answer and a wrong one",
    )
    parser.add_argument(
        "--recipe", metavar="NAME_OR_FILE", help="take sources and settings from its data section"
    )
    parser.add_argument(
        "--tokenizer", metavar="MODEL", help="folder or Hub id; with --recipe: that of its model"
    )
    parser.add_argument("--target-length", metavar="LENGTH", help="tokens of a row: 128K, 1M, 1048576")
    parser.add_argument("--output", metavar="DIR", help="where the store, or the part, is written or goes on")
    parser.add_argument("--json", action="store_true", help="print what the store holds as one JSON object")
    _add_documents(parser.add_argument_group("documents"))
    prepare_sft.configure(parser.add_argument_group("conversations (--stage sft)"))
    prepare_preference.configure(parser.add_argument_group("pairs (--stage preference)"))
    _add_rows(parser.add_argument_group("rows"))
    work = parser.add_argument_group("work")
    work.add_argument(
        "--engine",
        choices=("auto", "gigatoken", "tokenizers"),
        help="what tokenizes (default: auto: gigatoken where it gives the tokenizer's own ids)",
    )
    work.add_argument("--workers", type=int, metavar="N", help="cores that tokenize (default: all)")
    work.add_argument(
        "--dry-run", action="store_true", help="tell counts and disk need from a sample, and write nothing"
    )
    work.add_argument("--shard", metavar="I/N", help="make only this part, I from 0 to N - 1, in --output")
    work.add_argument("--merge", nargs="+", metavar=("OUT", "PART"), help="join all parts into the store OUT")


def _add_documents(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--text-column", metavar="NAME", help="of JSON lines, Parquet and datasets (default: text)"
    )
    group.add_argument(
        "--on-error",
        choices=("skip", "stop"),
        help="at a record that is no document: leave it out and report it (default), or stop",
    )
    group.add_argument(
        "--max-bad-share",
        type=float,
        metavar="SHARE",
        help="of a source's records; with more bad ones the run stops (default: 0.05)",
    )
    group.add_argument("--min-length", type=int, metavar="TOKENS", help="leave out shorter documents")
    group.add_argument("--token-budget", metavar="TOKENS", help="of documents in the store: 500M, 1B")
    group.add_argument("--epochs", type=float, metavar="N", help="how often documents are taken (default: 1)")


def _add_rows(group: argparse._ArgumentGroup) -> None:
    from ultralong_hf.data.separators import KINDS

    group.add_argument("--separator", metavar="TEXT", help="between documents (default: <s>)")
    group.add_argument(
        "--separator-kind", metavar="KIND", help=f"what it is (default: text); one of {', '.join(KINDS)}"
    )
    group.add_argument(
        "--order",
        choices=("source", "shuffled", "related"),
        help="of documents: as they come (default), at random, or similar ones next to each other",
    )
    group.add_argument(
        "--drop-tails",
        action="store_const",
        const=False,
        dest="keep_tail",
        help="drop what a row's end cuts off a document, instead of beginning the next row with it",
    )
    group.add_argument("--seed", type=int, help="of mixture and order (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Makes the store, or a part of one, and prints what it holds."""
    from ultralong_hf.data.showing.inspection import describe_store

    if args.stage == "preference":
        return prepare_preference.run(args)
    prepare_preference.refuse_for_others(args)
    if args.stage == "sft":
        return prepare_sft.run(args)
    prepare_sft.refuse_for_documents(args)
    if args.merge:
        output = _merge(args)
    else:
        arguments = _recipe_arguments(args) if args.recipe else _plain_arguments(args)
        output = arguments["output_dir"]
        if args.dry_run:
            return _estimate(args, arguments)
        if args.shard is not None:
            return _make_part(args, arguments)
        from ultralong_hf.data.packing import prepare_dataset

        prepare_dataset(arguments.pop("sources"), **arguments)
    facts = describe_store(output)
    print(json.dumps(facts, indent=2) if args.json else _summary(facts))
    return 0


def _estimate(args: argparse.Namespace, arguments: dict[str, Any]) -> int:
    from ultralong_hf.data.showing.estimate import estimate_store
    from ultralong_hf.data.storing.job import open_job

    output = arguments.pop("output_dir")
    facts = estimate_store(open_job(arguments.pop("sources"), **arguments), output)
    print(json.dumps(facts, indent=2) if args.json else _estimate_lines(facts))
    return 0


def _estimate_lines(facts: dict[str, Any]) -> str:
    about = "about " if facts["is_estimate"] else ""
    basis = "estimated from a sample" if facts["is_estimate"] else "counted, the sample holds all documents"
    lines = [f"{basis}; nothing was written"]
    for source in facts["sources"]:
        sampled, bad = source["sampled"], sum(source["bad"].values())
        lines.append(
            f"{source['label']}: {about}{source['documents']:,} documents, {source['tokens']:,} tokens "
            f"(sampled: {sampled['documents']:,}, {sampled['tokens']:,} tokens, {bad:,} bad records)"
        )
    lines += [
        f"store: {about}{facts['rows']:,} rows of {facts['settings']['target_length']:,} tokens",
        *_account_lines(facts),
        f"disk: {about}{facts['bytes']:,} bytes for the store, {facts['disk_needed_bytes']:,} while it is "
        f"made; {facts['disk_free_bytes']:,} are free",
        *(f"notice: {notice}" for notice in [*facts["engine"]["notices"], *facts["notices"]]),
    ]
    if facts["disk_needed_bytes"] > facts["disk_free_bytes"]:
        lines.append("notice: the disk has too little room for this.")
    return "\n".join(lines)


def _merge(args: argparse.Namespace) -> str:
    from ultralong_hf.data.storing.parts import merge_parts

    allowed = {"merge", "json", "command", "run", "stage"}
    if idle := [
        name for name, value in vars(args).items() if name not in allowed and value not in (None, [], False)
    ]:
        names = ", ".join("SOURCE" if name == "sources" else f"--{name.replace('_', '-')}" for name in idle)
        raise InputError(f"--merge takes its settings from the parts: {names} would have no effect.")
    output, *parts = args.merge
    if not parts:
        raise InputError("--merge needs the store to be written and then the parts: --merge OUT PART...")
    merge_parts(output, parts)
    return str(output)


def _make_part(args: argparse.Namespace, arguments: dict[str, Any]) -> int:
    from ultralong_hf.data.storing.parts import prepare_part

    if args.output is None:
        raise InputError("--shard needs --output: a folder for this part alone.")
    facts = prepare_part(arguments.pop("sources"), part=args.shard, **arguments)
    told = {key: facts[key] for key in ("part", "documents", "tokens", "records", "engine")}
    told = {"path": args.output, **told}
    index, count = told["part"]
    lines = [
        f"{args.output}: part {index}/{count}: {told['documents']:,} documents, {told['tokens']:,} tokens",
        *_record_lines(told),
    ]
    print(json.dumps(told, indent=2) if args.json else "\n".join(lines))
    return 0


def _plain_arguments(args: argparse.Namespace) -> dict[str, Any]:
    needed = {"SOURCE": args.sources, "--tokenizer": args.tokenizer}
    needed |= {"--target-length": args.target_length, "--output": args.output}
    if missing := [name for name, value in needed.items() if not value]:
        raise InputError(f"{', '.join(missing)} missing: give them, or a recipe with --recipe.")
    given = {key.removeprefix("data."): getattr(args, name) for name, key in _FROM_RECIPE.items()}
    return {
        "sources": [{"path": source} for source in args.sources],
        "tokenizer": args.tokenizer,
        "separator": _separator(args) or "<s>",
        **{name: value for name, value in given.items() if value is not None},
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
    return {
        "sources": document_sources(recipe),
        "tokenizer": model_location(args.tokenizer or recipe.model.name_or_path),
        **recipe.data.prepare_options(),
    }


def _separator(args: argparse.Namespace) -> dict[str, Any] | None:
    """None if the command line says nothing of it."""
    if args.separator is None and args.separator_kind is None:
        return None
    return {"kind": args.separator_kind or "text", "value": args.separator}


def _summary(facts: dict[str, Any]) -> str:
    return "\n".join(
        [
            f"{facts['path']}: {facts['rows']:,} rows of {facts['target_length']:,} tokens, "
            f"{facts['bytes']:,} bytes",
            *_account_lines(facts),
            *_record_lines(facts),
            *(f"notice: {notice}" for notice in facts["notices"]),
        ]
    )


def _account_lines(facts: dict[str, Any]) -> list[str]:
    documents, tokens = facts["documents"], facts["tokens"]
    return [
        f"documents: {documents['read']:,} read, {documents['used']:,} used, "
        f"{documents['dropped']:,} dropped, {documents['repeats']:,} repeats",
        f"tokens: {tokens['read']:,} read = {tokens['packed']:,} packed + "
        f"{tokens['separators']:,} of separators + {tokens['dropped']:,} dropped",
    ]


def _record_lines(facts: dict[str, Any]) -> list[str]:
    """What tokenized them, and the sources with bad records."""
    engine = facts["engine"]
    lines = [f"engine: {engine['name']} {engine['version']}"]
    lines += [f"notice: {notice}" for notice in engine["notices"]]
    for source in facts["records"]:
        if source["bad"]:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in source["bad"].items())
            lines.append(f"bad records of {source['label']}, left out: {reasons}")
    return lines
