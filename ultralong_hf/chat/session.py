"""`ChatService` and its sessions: whose documents, whose cache, whose chat; deleted together."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ultralong_hf.chat import export
from ultralong_hf.chat.chat import ChatTurn
from ultralong_hf.chat.documents import Document, Limits, Readings, Refusal, read_documents
from ultralong_hf.chat.engine import CacheUse, ChatEngine, Event, Options, Question, Reply
from ultralong_hf.chat.evidence import find_evidence
from ultralong_hf.chat.meter import Keep, Meter, Recall, cut_to_fit, measure
from ultralong_hf.errors import ChatError

LONGEST_QUESTION = 20_000
"""Characters."""
_ASIDE = "/aside"


@dataclass(frozen=True, kw_only=True)
class ServiceLimits:
    """Bounds of a service that many use."""

    sessions: int = 100
    idle_seconds: float = 3_600.0
    """After which a session that nobody uses is deleted."""
    readings: int = 2
    """Uploads that are read at the same time; others wait."""
    session_characters: int = 80_000_000
    """Of all documents of one session."""


class ChatService:
    """One engine for many users. recall: what the engine's model was found to remember, for the meter."""

    def __init__(
        self,
        engine: ChatEngine,
        *,
        limits: Limits | None = None,
        service_limits: ServiceLimits | None = None,
        options: Options | None = None,
        recall: Recall | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.engine, self.recall = engine, recall
        self.limits, self.bounds = limits or Limits(), service_limits or ServiceLimits()
        self.options = options or Options()
        self.clock = clock
        self.reading = threading.BoundedSemaphore(self.bounds.readings)
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    def open(self) -> Session:
        """A new session under a name that cannot be guessed. Raises ChatError where there are too many."""
        self.sweep()
        with self._lock:
            if len(self._sessions) >= self.bounds.sessions:
                raise ChatError(
                    f"{self.bounds.sessions} chats are open, which is the limit: try again later."
                )
            session = Session(self, secrets.token_urlsafe(24))
            self._sessions[session.name] = session
        return session

    def get(self, name: str) -> Session:
        """Raises ChatError for one that was closed, or never was."""
        with self._lock:
            session = self._sessions.get(name)
        if session is None:
            raise ChatError("This chat has ended, and its documents are deleted: start a new one.")
        session.used = self.clock()
        return session

    def close(self, name: str) -> None:
        """Documents, chat and caches are deleted; an answer under way is stopped."""
        with self._lock:
            session = self._sessions.pop(name, None)
        if session is not None:
            session.discard()

    def sweep(self) -> int:
        """Closes the sessions that nobody used for long; gives their number."""
        now = self.clock()
        with self._lock:
            old = [
                name
                for name, session in self._sessions.items()
                if not session.busy and now - session.used > self.bounds.idle_seconds
            ]
        for name in old:
            self.close(name)
        return len(old)

    def close_all(self) -> None:
        with self._lock:
            names = list(self._sessions)
        for name in names:
            self.close(name)

    @property
    def sessions(self) -> int:
        return len(self._sessions)


class Session:
    """One user's documents and chat. One answer is written at a time."""

    def __init__(self, service: ChatService, name: str) -> None:
        self.service, self.name = service, name
        self.documents: list[Document] = []
        self.turns: list[ChatTurn] = []
        self.used = service.clock()
        self._stop = threading.Event()
        self._busy = threading.Lock()
        self._closed = False

    @property
    def engine(self) -> ChatEngine:
        return self.service.engine

    @property
    def busy(self) -> bool:
        return self._busy.locked()

    @property
    def closed(self) -> bool:
        return self._closed

    def add(
        self,
        paths: Sequence[str | Path],
        *,
        names: Sequence[str] | None = None,
        progress: Callable[[str, int, int], None] = lambda name, done, total: None,
    ) -> list[Refusal]:
        """Reads files, archives or folders into the session; gives those that were refused.

        Documents are frozen once a turn is there: more of them start the chat anew, and `turns` is emptied.
        Raises UploadError for too many at once.
        """
        with self.service.reading:
            readings = read_documents(
                paths,
                self.service.limits,
                names=names,
                progress=progress,
                stopped=lambda: self._closed,
            )
        return self._take_in(readings)

    def add_document(self, document: Document) -> None:
        """One that is read already, such as an example. Raises ChatError."""
        refused = self._take_in(Readings([document], []))
        if refused:
            raise ChatError(str(refused[0]))

    def set_documents(self, documents: Sequence[Document]) -> None:
        """Replaces all documents, as the needle lab and a cut do; the chat starts anew."""
        self._check_idle()
        self.documents = list(documents)
        self.turns = []
        self.engine.keep_texts(self.name, self.documents)

    def remove(self, name: str) -> None:
        """Raises ChatError for a name that is not there."""
        kept = [document for document in self.documents if document.name != name]
        if len(kept) == len(self.documents):
            raise ChatError(f"There is no document {name!r} in this chat.")
        self.set_documents(kept)

    def meter(self, question: str = "", options: Options | None = None) -> Meter:
        """Tokens of each document and in all; documents that are new are tokenized, which takes time."""
        options = options or self.service.options
        return measure(
            self.engine,
            self.name,
            self.documents,
            turns=[turn.to_prompt() for turn in self.turns],
            question=question,
            answer=options.max_new_tokens,
            recall=self.service.recall,
        )

    def cut(self, keep: Keep, options: Options | None = None) -> list[str]:
        """Shortens the documents until they fit, as the user chose; gives what was left out."""
        notes: list[str] = []
        for _ in range(6):  # characters are no tokens: what is left may be a little too long still
            meter = self.meter(options=options)
            if meter.fits:
                return notes
            documents, told = cut_to_fit(self.documents, meter, keep)
            self.set_documents(documents)
            notes += told
        self.meter(options=options).check()
        return notes

    def ask(self, question: str, options: Options | None = None) -> Iterator[Event]:
        """Asks; the turn is kept when the Reply comes, a stopped one too.

        Raises ChatError (DoesNotFit with the numbers), EndpointError, OutOfMemory; the chat then stays as is.
        """
        return self._ask(question, list(self.turns), options)

    def regenerate(self, options: Options | None = None) -> Iterator[Event]:
        """Asks the last question again, in place of its answer."""
        return self.edit(self._last().question, options)

    def edit(self, question: str, options: Options | None = None, *, turn: int = -1) -> Iterator[Event]:
        """Asks another question in place of the last, or of that turn; the turns behind it are forgotten."""
        self._last()
        if not -len(self.turns) <= turn < len(self.turns):
            raise ChatError("This question is no longer in the chat.")
        return self._ask(question, self.turns[: turn % len(self.turns)], options)

    def ask_aside(
        self, documents: Sequence[Document], question: str, options: Options | None = None
    ) -> Iterator[Event]:
        """Asks over other documents, as the needle lab does; the chat stays as it is.

        Caches of these are this session's too. Raises as `ask`.
        """
        asked = Question(self.name + _ASIDE, tuple(documents), self._checked(question))
        with self._answering():
            try:
                yield from self._events(asked, options)
            finally:
                self.engine.keep_texts(asked.session, ())

    def stop(self) -> None:
        """Ends the reading or writing that is under way; what is written so far is kept."""
        self._stop.set()

    def clear(self) -> None:
        """Forgets the turns; documents and their cache stay."""
        self._check_idle()
        self.turns = []

    def cache_use(self) -> CacheUse | None:
        return self.engine.cache_use(self.name)

    def save_cache(self, path: str | Path) -> Path:
        """Raises ChatError where the engine is a server, or nothing was read yet."""
        saved: Path = self._local().save_cache(self.name, self.documents, path)
        return saved

    def load_cache(self, path: str | Path) -> int:
        """Tokens that need not be read. Raises ChatError for a file of another model or other documents."""
        return int(self._local().load_cache(self.name, self.documents, path))

    def to_markdown(self) -> str:
        return export.to_markdown(self.turns, self.documents, model=self.engine.name)

    def to_json(self) -> str:
        return export.to_json(self.turns, self.documents, model=self.engine.name)

    def discard(self) -> None:
        """Called by the service when it closes the session."""
        self._closed = True
        self.stop()
        self.documents, self.turns = [], []
        self._forget()

    def _ask(self, question: str, before: list[ChatTurn], options: Options | None) -> Iterator[Event]:
        question = self._checked(question)
        with self._answering():
            documents = tuple(self.documents)
            asked = Question(self.name, documents, question, tuple(turn.to_prompt() for turn in before))
            for event in self._events(asked, options):
                if isinstance(event, Reply):
                    found = find_evidence(event.text, documents, question=question) if documents else None
                    self.turns = [] if self._closed else [*before, ChatTurn(question, event, found)]
                yield event

    def _events(self, asked: Question, options: Options | None) -> Iterator[Event]:
        for event in self.engine.ask(asked, options or self.service.options, self._stop):
            self.used = self.service.clock()
            yield event

    @contextmanager
    def _answering(self) -> Iterator[None]:
        if not self._busy.acquire(blocking=False):
            raise ChatError("An answer is being written already: stop it, or wait for its end.")
        try:
            self._stop = threading.Event()
            yield
        finally:
            self._busy.release()
            if self._closed:
                self._forget()  # tokens that were kept after the session was closed

    def _checked(self, question: str) -> str:
        question = question.strip()
        if not question:
            raise ChatError("The question is empty.")
        if len(question) > LONGEST_QUESTION:
            raise ChatError(
                f"The question has {len(question):,} characters; the limit is {LONGEST_QUESTION:,}."
            )
        if self._closed:
            raise ChatError("This chat has ended: start a new one.")
        return question

    def _forget(self) -> None:
        self.engine.forget(self.name)
        self.engine.forget(self.name + _ASIDE)

    def _take_in(self, readings: Readings) -> list[Refusal]:
        self._check_idle()
        refusals = list(readings.refusals)
        kept = list(self.documents)
        for document in readings.documents:
            characters = sum(len(other.text) for other in kept) + len(document.text)
            if any(other.digest == document.digest for other in kept):
                refusals.append(Refusal(document.name, "it is in this chat already."))
            elif characters > self.service.bounds.session_characters:
                refusals.append(
                    Refusal(
                        document.name,
                        f"with it the documents hold {characters:,} characters; the limit of a chat is "
                        f"{self.service.bounds.session_characters:,}.",
                    )
                )
            else:
                kept.append(document)
        if len(kept) > len(self.documents):
            self.set_documents(kept)
        return refusals

    def _last(self) -> ChatTurn:
        if not self.turns:
            raise ChatError("There is no question yet.")
        return self.turns[-1]

    def _check_idle(self) -> None:
        if self._closed:
            raise ChatError("This chat has ended: start a new one.")
        if self.busy:
            raise ChatError("An answer is being written: stop it first.")

    def _local(self) -> Any:
        if not self.engine.in_process:
            raise ChatError("The cache is the server's: it cannot be saved or loaded here.")
        return self.engine
