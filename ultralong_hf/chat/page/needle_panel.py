"""The needle lab's tab."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from ultralong_hf.chat.engine import Options, Prefill, Waiting
from ultralong_hf.chat.needle_lab import Attempt
from ultralong_hf.chat.page import panels, texts
from ultralong_hf.chat.page.events import AT_ONCE, HIDDEN, Updates
from ultralong_hf.chat.page.heat_map import DEPTHS, heat_map
from ultralong_hf.chat.page.layout import Parts
from ultralong_hf.chat.page.rooms import Room, Rooms
from ultralong_hf.errors import UltraLongError

ANSWER_TOKENS = 48


class NeedlePanel:
    def __init__(self, parts: Parts, rooms: Rooms, *, asked_at_once: int) -> None:
        self.parts, self.rooms, self.asked_at_once = parts.needle, rooms, asked_at_once

    def connect(self) -> None:
        parts = self.parts
        inputs = [parts.sentence, parts.question, parts.expected, parts.length]
        asking: dict[str, Any] = {
            "outputs": [parts.status, parts.map],
            "concurrency_limit": self.asked_at_once,
            "concurrency_id": "ask",
            **HIDDEN,
        }
        parts.hide.click(self.hide, [*inputs, parts.depth], **asking)
        parts.sweep.click(self.sweep, inputs, **asking)
        parts.stop.click(self.stop, None, [parts.status], **AT_ONCE)
        parts.clear.click(self.clear, None, [parts.status, parts.map], **HIDDEN)
        parts.tab.select(self.show, [parts.length], [parts.length, parts.status, parts.map], **HIDDEN)

    def show(self, chosen: str, request: gr.Request) -> Updates:
        """The lengths that the documents allow."""
        try:
            room = self.rooms.of(request)
            names = [*(f"{length:,}" for length in room.lab.lengths()), texts.WHOLE_LENGTH]
            told = "" if room.session.documents else panels.status(texts.NEEDLE_NO_DOCUMENTS)
            value = chosen if chosen in names else texts.WHOLE_LENGTH
            return {
                self.parts.length: gr.Radio(names, value=value),
                self.parts.status: told,
                self.parts.map: heat_map(room.lab.attempts),
            }
        except UltraLongError as error:
            return {self.parts.status: panels.problem(str(error))}

    def hide(
        self, sentence: str, question: str, expected: str, length: str, depth: float, request: gr.Request
    ) -> Iterator[Updates]:
        yield from self._try(request, sentence, question, expected, length, [float(depth)])

    def sweep(
        self, sentence: str, question: str, expected: str, length: str, request: gr.Request
    ) -> Iterator[Updates]:
        # The deepest first: what stands before it is read once for all.
        yield from self._try(request, sentence, question, expected, length, sorted(DEPTHS, reverse=True))

    def stop(self, request: gr.Request) -> str:
        try:
            room = self.rooms.of(request)
            room.sweeping = False
            room.session.stop()
        except UltraLongError as error:
            return panels.problem(str(error))
        return panels.status(texts.STOPPING)

    def clear(self, request: gr.Request) -> Updates:
        try:
            self.rooms.of(request).lab.attempts.clear()
        except UltraLongError as error:
            return {self.parts.status: panels.problem(str(error))}
        return {self.parts.status: "", self.parts.map: heat_map([])}

    def _try(
        self,
        request: gr.Request,
        sentence: str,
        question: str,
        expected: str,
        length: str,
        depths: Sequence[float],
    ) -> Iterator[Updates]:
        parts = self.parts
        try:
            room = self.rooms.of(request)
            room.sweeping = True
            for depth in depths:
                if not room.sweeping:
                    break
                yield from self._once(room, sentence, question, expected, length, depth)
            if not room.sweeping:
                yield {parts.status: ""}
        except UltraLongError as error:
            yield {parts.status: panels.problem(str(error))}

    def _once(
        self, room: Room, sentence: str, question: str, expected: str, length: str, depth: float
    ) -> Iterator[Updates]:
        parts = self.parts
        events = room.lab.attempt(
            sentence,
            question,
            expected,
            depth=depth,
            length=None if length == texts.WHOLE_LENGTH else int(length.replace(",", "")),
            options=Options(max_new_tokens=ANSWER_TOKENS, passages=0),
        )
        for event in events:
            if isinstance(event, Waiting):
                yield {parts.status: panels.status(texts.waiting(event.ahead))}
            elif isinstance(event, Prefill):
                yield {parts.status: panels.progress(event)}
            elif isinstance(event, Attempt):
                told = texts.tried(event.found, event.depth, event.tokens, event.answer)
                shown = panels.status(told) if event.found else panels.problem(told)
                yield {parts.status: shown, parts.map: heat_map(room.lab.attempts)}
