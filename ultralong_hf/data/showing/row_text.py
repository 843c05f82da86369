"""A row of a store as text to be read: separators are marked, long documents shortened."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase

MARK = "\u27e6{}\u27e7"
"""Around what is no text of a document: separators, and what was left out."""
TOKENS_PER_END = 60
"""Shown of the begin and of the end of a long document."""


def row_text(
    pieces: Iterable[Mapping[str, Any]],
    tokens: np.ndarray,
    tokenizer: PreTrainedTokenizerBase,
    *,
    tokens_per_end: int | None = TOKENS_PER_END,
) -> Iterator[str]:
    """Lines: a heading for each piece of the row, and its text.

    `pieces`: of `describe_row`; `tokens`: ids [target_length]. Of a document longer than twice
    `tokens_per_end` its begin and end are shown; None: all of it.
    """
    for piece in pieces:
        start, stop = piece["offset"], piece["offset"] + piece["length"]
        if piece["is_separator"]:
            yield MARK.format(f"separator {_decode(tokens[start:stop], tokenizer)!r}, token {start:,}")
            continue
        first, last = piece["tokens"]
        yield MARK.format(f"{piece['name']}, its tokens {first:,} to {last:,}, from token {start:,}")
        if tokens_per_end is None or piece["length"] <= 2 * tokens_per_end:
            yield _decode(tokens[start:stop], tokenizer)
            continue
        yield _decode(tokens[start : start + tokens_per_end], tokenizer)
        yield MARK.format(f"{piece['length'] - 2 * tokens_per_end:,} tokens not shown")
        yield _decode(tokens[stop - tokens_per_end : stop], tokenizer)


def _decode(tokens: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> str:
    text = tokenizer.decode(tokens.tolist(), clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text
