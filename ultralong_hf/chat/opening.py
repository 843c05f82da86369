"""What a user names -> a chat engine: a model, a server, or nothing (the lab's model)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ultralong_hf.chat.engine import ChatEngine
from ultralong_hf.chat.meter import Recall, load_recall
from ultralong_hf.chat.prompting import PromptStyle
from ultralong_hf.errors import ModelError

LAB_ANSWER_START = "The"
"""How all answers begin that the lab's model was trained on. Behind documents of source code it goes on with
code without it: of 108 questions over 40 to 180 held-out lines it answered 64 right, with it 108."""


def open_chat_engine(
    model: str | Path | None = None,
    engine: str = "transformers",
    *,
    tokenizer: str | Path | None = None,
    report: str | Path | None = None,
    style: PromptStyle | None = None,
    device: str | None = None,
    dtype: str = "auto",
    say: Callable[[str], None] = print,
    **options: Any,
) -> tuple[ChatEngine, Recall | None]:
    """(the engine, what its model was found to remember).

    model: a folder or hub id; beside a server its name there; None: the lab's model, or the server's only
    one. engine: "transformers" or a server's URL. tokenizer: beside a server, for exact counts. report: an
    evaluation's report.json or its folder. options: those of LocalEngine or ServerChatEngine.
    Raises ModelError, ChatError and EndpointError.
    """
    recall = load_recall(report) if report is not None else None
    if engine.startswith(("http://", "https://")):
        from ultralong_hf.chat.engine_server import ServerChatEngine

        name = None if model is None else str(model)
        counted = None if tokenizer is None else _tokenizer(tokenizer)
        return ServerChatEngine(engine, name, tokenizer=counted, style=style or "guided", **options), recall
    if engine != "transformers":
        raise ModelError(
            f"engine {engine!r} is neither 'transformers' nor the URL of a server (http://HOST:PORT/v1)."
        )
    from ultralong_hf.chat.engine_local import LocalEngine

    if model is None:
        from ultralong_hf.chat.default_model import lab_model

        folder = lab_model(say=say)
        recall = recall or load_recall(folder)
        model, style = folder / "model", style or "bare"
        options = {"name": "the lab's model", "answer_start": LAB_ANSWER_START} | options
    return (
        LocalEngine.from_pretrained(model, device=device, dtype=dtype, style=style or "guided", **options),
        recall,
    )


def _tokenizer(name: str | Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{name} cannot be read as a tokenizer: {str(error).strip().splitlines()[0]}"
        ) from error
