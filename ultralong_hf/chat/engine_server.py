"""`ServerChatEngine`: the chat over any OpenAI-compatible server, streamed, its prefix cache kept warm.

The documents open the first message and never change, so that a server with a prefix cache (vLLM, SGLang,
llama.cpp, OpenAI) reads them once.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ultralong_hf.chat.documents import Document
from ultralong_hf.chat.encoding import EncodedText, conversation, encode_text, plain_tokenizer
from ultralong_hf.chat.engine import (
    CacheUse,
    Event,
    FinishReason,
    Options,
    Piece,
    Prefill,
    Question,
    Reply,
    TokenCount,
    Waiting,
)
from ultralong_hf.chat.gate import Gate
from ultralong_hf.chat.prompting import PromptStyle, Turn
from ultralong_hf.endpoint import EndpointClient
from ultralong_hf.errors import ChatError, DoesNotFit, EndpointError

KEY_VARIABLES = ("ULTRALONG_ENGINE_KEY", "OPENAI_API_KEY")
CHARACTERS_A_TOKEN = 3.5
"""Where no tokenizer is known: English text has some 4 to 4.5, source files 3 to 3.5."""
_WAKES_EVERY = 0.05


class ServerChatEngine:
    """model: its name at the server; None: the only one there. tokenizer: for the meter; None: estimated.

    window: None: what the server lists (vLLM's max_model_len), or unknown.
    Raises EndpointError for a server that is not there, and ChatError where no model can be chosen.
    """

    in_process = False

    def __init__(
        self,
        base_url: str,
        model: str | None = None,
        *,
        tokenizer: Any = None,
        window: int | None = None,
        style: PromptStyle = "guided",
        running: int = 8,
        waiting: int = 64,
        timeout: float = 1_800.0,
        retries: int = 3,
        client: EndpointClient | None = None,
    ) -> None:
        key = next((name for name in KEY_VARIABLES if os.environ.get(name)), None)
        self._client = client or EndpointClient(
            base_url, api_key_env=key, timeout=timeout, retries=retries, connections=running + 2
        )
        entries = _listed(self._client.get("models"))
        self.name = _choose(entries, model, base_url)
        limit = entries.get(self.name, {}).get("max_model_len")
        self.window = window or (limit if isinstance(limit, int) else None)
        self.tokenizer = None if tokenizer is None else plain_tokenizer(tokenizer)
        self.style = style
        self._gate = Gate(running, waiting)
        self._encoded: dict[str, dict[str, EncodedText]] = {}

    def ask(self, question: Question, options: Options, stop: threading.Event) -> Iterator[Event]:
        self._check_window(question, options)
        yield from (Waiting(ahead) for ahead in self._gate.enter(stop))
        try:
            yield Prefill(0, None, 0, None)
            yield from self._answer(self._body(question, options), stop)
        finally:
            self._gate.leave()

    def count(self, session: str, document: Document) -> TokenCount:
        if self.tokenizer is None:
            return TokenCount(round(len(document.text) / CHARACTERS_A_TOKEN), exact=False)
        known = self._encoded.setdefault(session, {})
        if document.digest not in known:
            known[document.digest] = encode_text(self.tokenizer, document.text)
        return TokenCount(len(known[document.digest]))

    def count_around(
        self, session: str, documents: Sequence[Document], turns: Sequence[Turn], question: str
    ) -> int:
        said = conversation(documents, self.style, turns, question)
        characters = sum(len(message["content"]) for message in said) - sum(len(d.text) for d in documents)
        return round(characters / CHARACTERS_A_TOKEN) + 8 * len(said)

    def cache_use(self, session: str) -> CacheUse | None:
        return None

    def keep_texts(self, session: str, documents: Sequence[Document]) -> None:
        digests = {document.digest for document in documents}
        known = self._encoded.get(session, {})
        self._encoded[session] = {digest: text for digest, text in known.items() if digest in digests}

    def forget(self, session: str) -> None:
        self._encoded.pop(session, None)

    def _body(self, question: Question, options: Options) -> dict[str, Any]:
        said = conversation(question.documents, self.style, question.turns, question.question)
        body = {
            "model": self.name,
            "messages": said,
            "max_tokens": options.max_new_tokens,
            "temperature": options.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if options.temperature > 0:
            body |= {"top_p": options.top_p} | ({} if options.seed is None else {"seed": options.seed})
        return body

    def _answer(self, body: Mapping[str, Any], stop: threading.Event) -> Iterator[Event]:
        started, first = time.monotonic(), None
        pieces: list[str] = []
        finish: str | None = None
        usage: Mapping[str, Any] = {}
        for event in _in_thread(
            lambda stopped: self._client.stream("chat/completions", body, stopped=stopped), stop
        ):
            usage = event.get("usage") or usage
            text, reason = _delta(event)
            finish = reason or finish
            if text:
                first = first or time.monotonic() - started
                pieces.append(text)
                yield Piece(text)
        details = usage.get("prompt_tokens_details") or {}
        yield Reply(
            "".join(pieces),
            _finish(finish, stop),
            usage.get("prompt_tokens"),
            details.get("cached_tokens"),
            usage.get("completion_tokens"),
            first,
            time.monotonic() - started,
        )

    def _check_window(self, question: Question, options: Options) -> None:
        if self.window is None:
            return
        counts = [self.count(question.session, document) for document in question.documents]
        if not all(count.exact for count in counts):
            return  # an estimate refuses nothing; the server will
        around = self.count_around(question.session, question.documents, question.turns, question.question)
        total = sum(count.tokens for count in counts) + around
        if total + options.max_new_tokens > self.window:
            raise DoesNotFit(
                f"Documents, conversation and question are about {total:,} tokens; with "
                f"{options.max_new_tokens:,} for the answer that is "
                f"{total + options.max_new_tokens - self.window:,} more than the server's {self.window:,}."
            )


def _in_thread(
    stream: Callable[[Callable[[], bool]], Iterator[dict[str, Any]]], stop: threading.Event
) -> Iterator[dict[str, Any]]:
    """The stream's events; a stop is heard at once, even while the server is still reading the prompt."""
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    left = threading.Event()

    def listen() -> None:
        try:
            for event in stream(lambda: left.is_set() or stop.is_set()):
                events.put(event)
            events.put(None)
        except BaseException as error:  # handed over to who asked
            events.put(error)

    threading.Thread(target=listen, name="ultralong-chat-stream", daemon=True).start()
    try:
        while not stop.is_set():
            try:
                event = events.get(timeout=_WAKES_EVERY)
            except queue.Empty:
                continue
            if event is None:
                return
            if isinstance(event, BaseException):
                raise event
            yield event
    finally:
        left.set()


def _delta(event: Mapping[str, Any]) -> tuple[str, str | None]:
    """(new text, finish reason) of a chunk; its choices are empty where it tells the usage."""
    try:
        choices = event.get("choices") or []
        if not choices:
            return "", None
        text = (choices[0].get("delta") or {}).get("content") or ""
        return str(text), choices[0].get("finish_reason")
    except (AttributeError, IndexError, TypeError, KeyError) as error:
        raise EndpointError("The server's stream holds no chat completion.") from error


def _finish(reason: str | None, stop: threading.Event) -> FinishReason:
    if stop.is_set():
        return "stopped"
    if reason == "length":
        return "length"
    if reason in (None, "stop", "eos", "eos_token", "stop_sequence"):
        return "stop"
    raise EndpointError(f"The server ended the answer itself: {reason}.")


def _listed(answer: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    listed = answer.get("data")
    entries = listed if isinstance(listed, list) else []
    return {str(entry["id"]): entry for entry in entries if isinstance(entry, dict) and "id" in entry}


def _choose(entries: Mapping[str, Any], model: str | None, url: str) -> str:
    if model is not None:
        return model  # servers load what they do not list
    if len(entries) == 1:
        return next(iter(entries))
    served = ", ".join(sorted(entries)[:8]) or "none"
    raise ChatError(f"{url} lists {len(entries)} models ({served}): name one with --model.")
