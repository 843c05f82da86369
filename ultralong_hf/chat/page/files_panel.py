"""Export of the chat, and the document's cache as a file."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ultralong_hf.chat.page import panels, texts
from ultralong_hf.chat.page.events import HIDDEN
from ultralong_hf.chat.page.layout import Parts
from ultralong_hf.chat.page.rooms import Rooms
from ultralong_hf.chat.page.uploads import delete, uploaded
from ultralong_hf.errors import ChatError, UltraLongError

# An export never is a file of the server: the browser makes it of the text.
SAVE_TEXT = """(found) => {
    if (!found || !found.text) return;
    const link = document.createElement('a');
    link.href = URL.createObjectURL(new Blob([found.text], {type: found.type + ';charset=utf-8'}));
    link.download = found.name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}"""
SAVE_FILE = """() => setTimeout(() => {
    const link = document.querySelector('#ul-cache-file a, a#ul-cache-file');
    const button = document.querySelector('#ul-cache-file button, button#ul-cache-file');
    (link || button)?.click();
}, 100)"""


class FilesPanel:
    def __init__(self, parts: Parts, rooms: Rooms) -> None:
        self.parts, self.rooms = parts, rooms

    def connect(self) -> None:
        parts = self.parts
        for button, export in (
            (parts.export_markdown, self.export_markdown),
            (parts.export_json, self.export_json),
        ):
            button.click(export, None, [parts.exported, parts.status], **HIDDEN).then(
                None, [parts.exported], js=SAVE_TEXT
            )
        saved = [parts.cache_file, parts.status, parts.cache]
        parts.cache_save.click(self.save_cache, None, saved, **HIDDEN).success(None, js=SAVE_FILE)
        parts.cache_load.upload(self.load_cache, [parts.cache_load], saved[1:], preprocess=False, **HIDDEN)

    def export_markdown(self, request: gr.Request) -> tuple[dict[str, str] | None, str]:
        return self._export(request, "chat.md", "text/markdown")

    def export_json(self, request: gr.Request) -> tuple[dict[str, str] | None, str]:
        return self._export(request, "chat.json", "application/json")

    def save_cache(self, request: gr.Request) -> tuple[Any, str, str]:
        try:
            room = self.rooms.of(request)
            path = room.session.save_cache(room.folder() / "cache.safetensors")
            told = panels.status(texts.cache_saved(panels.size(path.stat().st_size)))
            return gr.DownloadButton(value=path), told, panels.cache(room.session.cache_use())
        except UltraLongError as error:
            return gr.DownloadButton(value=None), panels.problem(str(error)), gr.skip()

    def load_cache(self, payload: Any, request: gr.Request) -> tuple[str, Any]:
        files = []
        try:
            files = uploaded(payload)
            room = self.rooms.of(request)
            tokens = room.session.load_cache(files[0].path)
            return panels.status(texts.cache_loaded(tokens)), panels.cache(room.session.cache_use())
        except UltraLongError as error:
            return panels.problem(str(error)), gr.skip()
        finally:
            delete(files)

    def _export(self, request: gr.Request, name: str, kind: str) -> tuple[dict[str, str] | None, str]:
        try:
            session = self.rooms.of(request).session
            if not session.turns:
                raise ChatError(texts.NOTHING_TO_EXPORT)
            text = session.to_json() if name.endswith(".json") else session.to_markdown()
            return {"name": name, "type": kind, "text": text}, ""
        except UltraLongError as error:
            return None, panels.problem(str(error))
