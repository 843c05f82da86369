"""What `evaluate` is given as model and engine -> an engine that answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ultralong_hf.errors import EvaluationError, ModelError
from ultralong_hf.evaluation.engines.base import Engine
from ultralong_hf.evaluation.tasks import nearest

ENGINES = ("transformers", "http://HOST:PORT/v1 (a server)")


def open_engine(
    model: Any,
    engine: str | Engine = "transformers",
    *,
    tokenizer: Any = None,
    device: Any = None,
    dtype: Any = "auto",
    engine_model: str | None = None,
    concurrency: int | None = None,
    timeout: float | None = None,
    **options: Any,
) -> Engine:
    """engine: "transformers", the URL of an OpenAI-compatible server, or an engine, which is given back.

    model: a path, a hub id, a (model, tokenizer) pair, or a loaded model with `tokenizer`; beside a server
    the folder or hub id whose tokenizer makes the prompts. options: those of `TransformersEngine`.
    Raises EvaluationError and ModelError.
    """
    if not isinstance(engine, str):
        return engine
    if engine.startswith(("http://", "https://")):
        from ultralong_hf.evaluation.engines.server import ServerEngine

        return ServerEngine(
            engine,
            engine_model,
            tokenizer=tokenizer or _tokenizer_beside(model, engine),
            concurrency=concurrency,
            timeout=timeout,
            beyond_window=bool(options.get("beyond_window")),
        )
    if engine != "transformers":
        raise EvaluationError(f"{engine!r} is no engine. {nearest(engine, ENGINES)}")
    from ultralong_hf.evaluation.engines.local import TransformersEngine

    if isinstance(model, str | Path):
        return TransformersEngine.from_pretrained(
            model, tokenizer=tokenizer, device=device, dtype=dtype, **options
        )
    if isinstance(model, tuple):
        if len(model) != 2:
            raise EvaluationError(f"A tuple of {len(model)} is no model: give (model, tokenizer).")
        model, tokenizer = model
    if tokenizer is None:
        raise EvaluationError(
            "A loaded model comes with its tokenizer: give (model, tokenizer) or tokenizer=."
        )
    return TransformersEngine(model, tokenizer, **options)


def _tokenizer_beside(model: Any, url: str) -> Any:
    from transformers import AutoTokenizer

    if not isinstance(model, str | Path):
        raise EvaluationError(
            "A server needs the tokenizer of its model: give its folder or hub id, or tokenizer=."
        )
    try:
        return AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise ModelError(
            f"{model} cannot be read as a tokenizer, which makes the prompts for {url}: {first_line}"
        ) from error
