"""The page as a web server: where it listens, who may come in, what it leaves behind."""

from __future__ import annotations

import ipaddress
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from ultralong_hf.chat.documents import Document
from ultralong_hf.chat.session import ChatService
from ultralong_hf.errors import ChatError

MOST_THREADS = 96
"""More than may wait for an answer, so that a stop is always heard."""
QUEUE = 256
SWEEP_SECONDS = 60
"""How often chats that nobody uses, and uploads that nobody took, are deleted."""
UPLOAD_SECONDS = 900
# The reader's own, so that none is fetched.
FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
MONO = ["ui-monospace", "monospace"]


@dataclass(frozen=True, kw_only=True)
class Where:
    """host, port: None: the first free one from 7860 on. auth: (user, password) pairs. frames: sites that
    may frame the page. open_to_all: a public page without a password, as a Space is."""

    host: str = "127.0.0.1"
    port: int | None = None
    share: bool = False
    auth: tuple[tuple[str, str], ...] = ()
    frames: tuple[str, ...] = ()
    open_to_all: bool = False

    def __post_init__(self) -> None:
        if not (is_loopback(self.host) and not self.share) and not self.auth and not self.open_to_all:
            asked = "--share" if self.share else f"--host {self.host}"
            raise ChatError(
                f"{asked} lets others in, who could use this machine: give them a name and a password with "
                "--auth USER:PASSWORD, or leave it out to serve this machine alone."
            )


def is_loopback(host: str) -> bool:
    """
    >>> is_loopback("localhost"), is_loopback("127.8.0.1"), is_loopback("0.0.0.0"), is_loopback("example.org")
    (True, True, False, False)
    """
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Served:
    """A page that is being served; `close` ends it and deletes everything of its users."""

    def __init__(self, page: Any, rooms: Any, url: str, folder: Path) -> None:
        self.page, self.rooms, self.url = page, rooms, url
        self.folder = folder

    def wait(self) -> None:
        """Until Ctrl-C."""
        while True:
            time.sleep(SWEEP_SECONDS)
            self.rooms.drop_ended()

    def close(self) -> None:
        self.rooms.close_all()
        self.page.close(verbose=False)
        shutil.rmtree(self.folder, ignore_errors=True)


def serve(
    service: ChatService,
    where: Where | None = None,
    *,
    documents: Sequence[Document] = (),
    open_browser: bool = False,
    say: Callable[[str], None] = print,
) -> Served:
    """Starts the server, and returns at once. Raises ChatError where the port is taken."""
    where = where or Where()
    folder = Path(tempfile.mkdtemp(prefix="ultralong-chat-"))  # of this user alone
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio as gr
    from starlette.middleware import Middleware

    from ultralong_hf.chat.page.building import build_page
    from ultralong_hf.chat.page.guarding import LOOPBACK_NAMES, Guard

    page, rooms = build_page(service, documents=documents)
    page.delete_cache = (SWEEP_SECONDS, UPLOAD_SECONDS)
    page.queue(max_size=QUEUE, default_concurrency_limit=16, api_open=False)
    local = is_loopback(where.host) and not where.share
    hosts = (*LOOPBACK_NAMES, where.host.lower()) if local else None
    try:
        _, url, shared = page.launch(
            server_name=where.host,
            server_port=where.port,
            share=where.share,
            auth=list(where.auth) or None,
            inbrowser=open_browser,
            prevent_thread_lock=True,
            quiet=True,
            show_error=False,
            max_threads=MOST_THREADS,
            max_file_size=service.limits.file_bytes,
            state_session_capacity=2 * service.bounds.sessions,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            theme=gr.themes.Default(
                primary_hue="emerald", neutral_hue="slate", spacing_size="sm", font=FONTS, font_mono=MONO
            ),
            css=(files("ultralong_hf.chat.page") / "page.css").read_text(encoding="utf-8"),
            app_kwargs={"middleware": [Middleware(Guard, hosts=hosts, frames=where.frames)]},
        )
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise ChatError(
            f"{where.host}, port {where.port or '7860 to 7959'}: taken, or no address of this "
            "machine. Choose another --port or --host."
        ) from error
    say(f"{service.engine.name}: {url}" + (f" and {shared}" if shared else ""))
    return Served(page, rooms, url, folder)
