"""An OpenAI-compatible server on loopback, which streams and counts what it could reuse."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """Answers "The " "code " "is 12345."; counts how much of a request's text began the one before."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.models = [{"id": "small", "max_model_len": 4096}]
        self.bodies, self.statuses, self.gate = [], [], threading.Event()
        self.gate.set()
        self.finish = "stop"
        self.usage = True

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        self._send(json.dumps({"data": self.server.models}).encode())

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.server.statuses:
            self.send_response(self.server.statuses.pop(0))
            self.send_header("retry-after", "0")
            self.end_headers()
            return
        text = json.dumps(body["messages"])
        before = [json.dumps(earlier["messages"]) for earlier in self.server.bodies]
        self.server.bodies.append(body)
        shared = max((_common(text, other) for other in before), default=0)
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        for piece in ("The ", "code ", "is 12345."):
            self._event({"choices": [{"delta": {"content": piece}, "finish_reason": None}]})
            self.server.gate.wait(10)
        self._event({"choices": [{"delta": {}, "finish_reason": self.server.finish}]})
        if self.server.usage:
            details = {"prompt_tokens_details": {"cached_tokens": shared}}
            self._event(
                {"choices": [], "usage": {"prompt_tokens": len(text), "completion_tokens": 3, **details}}
            )
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, event):
        try:
            self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
            self.wfile.flush()
        except (BrokenPipeError, ConnectionResetError):
            self.server.gate.set()

    def _send(self, content):
        self.send_response(200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _common(first, second):
    return next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b),
        min(len(first), len(second)),
    )


@contextmanager
def running_server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.gate.set()
        server.shutdown()
        server.server_close()
        thread.join()
