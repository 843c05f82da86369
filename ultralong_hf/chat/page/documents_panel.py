"""Documents: uploads, examples, the meter, taking out and cutting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from ultralong_hf.chat.documents import Refusal
from ultralong_hf.chat.engine import Options
from ultralong_hf.chat.meter import Keep
from ultralong_hf.chat.page import panels, texts
from ultralong_hf.chat.page.events import HIDDEN, Updates
from ultralong_hf.chat.page.evidence_panel import EvidencePanel
from ultralong_hf.chat.page.examples import Example, questions_of
from ultralong_hf.chat.page.layout import Parts
from ultralong_hf.chat.page.messages import turn_messages
from ultralong_hf.chat.page.rooms import Room, Rooms
from ultralong_hf.chat.page.uploads import delete, uploaded, with_progress
from ultralong_hf.errors import UltraLongError

# A click before this is lost: whoever drives the page waits for it.
READY = "() => { document.body.dataset.ready = 'yes'; }"


class DocumentsPanel:
    def __init__(self, parts: Parts, rooms: Rooms, evidence: EvidencePanel) -> None:
        self.parts, self.rooms, self.evidence = parts, rooms, evidence

    def connect(self) -> None:
        parts = self.parts
        changed: list[Any] = [
            parts.uploads, parts.meter, parts.cuts, parts.remove, parts.remove_button, parts.cache,
            parts.chat, parts.status, *self.evidence.outputs,
        ]  # fmt: skip
        parts.page.load(self.show, [parts.max_tokens], changed, **HIDDEN).then(None, js=READY)
        parts.max_tokens.change(
            self.measure, [parts.max_tokens], [parts.meter, parts.cuts], trigger_mode="always_last", **HIDDEN
        )
        parts.uploads.upload(self.add, [parts.uploads, parts.max_tokens], changed, preprocess=False, **HIDDEN)
        for button, example in parts.examples:
            button.click(self._adding(example), [parts.max_tokens], changed, **HIDDEN)
        parts.remove_button.click(self.remove, [parts.remove, parts.max_tokens], changed, **HIDDEN)
        parts.cut_beginning.click(self.cut_beginning, [parts.max_tokens], changed, **HIDDEN)
        parts.cut_ends.click(self.cut_ends, [parts.max_tokens], changed, **HIDDEN)

    def show(self, max_tokens: float, request: gr.Request) -> Updates:
        try:
            return self.state(self.rooms.of(request), max_tokens)
        except UltraLongError as error:
            return {self.parts.status: panels.problem(str(error))}

    def measure(self, max_tokens: float, request: gr.Request) -> Updates:
        """The meter alone, so that it can change while an answer is written."""
        try:
            return self._meter(self.rooms.of(request), max_tokens)
        except UltraLongError as error:
            return {self.parts.meter: panels.problem(str(error))}

    def add(self, payload: Any, max_tokens: float, request: gr.Request) -> Iterator[Updates]:
        """Reads what was uploaded; the files are deleted whatever comes of it."""
        parts = self.parts
        files = []
        try:
            files = uploaded(payload)
            room = self.rooms.of(request)

            def read(say: Callable[[str], None]) -> list[Refusal]:
                return room.session.add(
                    [file.path for file in files],
                    names=[file.name for file in files],
                    progress=lambda name, done, total: say(texts.reading_file(name, done, total)),
                )

            before, turns = {document.digest for document in room.session.documents}, room.session.turns
            for said in with_progress(read):
                if isinstance(said, str):
                    yield {parts.status: panels.status(said)}
                else:
                    refusals = said
            names = [one.name for one in room.session.documents if one.digest not in before]
            told = panels.status(texts.added(names, anew=bool(turns))) if names else ""
            told += panels.remarks([str(refusal) for refusal in refusals])
            yield {**self.state(room, max_tokens), parts.status: told, parts.uploads: None}
        except UltraLongError as error:
            yield {parts.status: panels.problem(str(error)), parts.uploads: None}
        finally:
            delete(files)

    def remove(self, name: str | None, max_tokens: float, request: gr.Request) -> Updates:
        return self._change(request, max_tokens, lambda room: room.session.remove(name or ""))

    def cut_beginning(self, max_tokens: float, request: gr.Request) -> Updates:
        return self._cut("beginning", max_tokens, request)

    def cut_ends(self, max_tokens: float, request: gr.Request) -> Updates:
        return self._cut("ends", max_tokens, request)

    def state(self, room: Room, max_tokens: float) -> Updates:
        """All of the page that follows from documents and turns."""
        parts, session = self.parts, room.session
        names = [document.name for document in session.documents]
        return {
            **self._meter(room, max_tokens),
            parts.remove: gr.Dropdown(names, value=names[-1] if names else None, visible=bool(names)),
            parts.remove_button: gr.Button(visible=bool(names)),
            parts.cache: panels.cache(session.cache_use()),
            parts.chat: gr.Chatbot(
                turn_messages(session.turns),
                examples=[{"text": question} for question in questions_of(session.documents)],
            ),
            parts.status: "",
            **self.evidence.state(room),
        }

    def _meter(self, room: Room, max_tokens: float) -> Updates:
        documents = room.session.documents
        if not documents:
            return {
                self.parts.meter: f"<p>{texts.NO_DOCUMENTS}</p>",
                self.parts.cuts: gr.Row(visible=False),
            }
        meter = room.session.meter(options=Options(max_new_tokens=int(max_tokens)))
        return {
            self.parts.meter: panels.meter(meter, documents),
            self.parts.cuts: gr.Row(visible=not meter.fits),
        }

    def _adding(self, example: Example) -> Callable[..., Updates]:
        def add(max_tokens: float, request: gr.Request) -> Updates:
            document = example.document()
            return self._change(request, max_tokens, lambda room: room.session.add_document(document))

        return add

    def _cut(self, keep: Keep, max_tokens: float, request: gr.Request) -> Updates:
        options = Options(max_new_tokens=int(max_tokens))
        return self._change(request, max_tokens, lambda room: room.session.cut(keep, options), texts.cut)

    def _change(
        self,
        request: gr.Request,
        max_tokens: float,
        change: Callable[[Room], Any],
        say: Callable[[Any], str] = lambda result: "",
    ) -> Updates:
        try:
            room = self.rooms.of(request)
            turns = room.session.turns
            told = say(change(room))
            if turns and not room.session.turns:
                told = f"{told} {texts.CHAT_ANEW}".strip()
            return {**self.state(room, max_tokens), self.parts.status: panels.status(told)}
        except UltraLongError as error:
            return {self.parts.status: panels.problem(str(error))}
