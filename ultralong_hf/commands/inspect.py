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

CONFIG, TOKENIZER_CONFIG, MANIFEST = "config.json", "tokenizer_config.json", "manifest.json"
_MODEL_OPTIONS, _STORE_OPTIONS = ("target", "method", "png"), ("row", "tokenizer")


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the options; the same positional takes a model folder, a hub id or a token store."""
    parser.add_argument(
        "what",
        metavar="MODEL|STORE",
        help="model folder, hub id, or token store (a folder with manifest.json)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
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
    model.add_argument("--png", metavar="FILE", help="draw wavelengths and slow-downs into this file")
    store = parser.add_argument_group("of a token store")
    store.add_argument(
        "--row", type=int, metavar="N", help="one row: its documents, separators and first tokens"
    )
    store.add_argument("--tokenizer", metavar="PATH", help="tokenizer to show the row's text with")
    parser.epilog = "example: ultralong inspect meta-llama/Llama-3.1-8B-Instruct --target 1M --png rope.png"


def run(args: argparse.Namespace) -> int:
    """Prints; raises ModelError or StoreError for a path that holds neither, InputError for idle options."""
    folder = Path(args.what).expanduser()
    if (folder / MANIFEST).is_file():
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
    from ultralong_hf.data.store import describe_row, describe_store

    if args.row is None:
        _refuse(args, ("tokenizer",), "a whole store is shown without its text")
        facts = describe_store(folder)
    else:
        facts = describe_row(folder, args.row, tokenizer=args.tokenizer)
    print(json.dumps(facts, indent=2, default=str) if args.json else _fact_table(facts))
    return 0


def _fact_table(facts: dict[str, Any], indent: str = "") -> str:
    """Key and value a line; a dict inside, or a list of dicts, follows indented."""
    width = max((len(key) for key in facts), default=0)
    lines = []
    for key, value in facts.items():
        if isinstance(value, dict) and value:
            lines += [f"{indent}{key}", _fact_table(value, indent + "  ")]
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            lines.append(f"{indent}{key}")
            lines += [
                f"{indent}  " + ", ".join(f"{k} {_shown(v)}" for k, v in item.items()) for item in value
            ]
        else:
            lines.append(f"{indent}{key.ljust(width)}  {_shown(value)}")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower() if value is not None else "-"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
