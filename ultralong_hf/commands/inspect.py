"""`ultralong inspect`: a model's RoPE as it is, stretched, and as others read it; a token store; a row."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultralong_hf.errors import InputError, ModelError, StoreError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from ultralong_hf.rope.readers import Comparison

CONFIG, TOKENIZER_CONFIG = "config.json", "tokenizer_config.json"
MANIFEST, PROGRESS = "manifest.json", "progress.json"  # of a finished store, and of one in the making
_MODEL_OPTIONS, _STORE_OPTIONS = ("target", "method"), ("row", "tokenizer", "full")


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the options; the same positional takes a model folder, a hub id or a token store."""
    parser.add_argument(
        "what",
        metavar="MODEL|STORE",
        help="model folder, hub id, or token store (a folder with manifest.json)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument(
        "--png",
        metavar="FILE",
        help="draw: of a model wavelengths and slow-downs; of a store its tokens by document length; of a "
        "row which token sees which",
    )
    model = parser.add_argument_group("of a model")
    model.add_argument(
        "--target",
        metavar="LENGTH",
        help="also what each method would make of it for this length, such as 1M",
    )
    model.add_argument(
        "--method",
        action="append",
        metavar="NAME",
        help="only this method: yarn, llama3, ntk or linear (repeat)",
    )
    store = parser.add_argument_group("of a token store")
    store.add_argument(
        "--row", type=int, metavar="N", help="one row: its documents and separators, and its text"
    )
    store.add_argument("--tokenizer", metavar="PATH", help="tokenizer to show the row's text with")
    store.add_argument(
        "--full", action="store_true", default=None, help="all of the row's text, not the ends of documents"
    )
    parser.epilog = "example: ultralong inspect meta-llama/Llama-3.1-8B-Instruct --target 1M --png rope.png"


def run(args: argparse.Namespace) -> int:
    """Prints; raises ModelError or StoreError for a path that holds neither, InputError for idle options."""
    folder = Path(args.what).expanduser()
    if (folder / MANIFEST).is_file() or (folder / PROGRESS).is_file():
        _refuse(args, _MODEL_OPTIONS, f"{folder} is a token store")
        return _inspect_store(args, folder)
    if folder.is_dir() and not (folder / CONFIG).is_file():
        raise ModelError(
            f"{folder} is neither a model folder nor a token store: it has no {CONFIG} and no {MANIFEST}."
        )
    if args.row is not None and folder.is_dir():
        raise StoreError(f"{folder} is no token store: it has no {MANIFEST}, so it has no row {args.row}.")
    _refuse(args, _STORE_OPTIONS, f"{args.what} is a model")
    return _inspect_model(args)


def _refuse(args: argparse.Namespace, options: tuple[str, ...], reason: str) -> None:
    idle = [f"--{option}" for option in options if getattr(args, option) is not None]
    if idle:
        raise InputError(f"{reason}: {', '.join(idle)} would have no effect. Leave it out.")


def _inspect_model(args: argparse.Namespace) -> int:
    from ultralong_hf.rope.describe import COMPARED_METHODS, describe_rope, load_config
    from ultralong_hf.rope.tables import readers_table

    if args.method and args.target is None:
        raise InputError(
            "--method says how to reach a longer window: give its length too, as in --target 1M."
        )
    name, config = load_config(args.what)
    config.name_or_path = name
    methods = tuple(dict.fromkeys(args.method)) if args.method else COMPARED_METHODS
    description = describe_rope(config, args.target, methods=methods)
    comparisons = _readers(args.what, config)
    png = None if args.png is None else str(description.plot(args.png))
    if args.json:
        readers = [comparison.to_dict() for comparison in comparisons]
        print(json.dumps({**description.to_dict(), "readers": readers, "png": png}, indent=2))
        return 0
    print(description.table())
    print(f"\nas others read its config.json\n{readers_table(comparisons)}")
    if png is not None:
        print(f"\ndrawn: {png}")
    return 0


def _readers(model: str, config: PretrainedConfig) -> list[Comparison]:
    """Every reader's view of the files as they are written, not as transformers 5 has completed them."""
    from ultralong_hf.rope.folder import find_model, read_json
    from ultralong_hf.rope.readers import compare_readers, with_class_defaults

    folder = find_model(model, with_weights=False)
    written = with_class_defaults(read_json(folder / CONFIG), config.to_dict())
    tokenizer = folder / TOKENIZER_CONFIG
    return compare_readers(written, tokenizer_config=read_json(tokenizer) if tokenizer.is_file() else None)


def _inspect_store(args: argparse.Namespace, folder: Path) -> int:
    from ultralong_hf.data.showing.inspection import describe_store
    from ultralong_hf.data.showing.pictures import draw_composition

    if args.row is not None:
        return _inspect_row(args, folder)
    _refuse(args, ("tokenizer", "full"), "a whole store is shown without its text")
    facts = describe_store(folder)
    png = None if args.png is None else str(draw_composition(facts, Path(args.png)))
    if args.json:
        print(json.dumps({**facts, "png": png}, indent=2))
        return 0
    print(f"{_fact_lines(_flat(facts))}\n\n{_composition_table(facts['composition'])}")
    if png is not None:
        print(f"\ndrawn: {png}")
    return 0


def _inspect_row(args: argparse.Namespace, folder: Path) -> int:
    from ultralong_hf.data.separators import parse_separator
    from ultralong_hf.data.showing.inspection import describe_row
    from ultralong_hf.data.showing.pictures import draw_row
    from ultralong_hf.data.store import read_manifest

    facts = describe_row(folder, args.row, tokenizer=args.tokenizer)
    separator = read_manifest(folder)["settings"]["separator"]
    masks = parse_separator({key: separator[key] for key in ("kind", "value")}).masks_documents
    png = None if args.png is None else str(draw_row(facts, Path(args.png), mask_documents=masks))
    if args.json:
        print(json.dumps({**facts, "png": png}, indent=2))
        return 0
    pieces = facts.pop("pieces")
    print(f"{_fact_lines(facts)}\n\n{_piece_table(pieces)}\n")
    _print_text(args, folder, pieces)
    if png is not None:
        print(f"\ndrawn: {png}")
    return 0


def _print_text(args: argparse.Namespace, folder: Path, pieces: list[dict[str, Any]]) -> None:
    from ultralong_hf.data.showing.inspection import find_tokenizer
    from ultralong_hf.data.showing.row_text import TOKENS_PER_END, row_text
    from ultralong_hf.data.store import load_packed

    tokenizer = find_tokenizer(folder, args.tokenizer)
    if tokenizer is None:
        print("Its text is shown with --tokenizer.")
        return
    tokens = load_packed(folder, verify=False)[args.row]["input_ids"]
    for line in row_text(pieces, tokens, tokenizer, tokens_per_end=None if args.full else TOKENS_PER_END):
        print(line)


def _composition_table(composition: dict[str, Any]) -> str:
    """Documents and tokens by source and document length, as read and as taken by the mixture."""
    from ultralong_hf.lengths import format_length
    from ultralong_hf.rope.tables import aligned

    edges = composition["edges"]
    ends = [*(f"< {format_length(edge)}" for edge in edges[1:]), f">= {format_length(edges[-1])}"]
    rows = [["source", "tokens each", "documents", "tokens", "taken: documents", "tokens", "% of tokens"]]
    whole = sum(sum(source["after"]["tokens"]) for source in composition["sources"])
    for source in composition["sources"]:
        columns = [source[when][what] for when in ("before", "after") for what in ("documents", "tokens")]
        lines = [(end, *values) for end, *values in zip(ends, *columns, strict=True) if any(values)]
        for end, *values in [*lines, ("all", *map(sum, columns))]:
            share = f"{values[-1] / whole:.1%}" if whole else "-"
            rows.append([source["label"], end, *(f"{value:,}" for value in values), share])
    return aligned(rows, left=1)


def _flat(facts: dict[str, Any]) -> dict[str, Any]:
    """A store's facts with its settings among them, less what only a program wants to know."""
    hidden = ("settings", "format", "versions", "composition", "records", "engine", "notices", "filters")
    composition = facts["composition"]
    shown = {key: composition[key] for key in ("repeats", "documents_per_row", "separators_per_row")}
    shown |= {"engine": f"{facts['engine']['name']} {facts['engine']['version']}"}
    for source in facts["records"]:
        if source["bad"] or source["empty"]:
            shown[f"left out of {source['label']}"] = {**source["bad"], "empty": source["empty"]}
    if facts["filters"]:
        shown["removed by filters"] = facts["filters"]
    settings = {k: v for k, v in facts["settings"].items() if k not in ("sources", "labels", "shares")}
    return {k: v for k, v in {**facts, **settings, **shown}.items() if k not in hidden}


def _fact_lines(facts: dict[str, Any]) -> str:
    width = max(map(len, facts))
    return "\n".join(f"{key.ljust(width)}  {_shown(value)}" for key, value in facts.items())


def _piece_table(pieces: list[dict[str, Any]]) -> str:
    from ultralong_hf.rope.tables import aligned

    columns = list(pieces[0])
    return aligned(
        [columns, *([_shown(piece[key]) for key in columns] for piece in pieces)], left=len(columns)
    )


def _shown(value: Any) -> str:
    """One line: numbers with separators, line breaks in texts written out, nothing as "-"."""
    if value is None or isinstance(value, bool):
        return {None: "-", True: "yes", False: "no"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(inner)}" for key, inner in value.items())
    text = str(value)
    return text if text.isprintable() else repr(text)
