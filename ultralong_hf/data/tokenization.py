"""Documents -> token ids, always as plain text and never cut.

What could change or cut the ids is switched off on a private copy of the tokenizer: special tokens that stand
in a document are spelled out as text, none are added at the ends, and truncation and padding, which a
tokenizer.json may carry along, do not happen.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from ultralong_hf.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase


# A document is tokenized in windows of this many characters: `tokenizers` needs 120 bytes a character and
# slows down with length (50 MB at once: 6 GB and 44 s).
WINDOW_CHARACTERS = 1 << 18
_OVERLAP_CHARACTERS = 1 << 13
_AGREEING_TOKENS = 64

Run = Callable[[Callable[[int], "tuple[np.ndarray, np.ndarray]"], Iterable[int]], "Iterable[Any]"]
"""As `map`: the function of each item, in order."""


def load_tokenizer(tokenizer: PreTrainedTokenizerBase | str | os.PathLike[str]) -> PreTrainedTokenizerBase:
    """The tokenizer, from a folder or Hub id if that is what is given.

    Raises ModelError if it cannot be loaded, or is not one of the `tokenizers` library.
    """
    if isinstance(tokenizer, str | os.PathLike):
        from transformers import AutoTokenizer

        name = os.fspath(tokenizer)
        try:
            tokenizer = AutoTokenizer.from_pretrained(name)
        except Exception as error:  # from_pretrained raises errors of three libraries
            reason = " ".join(str(error).split())
            raise ModelError(f"{name}: no tokenizer can be loaded from there: {reason}") from error
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"{type(tokenizer).__name__} is not backed by the `tokenizers` library (is_fast is False): "
            "load it with AutoTokenizer from a folder that has a tokenizer.json."
        )
    return tokenizer


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of all that decides the ids of plain text.

    That is normalizer, pre-tokenizer, model and ordinary added tokens; special tokens, chat template,
    truncation and padding are left out, since they change no id of a row.
    """
    return digest_of_json(tokenizer_json(tokenizer))


def digest_of_json(text: str) -> str:
    """The same, of the contents of a tokenizer.json."""
    state, model = split_tokenizer_json(text)
    ordinary = [token for token in state["added_tokens"] if not token["special"]]
    parts = [state["normalizer"], state["pre_tokenizer"], ordinary]
    return hashlib.sha256((json.dumps(parts, sort_keys=True) + model).encode()).hexdigest()


class PlainTextEncoder:
    """Text -> ids, as of `tokenizer(text, add_special_tokens=False, split_special_tokens=True)`.

    `dtype` is uint16 where every id of the tokenizer fits, else uint32. Threads may share an encoder.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._backend = _plain_backend(tokenizer)
        self.dtype: np.dtype[Any] = np.dtype(np.uint16 if _fits_uint16(self._backend) else np.uint32)

    @functools.cached_property
    def json(self) -> str:
        """The contents of the tokenizer.json. Raises ModelError where a part of it is written in Python."""
        return tokenizer_json(self.tokenizer)

    def encode(self, text: str, run: Run = map) -> np.ndarray:
        """Ids of the whole text, [tokens]. `run` is a `map` for the windows of a long text, as of threads."""
        if len(text) <= WINDOW_CHARACTERS:
            return self._ids(self._backend.encode_batch_fast([text], add_special_tokens=False)[0].ids)
        return self._encode_windows(text, WINDOW_CHARACTERS, _OVERLAP_CHARACTERS, run)

    def encode_short(self, texts: list[str]) -> list[np.ndarray]:
        """Ids of many texts, none of them long, on all cores."""
        return [
            self._ids(one.ids) for one in self._backend.encode_batch_fast(texts, add_special_tokens=False)
        ]

    def _ids(self, ids: list[int]) -> np.ndarray:
        return np.array(ids, dtype=self.dtype)

    def _encode_windows(self, text: str, window: int, overlap: int, run: Run = map) -> np.ndarray:
        """Overlapping windows, joined where both neighbours agree on the tokens.

        A tokenizer reads a text from the left and looks ahead a little, so that two windows that agree on 64
        tokens on either side of a place agree on all until the first one's end comes near. Where they do not
        agree, as in one word of a million letters, the two are tokenized as one.
        """
        stride = window - overlap
        starts = range(0, len(text) - overlap, stride)
        encoded = run(lambda start: self._encode_places(text, start, window), starts)
        windows = zip(starts, encoded, strict=True)
        start, (ids, places) = next(windows)
        end, seen = start + window, 0  # end of the window at hand; tokens of it that are already joined
        parts: list[np.ndarray] = []
        for follow, (next_ids, next_places) in windows:
            if follow + overlap < end:
                continue  # lies in the window at hand, which has grown
            seam = _find_seam(ids, places, next_ids, next_places, follow + overlap // 2, follow + overlap)
            if seam is None:
                joined = 2 * ((end - start - overlap) // stride)  # twice as many windows at once
                end = start + joined * stride + overlap
                ids, places = self._encode_places(text, start, end - start)
                continue
            parts.append(ids[seen : seam[0]])
            start, end, seen, ids, places = follow, follow + window, seam[1], next_ids, next_places
        return np.concatenate([*parts, ids[seen:]])

    def _encode_places(self, text: str, start: int, window: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids of a window, and the character at which each token begins, counted in the whole text."""
        encoding = self._backend.encode_batch([text[start : start + window]], add_special_tokens=False)[0]
        places = np.fromiter((begin for begin, _ in encoding.offsets), dtype=np.int64, count=len(encoding))
        return self._ids(encoding.ids), places + start


def _fits_uint16(backend: Tokenizer) -> bool:
    """Whether every id does. A vocabulary may have gaps: it is looked at where its size leaves that open."""
    return backend.get_vocab_size() <= 2**16 and max(backend.get_vocab().values()) < 2**16


def tokenizer_json(tokenizer: PreTrainedTokenizerBase) -> str:
    """The contents of its tokenizer.json. Raises ModelError where a part of it is written in Python."""
    try:
        return tokenizer.backend_tokenizer.to_str()
    except Exception as error:  # `tokenizers` raises a bare Exception for parts written in Python
        raise ModelError(f"{type(tokenizer).__name__} holds parts that cannot be saved ({error}).") from error


def split_tokenizer_json(text: str) -> tuple[dict[str, Any], str]:
    """What stands before the model, and the model's own text, which is long and comes last.

    The mark between the two cannot be in a string, where quotes are escaped.
    """
    head, _, model = text.partition(',"model":')
    return json.loads(head + "}"), model[:-1]


def _plain_backend(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """A tokenizer for plain text. It shares the model, since to build one of 128K tokens takes 0.4 s."""
    from tokenizers import Tokenizer

    own = tokenizer.backend_tokenizer
    backend = Tokenizer(own.model)
    for part in ("normalizer", "pre_tokenizer", "post_processor"):
        if (value := getattr(own, part)) is not None:
            setattr(backend, part, value)
    tokens = [token for _, token in sorted(own.get_added_tokens_decoder().items())]
    for is_special, group in itertools.groupby(tokens, key=lambda token: token.special):
        (backend.add_special_tokens if is_special else backend.add_tokens)(list(group))
    backend.encode_special_tokens = True
    return backend


def _find_seam(
    ids: np.ndarray,
    places: np.ndarray,
    next_ids: np.ndarray,
    next_places: np.ndarray,
    earliest: int,
    latest: int,
) -> tuple[int, int] | None:
    """Indices in both windows of one token, with 64 equal tokens on either side; None if there is none."""
    reach = _AGREEING_TOKENS
    for place in range(earliest, latest, 64):
        here = int(np.searchsorted(places, place))
        there = int(np.searchsorted(next_places, place))
        mine, theirs = slice(here - reach, here + reach), slice(there - reach, there + reach)
        if here < reach or there < reach or here + reach > len(ids) or there + reach > len(next_ids):
            continue
        if np.array_equal(ids[mine], next_ids[theirs]) and np.array_equal(places[mine], next_places[theirs]):
            return here, there
    return None
