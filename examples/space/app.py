"""The chat as a Space of the Hugging Face hub: on its CPU, on ZeroGPU, or over an endpoint. README.md has the
settings. `python app.py` runs it on your machine too, for everybody who reaches it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

try:
    import spaces  # before torch, so that ZeroGPU can stand in for the GPU at start
except ImportError:
    spaces = None

from ultralong_hf.chat.engine import Event, Options, Piece, Question, Reply
from ultralong_hf.chat.meter import load_recall
from ultralong_hf.chat.opening import LAB_ANSWER_START, open_chat_engine
from ultralong_hf.chat.page.serving import Served, Where, serve
from ultralong_hf.chat.session import ChatService

BESIDE = Path(__file__).parent / "model"
GPU_SECONDS = 120
"""ZeroGPU's limit for one answer, reading included."""
HUB = ("https://huggingface.co", "https://*.huggingface.co")


class ZeroGPUEngine:
    """An engine whose answers are written in ZeroGPU's process; all else is done here."""

    def __init__(self, engine: Any, gpu: Callable[..., Any]) -> None:
        self._engine = engine

        def answer(question: Question, options: Options) -> Iterator[Event]:
            yield from engine.ask(question, options, threading.Event())

        self._answer = gpu(duration=GPU_SECONDS)(answer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def ask(self, question: Question, options: Options, stop: threading.Event) -> Iterator[Event]:
        """Stops between two events: no signal reaches the other process."""
        text = ""
        for event in self._answer(question, options):
            text += event.text if isinstance(event, Piece) else ""
            if stop.is_set() and not isinstance(event, Reply):
                yield Reply(text, "stopped", None, None, None, None, 0.0)
                return
            yield event


def make_service() -> ChatService:
    """From the environment."""
    url, model = os.environ.get("ULTRALONG_ENGINE", ""), os.environ.get("ULTRALONG_MODEL")
    if url:
        engine, recall = open_chat_engine(model, url, tokenizer=os.environ.get("ULTRALONG_TOKENIZER"))
        return _service(engine, recall, 512)
    budget = float(os.environ.get("ULTRALONG_CACHE_GIB", "4"))
    options: dict[str, Any] = {"cache_bytes": int(budget * 1024**3)}
    zero = spaces is not None and bool(os.environ.get("SPACES_ZERO_GPU"))
    device = "cuda" if zero else None
    if model is None and BESIDE.is_dir():
        lab: dict[str, Any] = {"style": "bare", "name": "the lab's model", "answer_start": LAB_ANSWER_START}
        engine, _ = open_chat_engine(BESIDE, device=device, **lab, **options)
        report = BESIDE / "report.json"
        recall = load_recall(report) if report.is_file() else None
    else:
        engine, recall = open_chat_engine(model, device=device, **options)
    return _service(ZeroGPUEngine(engine, spaces.GPU) if zero else engine, recall, 512 if model else 32)


def _service(engine: Any, recall: Any, longest: int) -> ChatService:
    longest = int(os.environ.get("ULTRALONG_MAX_NEW_TOKENS") or longest)
    return ChatService(engine, recall=recall, options=Options(max_new_tokens=longest))


def start() -> Served:
    """Open to all, as a Space is."""
    return serve(make_service(), Where(host="0.0.0.0", port=7860, frames=HUB, open_to_all=True))


if __name__ == "__main__":
    start().wait()
