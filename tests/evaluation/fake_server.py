"""A small HTTP server on loopback that answers like an OpenAI-compatible one, or fails as it is told."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeServer:
    """`misbehave(handler, body, number)` may answer a prompt itself (true), or leave it (false).

    takes: the forms of prompts that it takes: "ids", "text", "chat".
    """

    def __init__(
        self,
        answer: Callable[[Any], str],
        *,
        takes: tuple[str, ...] = ("ids", "text", "chat"),
        misbehave: Callable[[Any, dict[str, Any], int], bool] = lambda handler, body, number: False,
        models: tuple[dict[str, Any], ...] = ({"id": "m", "max_model_len": 4096},),
        key: str | None = None,
    ) -> None:
        self.answer, self.takes, self.misbehave = answer, takes, misbehave
        self.models, self.key = models, key
        self.asked: list[dict[str, Any]] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()

    @contextmanager
    def running(self) -> Iterator[str]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                if self.allowed():
                    self.give({"object": "list", "data": list(fake.models)})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                if self.allowed():
                    fake._serve(self, body)

            def allowed(self) -> bool:
                if fake.key and self.headers.get("authorization") != f"Bearer {fake.key}":
                    self.give({"error": {"message": "Incorrect API key"}}, 401)
                    return False
                return True

            def give(self, content: Any, status: int = 200, **headers: str) -> None:
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def drop(self) -> None:
                self.connection.shutdown(socket.SHUT_RDWR)
                self.connection.close()

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def _serve(self, handler: Any, body: dict[str, Any]) -> None:
        form = "chat" if "messages" in body else "text" if isinstance(body["prompt"], str) else "ids"
        if form not in self.takes:
            handler.give({"detail": f"no {form} here"}, 422)
            return
        trial = body["max_tokens"] == 1
        with self._lock:
            if not trial:
                self.asked.append(body)
            number = len(self.asked)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            if not trial:
                time.sleep(0.005)
            if trial or not self.misbehave(handler, body, number):
                handler.give(self.completion(body, form))
        finally:
            with self._lock:
                self._at_once -= 1

    def completion(self, body: dict[str, Any], form: str = "ids") -> dict[str, Any]:
        text = "x" if body["max_tokens"] == 1 else self.answer(body.get("prompt") or body["messages"])
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
        choice |= {"message": {"role": "assistant", "content": text}} if form == "chat" else {"text": text}
        usage = {"completion_tokens": 1}
        if form == "ids":
            usage["prompt_tokens"] = len(body["prompt"])
        return {"choices": [choice], "usage": usage}
