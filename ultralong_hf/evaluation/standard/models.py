"""Our engines as lm-eval's models."""

from __future__ import annotations

from typing import Any

from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.standard.harness import quiet

# What a standard task's prompt and answer are at most, about: MMLU-Pro with five examples.
_PROMPT_TOKENS, _ANSWER_TOKENS = 4_096, 2_048


def standard_batch_size(engine: Any) -> int:
    """Prompts a pass: the engine's own figure for prompts of this side's size.

    lm-eval's "auto" tries prompts as long as the whole window, which no memory holds at 1M tokens.
    """
    return max(1, int(engine.batch_size(_PROMPT_TOKENS, _ANSWER_TOKENS)))


def harness_model(engine: Any, tokenizer: Any, batch_size: int) -> Any:
    """The model of an in-process engine, as it is loaded, or the server of a server engine.

    Raises EvaluationError for an engine that has neither.
    """
    model = getattr(engine, "model", None)
    if hasattr(model, "forward"):
        with quiet():
            from lm_eval.models.huggingface import HFLM

            return HFLM(pretrained=model, backend="causal", tokenizer=tokenizer, batch_size=batch_size)
    if hasattr(engine, "url"):
        return _server_model(engine, tokenizer, batch_size)
    raise EvaluationError(
        f"The standard side needs a model in this process or a server; {type(engine).__name__} is neither."
    )


def _server_model(engine: Any, tokenizer: Any, batch_size: int) -> Any:
    """Completions, not chat: multiple choice is scored by the probabilities of its options."""
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    return LocalCompletionsAPI(
        base_url=f"{str(engine.url).rstrip('/')}/completions",
        model=engine.model_name,
        tokenizer=tokenizer.name_or_path,
        tokenizer_backend="huggingface",
        num_concurrent=getattr(engine, "concurrency", None) or 1,
        max_retries=3,
        batch_size=batch_size,
    )
