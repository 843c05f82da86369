"""Browser tabs -> sessions: each its own, deleted when the tab is closed."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from ultralong_hf.chat.documents import Document
from ultralong_hf.chat.needle_lab import NeedleLab
from ultralong_hf.chat.page import texts
from ultralong_hf.chat.session import ChatService, Session
from ultralong_hf.errors import ChatError


@dataclass
class Room:
    """What the server remembers of a tab beside its session."""

    session: Session
    turn: int | None = None
    """The turn whose evidence is shown; None: the last."""
    document: int = 0
    """What the viewer shows, and around which of its characters."""
    at: int = 0
    sweeping: bool = False
    """Whether the needle lab goes on to its next depth."""
    _folder: Path | None = None

    def __post_init__(self) -> None:
        self.lab = NeedleLab(self.session)

    def folder(self) -> Path:
        """For files that are offered to this tab alone; deleted with it."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="room-", dir=_temporary_home()))
        return self._folder

    def close(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


class Rooms:
    """documents: what every session begins with."""

    def __init__(self, service: ChatService, documents: Sequence[Document] = ()) -> None:
        self.service, self.documents = service, tuple(documents)
        self._rooms: dict[tuple[str, str], Room] = {}
        self._lock = threading.Lock()

    def of(self, request: gr.Request) -> Room:
        """The tab's room, made at its first request. Raises ChatError for one whose session has ended."""
        key = _key(request)
        with self._lock:
            room = self._rooms.get(key)
            if room is None:
                room = Room(self.service.open())
                if self.documents:
                    room.session.set_documents(self.documents)
                self._rooms[key] = room
                return room
        try:
            self.service.get(room.session.name)
        except ChatError as error:
            self.close(request)
            raise ChatError(texts.SESSION_ENDED) from error
        return room

    def close(self, request: gr.Request) -> None:
        """Documents, chat, caches and files of a tab are deleted."""
        with self._lock:
            room = self._rooms.pop(_key(request), None)
        if room is not None:
            self.service.close(room.session.name)
            room.close()

    def close_all(self) -> None:
        with self._lock:
            rooms = list(self._rooms.values())
            self._rooms.clear()
        self.service.close_all()
        for room in rooms:
            room.close()

    def __len__(self) -> int:
        return len(self._rooms)

    def drop_ended(self) -> None:
        """Rooms whose sessions nobody used for long."""
        self.service.sweep()
        with self._lock:
            ended = [key for key, room in self._rooms.items() if room.session.closed]
            rooms = [self._rooms.pop(key) for key in ended]
        for room in rooms:
            room.close()


def _key(request: gr.Request) -> tuple[str, str]:
    """Gradio's name of the tab, which is drawn at random there, and who is logged in."""
    return str(request.session_hash), str(request.username or "")


def _temporary_home() -> str:
    from gradio.utils import get_upload_folder

    home = get_upload_folder()
    Path(home).mkdir(parents=True, exist_ok=True)
    return home
