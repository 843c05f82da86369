"""Middle truncation: a prompt longer than the window loses its middle, as the benchmarks have it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.prompts import Frame


def cut_middle(ids: Sequence[int], room: int) -> list[int]:
    """The first and the last room // 2 tokens where there are more than `room`.

    Both benchmarks keep two equal halves, so of an odd room one token stays free.

    >>> cut_middle(range(10), 5)
    [0, 1, 8, 9]
    """
    half = room // 2
    return [*ids] if len(ids) <= room else [*ids[:half], *ids[len(ids) - half :]]


def fit_prompt(
    frame: Frame, content: Sequence[int], *, window: int | None, max_new_tokens: int
) -> tuple[np.ndarray, int, tuple[str, ...]]:
    """(prompt, answer budget, notes): `content` within the frame, cut to what the window leaves.

    The prompt is int32 [tokens]. The frame (BOS, chat template, answer prefix) is never cut, and the answer
    budget is counted into the window. A budget of more than half the window is lowered to it. Each cut is
    told in the notes. `window` None: nothing is cut. Raises EvaluationError where no prompt fits at all.
    """
    notes: list[str] = []
    if window is None:
        return frame.wrap(content), max_new_tokens, ()
    if max_new_tokens > window // 2:
        notes.append(f"answer budget: {window // 2:,} tokens instead of {max_new_tokens:,}")
        max_new_tokens = window // 2
    room = window - max_new_tokens - len(frame)
    if room < 2:
        raise EvaluationError(
            f"A window of {window:,} tokens holds no prompt: {len(frame):,} go to the chat template and "
            f"{max_new_tokens:,} to the answer."
        )
    kept = cut_middle(content, room)
    if len(kept) < len(content):
        notes.append(f"cut: {len(content) - len(kept):,} of {len(content):,} tokens from the middle")
    return frame.wrap(kept), max_new_tokens, tuple(notes)
