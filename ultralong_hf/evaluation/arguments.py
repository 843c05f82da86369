"""The arguments of `evaluate`, checked: what can be said about them before a model is loaded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.prompts import resolve_style
from ultralong_hf.evaluation.tasks import TaskContext
from ultralong_hf.lengths import parse_length

if TYPE_CHECKING:
    from ultralong_hf.evaluation.standard.baseline import Baseline

DEFAULT_DEPTHS = (0, 25, 50, 75, 100)


def make_context(
    tokenizer: Any,
    *,
    lengths: Sequence[int],
    depths: Sequence[float],
    samples: int | None,
    prompt: str,
    seed: int,
    window: int | None,
    clamp_short: bool,
    haystack: str | Path | Iterable[str] | None,
    data_dir: str | Path | None,
    cache_dir: Path | None,
    include_path: str | Path | None = None,
    allow_code_execution: bool = False,
    baseline: Baseline | None = None,
) -> TaskContext:
    """The context of checked arguments; the tokenizer says what "auto" means for the prompt."""
    return TaskContext(
        tokenizer=tokenizer,
        style=resolve_style(tokenizer, prompt),
        seed=seed,
        lengths=lengths,
        depths=depths,
        samples=samples,
        window=window,
        clamp_short=clamp_short,
        haystack=haystack if haystack is None or isinstance(haystack, str | Path) else list(haystack),
        data_dir=None if data_dir is None else Path(data_dir),
        cache_dir=cache_dir,
        include_path=None if include_path is None else Path(include_path),
        allow_code_execution=allow_code_execution,
        baseline=baseline,
    )


def known_lengths(lengths: int | str | Sequence[int | str] | None, *, needed: bool) -> list[int]:
    """Tokens, ascending. `needed`: a task makes its prompts to them. Raises EvaluationError, LengthError."""
    given = [] if lengths is None else [lengths] if isinstance(lengths, int | str) else list(lengths)
    parsed = sorted({0 if length == 0 else parse_length(length) for length in given})
    if needed and (not parsed or parsed == [0]):
        raise EvaluationError("There is no length to measure: give at least one above 0.")
    return parsed


def known_depths(depths: Sequence[float]) -> list[float]:
    """Percents, ascending. Raises EvaluationError."""
    if not depths:
        raise EvaluationError("There is no depth to measure: give percents from 0 to 100.")
    for depth in depths:
        if not (math.isfinite(depth) and 0 <= depth <= 100):
            raise EvaluationError(f"A depth of {depth:g} is out of range: depths are percents from 0 to 100.")
    return sorted({float(depth) for depth in depths})


def known_samples(samples: int | None) -> int | None:
    """Raises EvaluationError for what is no number of samples."""
    if samples is None:
        return None
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise EvaluationError(f"samples={samples!r} is no whole number of at least 1.")
    return samples
