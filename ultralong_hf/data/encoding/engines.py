"""Batches of texts -> token ids as one flat array, by the fastest engine that gives the tokenizer's own ids.

gigatoken makes some 50 M tokens a second on a core, `tokenizers` 1 M (documentation of Linux, Perl and
Python, a byte-level BPE of 128K tokens); but it knows some kinds of tokenizers only, and takes others for
what they are not. So it is compared with the tokenizer at the start and throughout: see `engine_checks`.

Both work on threads. `tokenizers` gave 2.0 M tokens a second on 2 threads, 1.4 M on 2 processes.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ultralong_hf.data.encoding.engine_checks import IdChecker, probe_texts
from ultralong_hf.data.encoding.new_marks import may_hold_new_marks
from ultralong_hf.data.threads import cores, map_ahead
from ultralong_hf.data.tokenization import WINDOW_CHARACTERS, PlainTextEncoder, split_tokenizer_json
from ultralong_hf.errors import EngineMismatch, InputError, MachineError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["ENGINES", "EncodedBatch", "Engine", "EngineMismatch", "open_engine"]

ENGINES = ("auto", "gigatoken", "tokenizers")

_FIRST_TEXTS, _FIRST_CHARACTERS = 64, 1 << 12
_LEAST_SPAN = 1 << 20
_CACHE_BYTES = 512 * 1024**2
_CACHE_CHARACTERS = 64 * 10**6


class EncodedBatch(NamedTuple):
    """Ids of several texts, one after the other."""

    tokens: np.ndarray
    """Ids of all texts, [sum of lengths], uint16 or uint32."""
    lengths: np.ndarray
    """Tokens of each text, int64 [texts]."""


class Engine:
    """Texts -> ids, each text as `PlainTextEncoder` encodes it, on threads of its own.

    `name` and `version` say which library does it, `dtype` is that of the ids, and `notices` are sentences
    for the user about how it was chosen. One thread at a time may call it.
    """

    name: str

    def __init__(self, encoder: PlainTextEncoder, workers: int | None) -> None:
        self.version: str = importlib.metadata.version(self.name)
        self.dtype: np.dtype[Any] = encoder.dtype
        self.notices: list[str] = []
        self._encoder = encoder
        self._workers = workers or cores()
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="tokenize")

    def encode(self, texts: list[str]) -> EncodedBatch:
        """Ids of the texts, in order. Best given 8 MB or more at once; other threads run on meanwhile.

        Raises EngineMismatch if a text that was compared has other ids than the tokenizer gives it: then none
        of this engine's ids can be trusted.
        """
        parts = self.start(texts)()
        tokens = np.concatenate([np.empty(0, self.dtype), *(part.tokens for part in parts)])
        lengths = np.concatenate([np.empty(0, np.int64), *(part.lengths for part in parts)])
        return EncodedBatch(tokens, lengths)

    def start(self, texts: list[str]) -> Callable[[], list[EncodedBatch]]:
        """Begins to encode the texts; what `encode` gives or raises comes from the function it returns.

        It comes in parts of some texts each, in order, so that nothing is copied to join them. With a batch
        or two begun ahead no core waits for the last of a batch. Ask for them in their order.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Ends its threads. It cannot be used afterwards."""
        self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class TokenizersEngine(Engine):
    """The tokenizer's own library; a long text is shared among the threads in windows."""

    name = "tokenizers"

    def start(self, texts: list[str]) -> Callable[[], list[EncodedBatch]]:
        spans = list(_spans(texts, WINDOW_CHARACTERS))
        tasks = [
            None if len(span[0]) > WINDOW_CHARACTERS else self._pool.submit(self._encode_span, span)
            for span in spans
        ]
        return lambda: [
            task.result() if task else self._encode_long(span[0])
            for span, task in zip(spans, tasks, strict=True)
        ]

    def _encode_span(self, texts: list[str]) -> EncodedBatch:
        return _joined([self._encoder.encode(text) for text in texts])

    def _encode_long(self, text: str) -> EncodedBatch:
        return _joined(
            [self._encoder.encode(text, run=partial(map_ahead, self._pool, ahead=2 * self._workers))]
        )


class GigatokenEngine(Engine):
    """gigatoken, compared with the tokenizer at the start, on its first texts and on a sample throughout."""

    name = "gigatoken"

    def __init__(self, encoder: PlainTextEncoder, workers: int | None, seed: int) -> None:
        try:
            import gigatoken  # noqa: F401 -- whether it is there
        except ImportError as error:
            raise MachineError(f"gigatoken cannot be imported ({error}): pip install gigatoken.") from error
        super().__init__(encoder, workers)
        self._checker = IdChecker(self._encoder, engine=f"{self.name} {self.version}", seed=seed)
        self._json, self._reorders_marks = _without_special_tokens(self._encoder.json)
        self._begin()
        self._first_texts = _FIRST_TEXTS
        added = encoder.tokenizer.added_tokens_decoder.values()
        probes = probe_texts([token.content for token in added], seed)
        ids = [ids for _, ids in _pairs(probes, self._encode_span(probes))]
        self._checker.compare_short(probes, ids)

    def start(self, texts: list[str]) -> Callable[[], list[EncodedBatch]]:
        characters = sum(map(len, texts))
        self._bound_memory(characters)
        spans = list(_spans(texts, max(_LEAST_SPAN, characters // (2 * self._workers))))
        tasks = [self._pool.submit(self._encode_checked, span) for span in spans]

        def finish() -> list[EncodedBatch]:
            parts = [task.result() for task in tasks]
            for span, part in zip(spans, parts, strict=True):
                self._check_first(span, part)
            return parts

        return finish

    def _encode_checked(self, texts: list[str]) -> EncodedBatch:
        part = self._encode_span(texts)
        self._checker.sample(texts, part.tokens, part.lengths)
        return part

    def _encode_span(self, texts: list[str]) -> EncodedBatch:
        own = [index for index, text in enumerate(texts) if self._reorders_marks and may_hold_new_marks(text)]
        if not own:
            return self._encode_exactly(texts)
        left_out = [*texts]
        for index in own:
            left_out[index] = ""
        ids = [ids for _, ids in _pairs(left_out, self._encode_exactly(left_out))]
        for index in own:
            ids[index] = self._encoder.encode(texts[index])
        return _joined(ids)

    def _encode_exactly(self, texts: list[str]) -> EncodedBatch:
        try:
            ragged = self._tokenizer.encode_batch(texts, parallel=False).layout
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException as error:  # a panic of Rust is no Exception
            raise EngineMismatch(f"{self.name} {self.version} failed: {error}") from error
        ids = ragged.content.data.astype(self.dtype, copy=False)
        return EncodedBatch(ids, np.diff(ragged.offsets.data))

    def _check_first(self, texts: list[str], part: EncodedBatch) -> None:
        """The beginnings of the first 64 texts of a run."""
        if self._first_texts:
            for text, ids in itertools.islice(_pairs(texts, part), self._first_texts):
                self._checker.compare_excerpt(text, ids, start=0, size=_FIRST_CHARACTERS)
            self._first_texts = max(0, self._first_texts - len(texts))

    def _bound_memory(self, characters: int) -> None:
        """Begins afresh where gigatoken's caches have grown: they keep every word they ever saw.

        Prose adds 0.2 bytes a character to them, random letters 5 to 6.
        """
        if self._characters > _CACHE_CHARACTERS and _resident_bytes() - self._bytes > _CACHE_BYTES:
            del self._tokenizer
            self._begin()
        self._characters += characters

    def _begin(self) -> None:
        from gigatoken import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_json(self._json)
        except Exception as error:
            reason = str(error).partition("\n")[0]
            raise MachineError(
                f"{self.name} {self.version} does not know this tokenizer ({reason})"
            ) from error
        self._characters, self._bytes = 0, _resident_bytes()


def open_engine(
    tokenizer: PreTrainedTokenizerBase | PlainTextEncoder,
    *,
    engine: str = "auto",
    workers: int | None = None,
    seed: int = 0,
) -> Engine:
    """The engine that `engine` names; auto: gigatoken where it gives the tokenizer's ids, else tokenizers.

    `workers`: threads; none: one a core. `seed`: of which texts are compared with the tokenizer. Ids depend
    on neither. If an engine chosen by `auto` raises EngineMismatch later on, begin again with `tokenizers`.

    Raises InputError for another name, MachineError if gigatoken was asked for by name and cannot be used.
    """
    if engine not in ENGINES:
        raise InputError(f"engine {engine!r} is not known. Choose one of: {', '.join(ENGINES)}.")
    encoder = tokenizer if isinstance(tokenizer, PlainTextEncoder) else PlainTextEncoder(tokenizer)
    if engine == "gigatoken":
        return GigatokenEngine(encoder, workers, seed)
    notices = []
    if engine == "auto":
        try:
            return GigatokenEngine(encoder, workers, seed)
        except MachineError as error:
            notices.append(
                f"{str(error).rstrip('.')}: `tokenizers` makes the ids, at a twentieth of the speed."
            )
    chosen = TokenizersEngine(encoder, workers)
    chosen.notices += notices
    return chosen


def _without_special_tokens(text: str) -> tuple[str, bool]:
    """A tokenizer.json by which gigatoken spells special tokens out, as PlainTextEncoder does.

    And whether its normalizer brings marks into their canonical order (NFC and its like).
    """
    state, model = split_tokenizer_json(text)
    state["added_tokens"] = [token for token in state["added_tokens"] if not token["special"]]
    return f'{json.dumps(state)[:-1]}, "model": {model}}}', '"NF' in json.dumps(state["normalizer"])


def _joined(ids: list[np.ndarray]) -> EncodedBatch:
    return EncodedBatch(np.concatenate(ids), np.array([len(part) for part in ids], dtype=np.int64))


def _spans(texts: list[str], least: int) -> Iterator[list[str]]:
    """Runs of texts of at least so many characters together, but for the last; a longer text is alone."""
    span: list[str] = []
    characters = 0
    for text in texts:
        if len(text) > least:
            yield from filter(None, (span, [text]))
            span, characters = [], 0
            continue
        span.append(text)
        characters += len(text)
        if characters >= least:
            yield span
            span, characters = [], 0
    if span:
        yield span


def _pairs(texts: list[str], batch: EncodedBatch) -> Iterator[tuple[str, np.ndarray]]:
    ends = np.cumsum(batch.lengths)
    for text, end, length in zip(texts, ends, batch.lengths, strict=True):
        yield text, batch.tokens[end - length : end]


def _resident_bytes() -> int:
    import psutil

    return psutil.Process().memory_info().rss
