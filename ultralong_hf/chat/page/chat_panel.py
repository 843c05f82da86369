"""Questions and answers: streaming, stop, edit, answer again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from ultralong_hf.chat.engine import Event, Options, Piece, Prefill, Reply, Waiting
from ultralong_hf.chat.page import panels, texts
from ultralong_hf.chat.page.documents_panel import DocumentsPanel
from ultralong_hf.chat.page.events import AT_ONCE, HIDDEN, Updates
from ultralong_hf.chat.page.evidence_panel import SHOW_CHOSEN
from ultralong_hf.chat.page.layout import Parts
from ultralong_hf.chat.page.messages import answer_message, question_message, turn_messages, turn_of
from ultralong_hf.chat.page.rooms import Room, Rooms
from ultralong_hf.chat.session import Session
from ultralong_hf.errors import ChatError, UltraLongError

SHOWN_EVERY = 0.1
"""Seconds between two pictures of an answer under way."""


class ChatPanel:
    """asked_at_once: how many tabs may wait for an answer; the engine queues them itself."""

    def __init__(self, parts: Parts, rooms: Rooms, documents: DocumentsPanel, *, asked_at_once: int) -> None:
        self.parts, self.rooms, self.documents, self.asked_at_once = parts, rooms, documents, asked_at_once

    def connect(self) -> None:
        parts = self.parts
        settings = [parts.max_tokens, parts.temperature]
        asking: dict[str, Any] = {
            "outputs": [
                parts.chat, parts.status, parts.question, parts.send, parts.stop, parts.meter, parts.cuts,
                parts.remove, parts.remove_button, parts.cache, *self.documents.evidence.outputs,
            ],
            "concurrency_limit": self.asked_at_once,
            "concurrency_id": "ask",
            **HIDDEN,
        }  # fmt: skip
        for event in (
            parts.question.submit(self.ask, [parts.question, *settings], **asking),
            parts.send.click(self.ask, [parts.question, *settings], **asking),
            parts.chat.example_select(self.ask_example, settings, **asking),
            parts.chat.edit(self.edit, settings, **asking),
            parts.chat.retry(self.retry, settings, **asking),
            parts.again.click(self.again, settings, **asking),
        ):
            event.then(None, js=SHOW_CHOSEN)
        parts.stop.click(self.stop, None, [parts.status], **AT_ONCE)
        outputs = asking["outputs"]
        parts.new_chat.click(self.clear, [parts.max_tokens], outputs, **AT_ONCE)
        parts.chat.clear(self.clear, [parts.max_tokens], outputs, **AT_ONCE)

    def ask(
        self, question: str, max_tokens: float, temperature: float, request: gr.Request
    ) -> Iterator[Updates]:
        yield from self._answer(
            request, max_tokens, temperature, lambda session: (question, len(session.turns))
        )

    def ask_example(
        self, max_tokens: float, temperature: float, request: gr.Request, event: gr.SelectData
    ) -> Iterator[Updates]:
        question = str(event.value["text"])
        yield from self.ask(question, max_tokens, temperature, request)

    def edit(
        self, max_tokens: float, temperature: float, request: gr.Request, event: gr.EditData
    ) -> Iterator[Updates]:
        turn = turn_of(event.index)
        yield from self._answer(request, max_tokens, temperature, lambda session: (str(event.value), turn))

    def retry(
        self, max_tokens: float, temperature: float, request: gr.Request, event: gr.RetryData
    ) -> Iterator[Updates]:
        turn = turn_of(event.index)
        yield from self._answer(request, max_tokens, temperature, lambda session: _asked(session, turn))

    def again(self, max_tokens: float, temperature: float, request: gr.Request) -> Iterator[Updates]:
        yield from self._answer(
            request, max_tokens, temperature, lambda session: _asked(session, len(session.turns) - 1)
        )

    def stop(self, request: gr.Request) -> str:
        try:
            self.rooms.of(request).session.stop()
        except UltraLongError as error:
            return panels.problem(str(error))
        return panels.status(texts.STOPPING)

    def clear(self, max_tokens: float, request: gr.Request) -> Updates:
        try:
            room = self.rooms.of(request)
            room.session.clear()
            return self.documents.state(room, max_tokens)
        except UltraLongError as error:
            return {self.parts.status: panels.problem(str(error))}

    def _answer(
        self,
        request: gr.Request,
        max_tokens: float,
        temperature: float,
        what: Callable[[Session], tuple[str, int]],
    ) -> Iterator[Updates]:
        """what(session): the question, and the turn that its answer becomes."""
        parts = self.parts
        try:
            room = self.rooms.of(request)
            question, turn = what(room.session)
            if room.session.busy:
                raise ChatError("An answer is being written already: stop it, or wait for its end.")
            options = Options(max_new_tokens=int(max_tokens), temperature=float(temperature))
            events = _asking(room.session, question, turn, options)
        except UltraLongError as error:
            yield {parts.status: panels.problem(str(error))}
            return
        try:
            yield from self._stream(room, question, turn, events)
            room.turn = turn
            yield {**self.documents.state(room, max_tokens), **self._buttons(running=False)}
        except UltraLongError as error:
            unasked = question if turn == len(room.session.turns) else ""
            yield {
                parts.chat: turn_messages(room.session.turns),
                parts.status: panels.problem(str(error)),
                parts.question: unasked,
                **self._buttons(running=False),
            }
        finally:
            events.close()

    def _stream(self, room: Room, question: str, turn: int, events: Iterator[Event]) -> Iterator[Updates]:
        parts = self.parts
        before = [*turn_messages(room.session.turns[:turn]), question_message(question)]
        yield {
            parts.chat: before,
            parts.status: "",
            parts.question: "",
            **self._buttons(running=True),
        }
        text, shown = "", 0.0
        for event in events:
            if isinstance(event, Piece):
                text += event.text
            if isinstance(event, Reply) or time.monotonic() - shown < SHOWN_EVERY:
                continue
            shown = time.monotonic()
            if isinstance(event, Waiting):
                yield {parts.status: panels.status(texts.waiting(event.ahead))}
            elif isinstance(event, Prefill):
                yield {parts.status: panels.progress(event)}
            else:
                yield {parts.status: "", parts.chat: [*before, answer_message(text)]}

    def _buttons(self, *, running: bool) -> Updates:
        return {self.parts.send: gr.Button(visible=not running), self.parts.stop: gr.Button(visible=running)}


def _asking(session: Session, question: str, turn: int, options: Options) -> Any:
    if turn == len(session.turns):
        return session.ask(question, options)
    return session.edit(question, options, turn=turn)


def _asked(session: Session, turn: int) -> tuple[str, int]:
    if not 0 <= turn < len(session.turns):
        raise ChatError("There is no question yet.")
    return session.turns[turn].question, turn
