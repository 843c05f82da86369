"""The exact prompt of any sample, made without running a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from ultralong_hf.errors import EvaluationError, ModelError
from ultralong_hf.evaluation.answer_cache import cache_root
from ultralong_hf.evaluation.arguments import (
    DEFAULT_DEPTHS,
    known_depths,
    known_lengths,
    known_samples,
    make_context,
)
from ultralong_hf.evaluation.prompts import bos_note
from ultralong_hf.evaluation.tasks import Sample, Task, check_names, fill_lengths, make_tasks


def show_sample(
    model: str | Path,
    tasks: str | Sequence[str],
    number: int,
    *,
    lengths: int | str | Sequence[int | str] | None = None,
    samples: int | None = None,
    depths: Sequence[float] = DEFAULT_DEPTHS,
    seed: int = 0,
    haystack: str | Path | Iterable[str] | None = None,
    data_dir: str | Path | None = None,
    cache: bool | str | Path = True,
    prompt: str = "auto",
    tokenizer: Any = None,
    beyond_window: bool = False,
    clamp_short: bool = False,
) -> tuple[Sample, str]:
    """(sample, its whole prompt as text) of `evaluate` with the same arguments.

    number: from 1, in the order in which `evaluate` asks, all tasks counted on. Of the model the tokenizer
    and the config are read. Raises EvaluationError where there is no such sample.
    """
    names = check_names(tasks)
    tokens = known_lengths(lengths, needed=fill_lengths(names))
    tokenizer, window = _read_model(model, tokenizer)
    context = make_context(
        tokenizer,
        lengths=tokens,
        depths=known_depths(depths),
        samples=known_samples(samples),
        prompt=prompt,
        seed=seed,
        window=None if beyond_window else window,
        clamp_short=clamp_short,
        haystack=haystack,
        data_dir=data_dir,
        cache_dir=None if cache is False else cache_root() if cache is True else Path(cache),
    )
    made = [task for task in make_tasks(names, context) if isinstance(task, Task)]
    total = 0
    for task in made:
        keys = list(task.keys(tokens, context.samples))
        if 0 < number - total <= len(keys):
            sample = task.build(keys[number - total - 1])
            sample = replace(sample, notes=(*sample.notes, *bos_note(tokenizer, sample.ids)))
            return sample, str(tokenizer.decode(sample.ids, skip_special_tokens=False))
        total += len(keys)
    raise EvaluationError(f"There is no prompt {number:,}: these tasks have {total:,}, counted from 1.")


def describe_sample(sample: Sample) -> str:
    """What stands above a shown prompt."""
    depth = "" if sample.depth is None else f", depth {sample.depth:g} %"
    lines = [
        f"task:        {sample.task}, length {sample.length:,}{depth}, sample {sample.sample}",
        f"prompt:      {len(sample.ids):,} tokens, and room for an answer of {sample.max_new_tokens}",
        f"references:  {', '.join(islice(sample.references, 20))}",
    ]
    lines += [f"note:        {note}" for note in sample.notes]
    return "\n".join(lines)


def _read_model(model: str | Path, tokenizer: Any) -> tuple[Any, int | None]:
    """(tokenizer, window) of a folder or hub id; no window where there is no config."""
    from transformers import AutoConfig, AutoTokenizer

    try:
        tokenizer = tokenizer or AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise ModelError(f"{model} cannot be read as a tokenizer: {first_line}") from error
    try:
        config = AutoConfig.from_pretrained(model).get_text_config()
    except (OSError, ValueError):
        return tokenizer, None
    return tokenizer, getattr(config, "max_position_embeddings", None)
