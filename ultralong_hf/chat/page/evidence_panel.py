"""What an answer rests on: its passages in a list, the chosen one marked in the document."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ultralong_hf.chat.chat import ChatTurn
from ultralong_hf.chat.evidence import Hit
from ultralong_hf.chat.page import panels, texts
from ultralong_hf.chat.page.events import HIDDEN, Updates
from ultralong_hf.chat.page.layout import Parts
from ultralong_hf.chat.page.messages import turn_of
from ultralong_hf.chat.page.rooms import Room, Rooms
from ultralong_hf.chat.page.viewer import AFTER, BEFORE, Spot, document_html
from ultralong_hf.errors import UltraLongError

LONGEST_LABEL = 90
# The chosen passage comes into sight; without an animation, which some cannot bear.
SHOW_CHOSEN = """() => setTimeout(() => {
    const mark = document.querySelector('#ul-viewer mark.chosen');
    const box = document.querySelector('#ul-viewer .ul-lines');
    if (mark && box) box.scrollTop = mark.offsetTop - box.offsetTop - box.clientHeight / 3;
}, 80)"""


@dataclass(frozen=True)
class Listed:
    """A passage of an answer: its label, and characters [start, end) of a document."""

    label: str
    document: int
    start: int
    end: int


class EvidencePanel:
    def __init__(self, parts: Parts, rooms: Rooms) -> None:
        self.parts, self.rooms = parts, rooms
        self.outputs: list[Any] = [
            parts.answers, parts.evidence, parts.passages, parts.shown_document, parts.viewer,
            parts.earlier, parts.later,
        ]  # fmt: skip

    def connect(self) -> None:
        parts = self.parts
        parts.chat.select(self.choose_message, None, self.outputs, **HIDDEN).then(None, js=SHOW_CHOSEN)
        parts.answers.input(self.choose_answer, [parts.answers], self.outputs, **HIDDEN).then(
            None, js=SHOW_CHOSEN
        )
        parts.passages.input(self.choose_passage, [parts.passages], self.outputs, **HIDDEN).then(
            None, js=SHOW_CHOSEN
        )
        parts.shown_document.input(self.choose_document, [parts.shown_document], self.outputs, **HIDDEN)
        parts.earlier.click(self.earlier, None, self.outputs, **HIDDEN)
        parts.later.click(self.later, None, self.outputs, **HIDDEN)

    def choose_message(self, request: gr.Request, event: gr.SelectData) -> Updates:
        return self._show_turn(request, turn_of(event.index))

    def choose_answer(self, number: int | None, request: gr.Request) -> Updates:
        return self._show_turn(request, number)

    def choose_passage(self, index: int | None, request: gr.Request) -> Updates:
        try:
            room = self.rooms.of(request)
            return self.state(room, chosen=index or 0)
        except UltraLongError as error:
            return {self.parts.evidence: panels.problem(str(error))}

    def choose_document(self, index: int | None, request: gr.Request) -> Updates:
        return self._move(request, lambda room: (index or 0, 0))

    def earlier(self, request: gr.Request) -> Updates:
        return self._move(request, lambda room: (room.document, max(0, room.at - BEFORE - AFTER)))

    def later(self, request: gr.Request) -> Updates:
        return self._move(request, lambda room: (room.document, room.at + BEFORE + AFTER))

    def state(self, room: Room, *, chosen: int = 0) -> Updates:
        """The list of the shown turn's passages, and the chosen one in the viewer."""
        parts, turns = self.parts, room.session.turns
        if not turns:
            room.turn = None
        elif room.turn is None or room.turn >= len(turns):
            room.turn = len(turns) - 1
        turn = None if room.turn is None else turns[room.turn]
        listed = list(_listed(turn, room)) if turn else []
        if listed:
            chosen = min(chosen, len(listed) - 1)
            room.document, room.at = listed[chosen].document, listed[chosen].start
        labels = [(texts.answer_label(i + 1, _short(one.question)), i) for i, one in enumerate(turns)]
        return {
            parts.answers: gr.Dropdown(labels, value=room.turn, visible=len(turns) > 1),
            parts.evidence: _summary(turn),
            parts.passages: gr.Radio(
                [(one.label, index) for index, one in enumerate(listed)],
                value=chosen if listed else None,
                visible=bool(listed),
            ),
            **self._viewer(room, listed, chosen if listed else None),
        }

    def _viewer(self, room: Room, listed: list[Listed], chosen: int | None) -> Updates:
        parts, documents = self.parts, room.session.documents
        room.document = min(room.document, max(0, len(documents) - 1))
        names = [(document.name, index) for index, document in enumerate(documents)]
        shown = f"<p>{texts.VIEWER_EMPTY}</p>"
        if documents:
            document = documents[room.document]
            room.at = min(room.at, max(0, len(document.text) - 1))
            spots = [
                Spot(one.start, one.end, index == chosen)
                for index, one in enumerate(listed)
                if one.document == room.document
            ]
            shown = document_html(document, room.at, spots)
        return {
            parts.shown_document: gr.Dropdown(
                names, value=room.document if documents else None, visible=bool(documents)
            ),
            parts.viewer: shown,
            parts.earlier: gr.Button(visible=bool(documents)),
            parts.later: gr.Button(visible=bool(documents)),
        }

    def _show_turn(self, request: gr.Request, turn: int | None) -> Updates:
        try:
            room = self.rooms.of(request)
            room.turn = turn
            return self.state(room)
        except UltraLongError as error:
            return {self.parts.evidence: panels.problem(str(error))}

    def _move(self, request: gr.Request, where: Any) -> Updates:
        try:
            room = self.rooms.of(request)
            room.document, room.at = where(room)
            turns = room.session.turns
            turn = turns[room.turn] if room.turn is not None and room.turn < len(turns) else None
            return self._viewer(room, list(_listed(turn, room)) if turn else [], None)
        except UltraLongError as error:
            return {self.parts.evidence: panels.problem(str(error))}


def _listed(turn: ChatTurn, room: Room) -> Iterator[Listed]:
    """Where quotes and values stand, then where the model looked; no place that lies within another."""
    documents = room.session.documents
    hits = [(claim, claim.hits[0]) for claim in (turn.evidence.claims if turn.evidence else ()) if claim.hits]
    for claim, hit in hits:
        if not any(_within(hit, other) for _, other in hits):
            label = texts.quoted_at(_short(claim.text), str(hit.place))
            yield Listed(label, hit.document, hit.start, hit.end)
    for passage in turn.passages:
        place = documents[passage.document].place(passage.start, passage.end)
        yield Listed(
            texts.attended_at(passage.share, str(place)), passage.document, passage.start, passage.end
        )


def _within(hit: Hit, other: Hit) -> bool:
    return (
        hit.document == other.document
        and other.start <= hit.start
        and hit.end <= other.end
        and other.end - other.start > hit.end - hit.start
    )


def _summary(turn: ChatTurn | None) -> str:
    if turn is None or turn.evidence is None:
        return f"<p>{texts.NO_EVIDENCE}</p>" if turn is None else ""
    sure = turn.evidence.verified
    return panels.status(turn.evidence.message) if sure else panels.problem(turn.evidence.message)


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= LONGEST_LABEL else f"{flat[: LONGEST_LABEL - 1]}…"
