"""What a chat's engine has: documents and a question in, events out, the documents' cache kept between."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from ultralong_hf.chat.documents import Document
from ultralong_hf.chat.prompting import Turn

FinishReason: TypeAlias = Literal["stop", "length", "stopped"]
"""stop: the model ended its answer; length: max_new_tokens are written; stopped: by the user."""


@dataclass(frozen=True)
class Options:
    """How an answer is written."""

    max_new_tokens: int = 512
    temperature: float = 0.0
    """0: the most likely token each time."""
    top_p: float = 1.0
    seed: int | None = None
    passages: int = 3
    """How many passages by attention mass to look for, where the engine is in process; 0: none."""


@dataclass(frozen=True)
class Waiting:
    """Others are answered first."""

    ahead: int


@dataclass(frozen=True)
class Prefill:
    """The prompt is read: `read` tokens of `total`, the reused ones included."""

    read: int
    total: int | None
    reused: int
    seconds_left: float | None


@dataclass(frozen=True)
class Piece:
    """The next piece of the answer."""

    text: str


@dataclass(frozen=True)
class Passage:
    """Where the answer's tokens looked: characters of a document and their share of the attention that all
    documents together got, 0 to 1."""

    document: int
    start: int
    end: int
    share: float


@dataclass(frozen=True)
class Reply:
    """A whole answer, or what there is of a stopped one."""

    text: str
    finish_reason: FinishReason
    prompt_tokens: int | None
    reused_tokens: int | None
    """Prompt tokens that were in the cache already; None where a server does not tell."""
    new_tokens: int | None
    seconds_to_first: float | None
    """From the start of reading, waiting not included."""
    seconds: float
    ids: tuple[int, ...] | None = None
    passages: tuple[Passage, ...] = ()

    @property
    def reuse(self) -> str:
        """
        >>> Reply("", "stop", 120_000, 119_000, 9, 0.1, 1.0).reuse
        'reused 119,000 of 120,000 tokens'
        """
        if self.prompt_tokens is None:
            return "the server does not say how many tokens it read"
        if self.reused_tokens is None:
            return f"{self.prompt_tokens:,} tokens; the server does not say how many it reused"
        return f"reused {self.reused_tokens:,} of {self.prompt_tokens:,} tokens"


Event = Waiting | Prefill | Piece | Reply


@dataclass(frozen=True)
class Question:
    """What is asked: `session` owns documents and cache, and no other sees them."""

    session: str
    documents: tuple[Document, ...]
    question: str
    turns: tuple[Turn, ...] = ()


@dataclass(frozen=True)
class TokenCount:
    tokens: int
    exact: bool = True
    """False: estimated from characters, because the server's tokenizer is not known here."""


@dataclass(frozen=True)
class CacheEntry:
    """What an engine holds for a session."""

    documents: tuple[tuple[str, int, int], ...]
    """(name, tokens, bytes) of each document in it."""
    tokens: int
    bytes: int
    """All that is allocated: documents, template, turns and room for the answer."""
    in_use: bool


@dataclass(frozen=True)
class CacheUse:
    """The KV caches' memory: `used_bytes` of `budget_bytes` by all sessions, `entries` of one's own."""

    used_bytes: int
    budget_bytes: int
    entries: tuple[CacheEntry, ...] = field(default=())


class ChatEngine(Protocol):
    """Answers questions over documents; safe to share among threads."""

    name: str
    in_process: bool
    window: int | None
    """Tokens, prompt and answer; None where it is not known."""

    def ask(self, question: Question, options: Options, stop: threading.Event) -> Iterator[Event]:
        """Events, the last of them a Reply. Raises ChatError, DoesNotFit and EndpointError.

        `stop` ends reading within one chunk, and writing within one token.
        """

    def count(self, session: str, document: Document) -> TokenCount:
        """Of a document's own text."""

    def count_around(
        self, session: str, documents: Sequence[Document], turns: Sequence[Turn], question: str
    ) -> int:
        """Tokens of the prompt beside the documents' own text."""

    def cache_use(self, session: str) -> CacheUse | None:
        """None where the engine is a server."""

    def keep_texts(self, session: str, documents: Sequence[Document]) -> None:
        """Token ids of a session's other documents are deleted; caches stay."""

    def forget(self, session: str) -> None:
        """All that is kept of a session is deleted."""
