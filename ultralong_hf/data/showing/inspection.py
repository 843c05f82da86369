"""What a finished store holds, as facts for people and programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultralong_hf.data.store import TOKENIZER, Shard, load_packed, read_manifest
from ultralong_hf.data.storing.shards import read_segments
from ultralong_hf.data.tokenization import load_tokenizer
from ultralong_hf.errors import StoreError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PREVIEW_CHARACTERS = 80
"""Of each piece of a row in `describe_row`."""


def describe_store(path: str | Path) -> dict[str, Any]:
    """What a finished store holds: settings, counts of documents and tokens, rows, shards, bytes."""
    manifest = read_manifest(path)
    shards = manifest.pop("shards")
    return {
        "path": str(path),
        **manifest,
        "target_length": manifest["settings"]["target_length"],
        "separator": manifest["settings"]["separator"],
        "shards": len(shards),
        "bytes": sum(shard["bytes"] for shard in shards),
    }


def describe_row(
    path: str | Path, row: int, *, tokenizer: PreTrainedTokenizerBase | str | None = None
) -> dict[str, Any]:
    """The pieces of a row in order: offset, length, separator or document with name and span of its tokens.

    With a tokenizer, or one in the store, each piece has the begin of its text as `preview`.
    Raises StoreError if there is no such row.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    if not 0 <= row < manifest["rows"]:
        raise StoreError(f"{folder} has no row {row}: it has rows 0 to {manifest['rows'] - 1}.")
    shard = Shard(**manifest["shards"][row // manifest["settings"]["rows_per_shard"]])
    pieces = read_segments(folder / shard.segments, row)
    loaded = find_tokenizer(folder, tokenizer)
    if loaded is not None:
        _add_previews(pieces, load_packed(folder, verify=False)[row]["input_ids"], loaded)
    documents = {piece["document"] for piece in pieces if not piece["is_separator"]}
    return {"row": row, "shard": shard.file, "documents": len(documents), "pieces": pieces}


def find_tokenizer(
    folder: Path, tokenizer: PreTrainedTokenizerBase | str | None
) -> PreTrainedTokenizerBase | None:
    """The tokenizer that is given, else the one in the store, else None."""
    if tokenizer is None and (folder / TOKENIZER).is_dir():
        tokenizer = str(folder / TOKENIZER)
    return None if tokenizer is None else load_tokenizer(tokenizer)


def _add_previews(pieces: list[dict[str, Any]], tokens: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    for piece in pieces:
        stop = piece["offset"] + min(piece["length"], PREVIEW_CHARACTERS)
        text = tokenizer.decode(tokens[piece["offset"] : stop].tolist(), clean_up_tokenization_spaces=False)
        piece["preview"] = text[:PREVIEW_CHARACTERS]
