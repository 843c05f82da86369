"""A server of OpenAI's completions on loopback, for a small model: what lm-eval asks of vLLM, by torch."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch


def complete(model: Any, tokenizer: Any, asked: dict[str, Any]) -> dict[str, Any]:
    """One prompt of token ids: its log probabilities (echo), or greedy text up to a stop."""
    [ids] = asked["prompt"]
    if asked.get("echo"):
        with torch.inference_mode():
            scores = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        own = [None] + [float(scores[at - 1, ids[at]]) for at in range(1, len(ids))]
        best = [None] + [{"best": float(scores[at - 1].max())} for at in range(1, len(ids))]
        # The token that is made after the echo comes last.
        return {"token_logprobs": [*own, 0.0], "top_logprobs": [*best, {"best": 0.0}]}
    made = model.generate(
        torch.tensor([ids]), max_new_tokens=asked["max_tokens"], do_sample=False, pad_token_id=0
    )[0, len(ids) :]
    text = tokenizer.decode(made, skip_special_tokens=True)
    for stop in asked["stop"] or []:
        text = text.split(stop)[0]
    return {"text": text}


@contextmanager
def serve(model: Any, tokenizer: Any, *, broken: bool = False) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """(base URL, what was asked). broken: every request ends with status 500."""
    requests: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append({"path": self.path, "key": self.headers["Authorization"], **asked})
            found = {} if broken else complete(model, tokenizer, asked)
            choice = {"index": 0, "text": found.pop("text", ""), "logprobs": found or None}
            body = json.dumps({"choices": [choice]}).encode()
            self.send_response(500 if broken else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
