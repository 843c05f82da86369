"""What every answer of the web server must carry, and what it never does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse

# Gradio writes its scripts and styles into the page and makes functions of text; all else is forbidden. No
# answer and no document can so fetch or send anything, whatever of it should slip through the sanitizer.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self'; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; "
    "frame-ancestors {ancestors}"
)
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]", "::1")
# Gradio's server fetches addresses for its pages there; this page has no use for it.
_FETCHES = ("/file=http:", "/file=https:", "/file=//", "/proxy=")


class Guard:
    """hosts: names under which the page is served, None: any. A loopback page is so not reached by a page
    elsewhere that has its own name point here. frames: who may frame it, for Spaces."""

    def __init__(self, app: Any, *, hosts: Sequence[str] | None, frames: Sequence[str] = ()) -> None:
        self.app, self.hosts = app, hosts
        self.policy = POLICY.format(ancestors=" ".join(frames) or "'none'")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if not self._is_host(scope):
            await PlainTextResponse("This page is served under other names.", 421)(scope, receive, send)
            return
        path = scope["path"].lower().replace("%3a", ":").replace("%2f", "/")
        if any(part in path for part in _FETCHES):
            await PlainTextResponse("Nothing is fetched here.", 403)(scope, receive, send)
            return

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = self.policy
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
            await send(message)

        await self.app(scope, receive, guarded)

    def _is_host(self, scope: Any) -> bool:
        if self.hosts is None:
            return True
        named = next((value.decode("latin-1") for key, value in scope["headers"] if key == b"host"), "")
        name = named.rsplit(":", 1)[0] if not named.endswith("]") else named
        return name.lower() in self.hosts
