"""The page, whole: layout and panels over a service."""

from __future__ import annotations

from collections.abc import Sequence

import gradio as gr

from ultralong_hf.chat.documents import Document
from ultralong_hf.chat.page.chat_panel import ChatPanel
from ultralong_hf.chat.page.documents_panel import DocumentsPanel
from ultralong_hf.chat.page.evidence_panel import EvidencePanel
from ultralong_hf.chat.page.examples import EXAMPLES, Example
from ultralong_hf.chat.page.files_panel import FilesPanel
from ultralong_hf.chat.page.layout import build_layout
from ultralong_hf.chat.page.needle_panel import NeedlePanel
from ultralong_hf.chat.page.rooms import Rooms
from ultralong_hf.chat.session import ChatService

ASKED_AT_ONCE = 40
"""Questions that may be under way or waiting in the engine's own queue, which tells how many are ahead."""


def build_page(
    service: ChatService, *, documents: Sequence[Document] = (), examples: Sequence[Example] = EXAMPLES
) -> tuple[gr.Blocks, Rooms]:
    """documents: what every tab begins with. The rooms hold what each tab has; `close_all` deletes it."""
    rooms = Rooms(service, documents)
    parts = build_layout(
        model=service.engine.name, window=service.engine.window, options=service.options, examples=examples
    )
    evidence = EvidencePanel(parts, rooms)
    documents_panel = DocumentsPanel(parts, rooms, evidence)
    with parts.page:
        evidence.connect()
        documents_panel.connect()
        ChatPanel(parts, rooms, documents_panel, asked_at_once=ASKED_AT_ONCE).connect()
        FilesPanel(parts, rooms).connect()
        NeedlePanel(parts, rooms, asked_at_once=ASKED_AT_ONCE).connect()
        parts.page.unload(rooms.close)
    return parts.page, rooms
