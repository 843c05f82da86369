"""Our engines as lm-eval's models."""

from __future__ import annotations

import os
from typing import Any

from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.standard.guards import our_errors, quiet

# What a standard task's prompt and answer are at most, about: MMLU-Pro with five examples.
_PROMPT_TOKENS, _ANSWER_TOKENS = 4_096, 2_048
# Where a server does not tell its window: by itself lm-eval would cut prompts to 2,047 tokens.
_PLENTY = 131_072
_TIMEOUT = 1_800  # seconds a request
_KEYS = ("ULTRALONG_ENGINE_KEY", "OPENAI_API_KEY")
_TOKEN_IDS = "token ids"


def standard_batch_size(engine: Any) -> int:
    """Prompts a pass: the engine's own figure for prompts of this side's size.

    lm-eval's "auto" tries prompts as long as the whole window, which no memory holds at 1M tokens.
    """
    return max(1, int(engine.batch_size(_PROMPT_TOKENS, _ANSWER_TOKENS)))


def harness_model(engine: Any, tokenizer: Any, batch_size: int, *, chat_template: bool) -> Any:
    """The model of an in-process engine, as it is loaded, or the server of a server engine.

    Raises EvaluationError for an engine that has neither.
    """
    model = getattr(engine, "model", None)
    with quiet(), our_errors("The model cannot be handed to lm-eval"):
        if hasattr(model, "forward"):
            from lm_eval.models.huggingface import HFLM

            return HFLM(pretrained=model, backend="causal", tokenizer=tokenizer, batch_size=batch_size)
        if hasattr(engine, "url"):
            return _server_model(engine, tokenizer, chat_template)
    raise EvaluationError(
        f"The standard side needs a model in this process or a server; {type(engine).__name__} is neither."
    )


def _server_model(engine: Any, tokenizer: Any, chat_template: bool) -> Any:
    """Completions of token ids: multiple choice is scored by the probabilities of its options."""
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    if getattr(engine, "form", _TOKEN_IDS) != _TOKEN_IDS:
        raise EvaluationError(
            f"The standard side needs a server whose completions take token ids, such as vLLM; {engine.url} "
            f"takes {engine.form}."
        )
    first = tokenizer("a", verbose=False)["input_ids"][:1]
    adds_bos = tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id]
    key = next((os.environ[name] for name in _KEYS if os.environ.get(name)), None)
    lm = LocalCompletionsAPI(
        base_url=f"{str(engine.url).rstrip('/')}/completions",
        model=engine.model,
        tokenizer_backend="none",  # it would load one by name
        num_concurrent=getattr(engine, "concurrency", None) or 1,
        batch_size=1,
        max_length=(engine.window or _PLENTY) + 1,  # of which it takes one off
        add_bos_token=adds_bos and not chat_template,  # a template writes its own
        header={"Authorization": f"Bearer {key}"} if key else None,
        timeout=_TIMEOUT,
    )
    lm.tokenizer = tokenizer
    lm.tokenizer_backend = "huggingface"
    lm.tokenized_requests = True
    return lm
