"""Batches of texts -> token ids as one flat array, by the fastest engine that gives the tokenizer's own ids.

`gigatoken` is some 30 times as fast as `tokenizers`, for the tokenizers that it knows. It is never trusted:
see `engine_checks`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ultralong_hf.data.tokenization import PlainTextEncoder
from ultralong_hf.errors import EngineMismatch, InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["ENGINES", "EncodedBatch", "Engine", "EngineMismatch", "open_engine"]

ENGINES = ("auto", "gigatoken", "tokenizers")


class EncodedBatch(NamedTuple):
    """Ids of several texts, one after the other."""

    tokens: np.ndarray
    """Ids of all texts, [sum of lengths], uint16 or uint32."""
    lengths: np.ndarray
    """Tokens of each text, int64 [texts]."""


class Engine:
    """Texts -> ids, each text as `PlainTextEncoder` encodes it.

    `name` and `version` say which library does it, `dtype` is that of the ids, and `notices` are sentences for
    the user about how it was chosen.
    """

    name: str
    version: str
    dtype: np.dtype[Any]
    notices: list[str]

    def encode(self, texts: list[str]) -> EncodedBatch:
        """Ids of the texts, in order. Best given a few MB at once.

        Raises EngineMismatch if a sampled text has other ids than the tokenizer gives it.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Ends what the engine has started. It cannot be used afterwards."""

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class TokenizersEngine(Engine):
    """The tokenizer's own library."""

    name = "tokenizers"

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        import tokenizers

        self.version = tokenizers.__version__
        self._encoder = PlainTextEncoder(tokenizer)
        self.dtype = self._encoder.dtype
        self.notices = []

    def encode(self, texts: list[str]) -> EncodedBatch:
        ids = [self._encoder.encode(text) for text in texts]
        lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
        return EncodedBatch(np.concatenate([np.empty(0, self.dtype), *ids]), lengths)


def open_engine(
    tokenizer: PreTrainedTokenizerBase, *, engine: str = "auto", workers: int | None = None, seed: int = 0
) -> Engine:
    """The engine that `engine` names; `auto`: gigatoken where it gives the tokenizer's ids, else tokenizers.

    `workers`: how many cores to use; none: all. `seed`: of which texts are compared with the tokenizer.
    Raises InputError for another name, MachineError if gigatoken was asked for by name and cannot be used.
    """
    if engine not in ENGINES:
        raise InputError(f"engine {engine!r} is not known. Choose one of: {', '.join(ENGINES)}.")
    return TokenizersEngine(tokenizer)
