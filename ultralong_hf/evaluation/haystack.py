"""The text that needles hide in: read, tokenized once, and cut to any number of tokens."""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ultralong_hf.errors import EvaluationError

# Documents are tokenized in pieces of about this many characters, so that offsets never fill the memory.
PIECE_CHARACTERS = 65_536
PIECES_A_CALL = 8
# Lines above this many characters are broken at sentence ends too: nobody's depth should be off by a page.
LONG_LINE = 240
LINE_START = re.compile(r"\n+")
SENTENCE_START = re.compile(r"[.!?][\"')\]]*[ \t]+(?=[\"'(\[]?[A-Z0-9])|[。！？]")


class Break(IntEnum):
    """What stands around a break, and so what a needle there needs around it."""

    LINE_START = 0
    """A line has just ended: the needle brings its own line end."""
    SENTENCE = 1
    """Within a line."""
    LINE_END = 2
    """Before a line end that the tokenizer merged with the next line's indentation."""


@dataclass(frozen=True, eq=False)
class Haystack:
    """Tokens of real text, read as a ring: a window longer than the text goes round again.

    ids: int32 [T].
    breaks: int64 [K], ascending, the tokens at which a line or a sentence begins; the first is 0.
    kinds: int8 [K], the Break of each.
    """

    ids: np.ndarray
    breaks: np.ndarray
    kinds: np.ndarray

    @property
    def digest(self) -> str:
        """SHA-256 of the token ids: tells texts and tokenizers apart."""
        return hashlib.sha256(np.ascontiguousarray(self.ids, dtype="<i4").tobytes()).hexdigest()

    def window(self, end: int, tokens: int) -> np.ndarray:
        """The `tokens` ids before position `end` (exclusive), going round the ring as often as needed."""
        start = end - tokens
        if start >= 0 and end <= len(self.ids):
            return self.ids[start:end]
        return self.ids.take(np.arange(start, end), mode="wrap")

    def next_break(self, position: int) -> tuple[int, Break]:
        """(first break at `position` or after it, its kind); both count on round the ring."""
        turn, inside = divmod(position, len(self.ids))
        index = bisect_left(self.breaks, inside)
        if index == len(self.breaks):  # the end of the ring is its start
            return (turn + 1) * len(self.ids), Break(self.kinds[0])
        return turn * len(self.ids) + int(self.breaks[index]), Break(self.kinds[index])

    def previous_break(self, position: int) -> tuple[int, Break]:
        """(last break at `position` or before it, its kind); both count on round the ring."""
        turn, inside = divmod(position, len(self.ids))
        index = bisect_right(self.breaks, inside) - 1
        return turn * len(self.ids) + int(self.breaks[index]), Break(self.kinds[index])

    def nearest_break(self, position: int) -> tuple[int, Break]:
        """(break nearest to `position`, its kind); both count on round the ring."""
        after, before = self.next_break(position), self.previous_break(position)
        return before if position - before[0] <= after[0] - position else after


def build_haystack(documents: Iterable[str], tokenizer: Any, tokens: int) -> Haystack:
    """Tokenizes documents in order until `tokens` are reached, or the documents end.

    Special-token literals in a document are tokenized as plain text. Raises EvaluationError when there is no
    text, or the tokenizer cannot tell where its tokens lie in the text.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise EvaluationError(
            f"{type(tokenizer).__name__} does not tell where its tokens lie in the text: "
            "load the fast (tokenizer.json) form of this tokenizer."
        )
    ids: list[np.ndarray] = []
    breaks: list[np.ndarray] = []
    kinds: list[np.ndarray] = []
    total = 0
    pieces = (piece for document in documents if document.strip() for piece in _pieces(document))
    while total < tokens and (batch := list(islice(pieces, PIECES_A_CALL))):
        encoded = tokenizer(
            batch,
            add_special_tokens=False,
            split_special_tokens=True,
            return_offsets_mapping=True,
            return_attention_mask=False,
            verbose=False,
        )
        for text, piece_ids, offsets in zip(
            batch, encoded["input_ids"], encoded["offset_mapping"], strict=True
        ):
            at, kind = _breaks(text, np.asarray(offsets, dtype=np.int64).reshape(-1, 2)[:, 0])
            ids.append(np.asarray(piece_ids, dtype=np.int32))
            breaks.append(at + total)
            kinds.append(kind)
            total += len(piece_ids)
    if not total:
        raise EvaluationError("The haystack holds no text: give text files, or documents that are not empty.")
    return Haystack(np.concatenate(ids), np.concatenate(breaks), np.concatenate(kinds))


def read_texts(path: str | Path) -> Iterator[str]:
    """The UTF-8 texts of a file, or of every such file under a folder in the order of their names.

    In a folder, files that are no UTF-8 text are passed over. Raises EvaluationError for a missing path, a
    single file that is no text, and a folder without any.
    """
    path = Path(path)
    if path.is_file():
        text = _text_of(path)
        if text is None:
            raise EvaluationError(f"{path} is no UTF-8 text: the haystack is made of text files.")
        yield text
        return
    if not path.is_dir():
        raise EvaluationError(f"{path} does not exist: the haystack is a text file or a folder of them.")
    texts = (_text_of(file) for file in sorted(path.rglob("*")) if file.is_file())
    found = False
    for text in texts:
        if text is not None:
            found = True
            yield text
    if not found:
        raise EvaluationError(f"{path} holds no UTF-8 text file: the haystack is made of text files.")


def _text_of(file: Path) -> str | None:
    try:
        text = file.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return None
    return None if "\0" in text or not text.strip() else text


def _pieces(document: str) -> Iterator[str]:
    """The document in pieces that end with a line where one ends; the last always ends with a newline."""
    if not document.endswith("\n"):
        document += "\n"
    start = 0
    while start < len(document):
        end = start + PIECE_CHARACTERS
        if end < len(document):
            end = document.rfind("\n", start, end) + 1 or end
        yield document[start:end]
        start = end


def _breaks(text: str, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of one piece at which a line or a sentence begins; `starts` are the tokens' first characters.

    A token that begins before the break, except with blanks, is cut by no one: such a break is left out.
    """
    found: dict[int, Break] = {0: Break.LINE_START}
    lines = [0, *(match.end() for match in LINE_START.finditer(text)), len(text)]
    for line, following in pairwise(lines):
        candidates = [(line, Break.LINE_START)]
        if following - line > LONG_LINE:
            candidates += [
                (match.end(), Break.SENTENCE) for match in SENTENCE_START.finditer(text, line, following)
            ]
        for character, kind in candidates:
            token = int(np.searchsorted(starts, character, side="right")) - 1
            if token > 0 and character < len(text):
                skipped = text[starts[token] : character]
                if not skipped.strip():
                    found.setdefault(token, Break.LINE_END if "\n" in skipped else kind)
    at = sorted(found)
    return np.array(at, dtype=np.int64), np.array([found[token] for token in at], dtype=np.int8)
