"""Pieces of text, tokenized once each, and layouts that put them together in any order.

A piece begins where every tokenizer of words begins a new one: at a blank, or after a line end. So the ids of
a layout are those of its pieces, one after the other, and the time for a prompt of any length is that of
copying. Some tokenizers join across such places all the same; `PieceEncoder.agrees` looks for that.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np

from ultralong_hf.data.encoding.engines import Engine, open_engine
from ultralong_hf.data.tokenization import PlainTextEncoder
from ultralong_hf.errors import EvaluationError

# What a piece is tokenized behind, so that it is read as the middle of a text (some tokenizers begin a text
# with a blank): a stop where the piece begins with a blank, else a line end.
LINE_END, STOP = "\n", "."
# What a piece that ends with a blank line is tokenized before: GPT-2's pattern makes one token of two line
# ends at the end of a text, two of them before a letter.
BLANK_LINE, LETTER = "\n\n", "A"
_FEW_CHARACTERS, _LITTLE_CHARACTERS = 1 << 12, 1 << 20
"""Left to `tokenizers` are batches below the first, which are not worth another engine's threads, and all
texts up to the second, which take less time than to open it."""
_LOOK_TOKENS = 128
_RANDOM_LOOKS, _MOST_RARE = 2, 8


@dataclass(frozen=True, eq=False)
class Pieces:
    """Texts with their ids. `sound`: whether they are those that the text has behind another one."""

    texts: Sequence[str]
    ids: np.ndarray = field(repr=False)
    """int32 [sum of lengths], one piece after the other."""
    lengths: np.ndarray = field(repr=False)
    """int64 [pieces], tokens of each."""
    sound: np.ndarray = field(repr=False)
    """bool [pieces]."""

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def ends(self) -> np.ndarray:
        """int64 [pieces], the sum of lengths up to and with each."""
        return np.cumsum(self.lengths)

    @property
    def starts(self) -> np.ndarray:
        return self.ends - self.lengths

    @classmethod
    def join(cls, tables: Sequence[Pieces]) -> Pieces:
        """All pieces of the tables in one."""
        return cls(
            [text for table in tables for text in table.texts],
            *(
                np.concatenate([getattr(table, name) for table in tables])
                for name in ("ids", "lengths", "sound")
            ),
        )


@dataclass(frozen=True, eq=False)
class Layout:
    """Pieces of several tables in an order: a text, and its ids.

    order: int64 [n]; i is piece i of all tables, counted through one after the other.
    """

    tables: tuple[Pieces, ...]
    order: np.ndarray

    @cached_property
    def piece_lengths(self) -> np.ndarray:
        """int64 [n], tokens of each piece in order."""
        return np.concatenate([table.lengths for table in self.tables])[self.order]

    @property
    def tokens(self) -> int:
        return int(self.piece_lengths.sum())

    @property
    def sound(self) -> bool:
        """Whether each piece is."""
        return bool(np.concatenate([table.sound for table in self.tables])[self.order].all())

    def ids(self) -> np.ndarray:
        """int32 [tokens]."""
        places = np.cumsum(self.piece_lengths) - self.piece_lengths
        found = np.empty(self.tokens, dtype=np.int32)
        first = 0
        for table in self.tables:
            mine = np.flatnonzero((self.order >= first) & (self.order < first + len(table)))
            pieces = self.order[mine] - first
            lengths = table.lengths[pieces]
            source = _spread(table.starts[pieces], lengths)
            if len(mine) == len(self.order):
                return table.ids[source]
            found[_spread(places[mine], lengths)] = table.ids[source]
            first += len(table)
        return found

    def text(self) -> str:
        return "".join(self._texts())

    def part(self, start: int, stop: int) -> Layout:
        """The pieces from `start` to before `stop`."""
        part = Layout(self.tables, self.order[start:stop])
        part.__dict__["piece_lengths"] = self.piece_lengths[start:stop]
        return part

    def _texts(self) -> Iterator[str]:
        firsts = [0, *accumulate(map(len, self.tables))]
        for index in self.order.tolist():
            table = bisect_right(firsts, index) - 1
            yield self.tables[table].texts[index - firsts[table]]


def _spread(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Of each run its places: [2, 7] and [3, 2] give [2, 3, 4, 7, 8]."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))


class PieceEncoder:
    """Texts -> Pieces, by the fastest engine that is proven to give the tokenizer's own ids."""

    def __init__(self, tokenizer: Any, *, engine: str = "auto") -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise EvaluationError(
                f"{type(tokenizer).__name__} is not backed by the `tokenizers` library: "
                "load the fast (tokenizer.json) form of this tokenizer."
            )
        self._engine_name, self._seen = engine, 0
        self._plain = PlainTextEncoder(tokenizer)
        self._marks = {mark: self._ids(mark) for mark in (LINE_END, STOP)}
        self._letter = self._ids(LINE_END + LETTER)[len(self._marks[LINE_END]) :]

    @cached_property
    def engine(self) -> Engine:
        """For much text: opened when there is some."""
        return open_engine(self._plain, engine=self._engine_name)

    def encode(self, texts: Sequence[str]) -> Pieces:
        """Raises EngineMismatch: then none of the pieces made so far can be trusted."""
        marked = np.array([text.startswith(" ") for text in texts], dtype=bool)
        lettered = np.array([text.endswith(BLANK_LINE) for text in texts], dtype=bool)
        ids, lengths = self._encode_all(_between_others(texts, marked, lettered))
        starts = np.cumsum(lengths) - lengths
        before = np.where(marked, len(self._marks[STOP]), len(self._marks[LINE_END]))
        behind = np.where(lettered, len(self._letter), 0)
        sound = lengths >= before + behind
        sound[marked & sound] = _stand_at(ids, starts[marked & sound], self._marks[STOP])
        plain = ~marked & sound
        sound[plain] = _stand_at(ids, starts[plain], self._marks[LINE_END])
        ended = lettered & sound
        sound[ended] = _stand_at(ids, (starts + lengths - behind)[ended], self._letter)
        kept = np.maximum(lengths - before - behind, 0)
        return Pieces(list(texts), ids[_spread(starts + before, kept)], kept, sound)

    def _encode_all(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """(int32 ids of all texts, int64 tokens of each)."""
        characters = sum(map(len, texts))
        self._seen += characters
        if characters < _FEW_CHARACTERS or self._seen < _LITTLE_CHARACTERS:
            parts = self._plain.encode_short(texts)
            ids = np.concatenate([np.empty(0, np.int32), *parts]).astype(np.int32)
            return ids, np.array([len(part) for part in parts], dtype=np.int64)
        encoded = self.engine.encode(texts)
        return encoded.tokens.astype(np.int32), encoded.lengths.astype(np.int64)

    def whole(self, text: str) -> np.ndarray:
        """int32 ids of a text that stands between others, tokenized at once, not in pieces."""
        marked, lettered = text.startswith(" "), text.endswith(BLANK_LINE)
        [between] = _between_others([text], [marked], [lettered])
        ids, mark = self._ids(between), self._marks[STOP if marked else LINE_END]
        if not np.array_equal(ids[: len(mark)], mark):  # the mark is no token of its own here
            return self._ids(text)
        return ids[len(mark) : len(ids) - len(self._letter) if lettered else None]

    def _ids(self, text: str) -> np.ndarray:
        return self._plain.encode(text).astype(np.int32)

    def count(self, text: str) -> int:
        """Tokens of a short text behind another one."""
        return len(self.whole(text))

    def agrees(self, layout: Layout, rng: np.random.Generator) -> bool:
        """Whether pieces that stand together have the ids that the tokenizer gives their text as a whole.

        Looked at are both ends, what stands around the pieces of the last table where they are few (needles),
        and two places at random: some 128 tokens each.
        """
        if not layout.sound:
            return False
        last = len(layout.order)
        special = sum(map(len, layout.tables[:-1]))
        rare = np.flatnonzero(layout.order >= special).tolist()
        rare = rare if len(layout.tables) > 1 and len(rare) <= _MOST_RARE else []
        middles = {0, last - 1, *rare, *rng.integers(last, size=_RANDOM_LOOKS).tolist()}
        return all(self._agrees_around(layout, middle) for middle in sorted(middles))

    def _agrees_around(self, layout: Layout, middle: int) -> bool:
        lengths = layout.piece_lengths
        start, stop, tokens = middle, middle + 1, int(lengths[middle])
        while tokens < _LOOK_TOKENS and (start > 0 or stop < len(lengths)):
            if start > 0:
                start -= 1
                tokens += int(lengths[start])
            if stop < len(lengths):
                tokens += int(lengths[stop])
                stop += 1
        part = layout.part(start, stop)
        return bool(np.array_equal(self.whole(part.text()), part.ids()))


def _between_others(texts: Sequence[str], marked: Iterable[bool], lettered: Iterable[bool]) -> list[str]:
    """The texts with what stands for their neighbours."""
    return [
        f"{STOP if mark else LINE_END}{text}{LETTER if letter else ''}"
        for text, mark, letter in zip(texts, marked, lettered, strict=True)
    ]


def _stand_at(ids: np.ndarray, places: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """bool [places]: whether the tokens stand in `ids` from each place on."""
    return np.all(ids[places[:, None] + np.arange(len(tokens))] == tokens, axis=1)
