"""A run as text: one row a stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ultralong_hf.pipeline.run import Run
from ultralong_hf.pipeline.states import StageState
from ultralong_hf.rope.tables import aligned

_DIGITS = 12
"""Of a digest that are shown."""


def status_table(run: Run, states: Sequence[StageState]) -> str:
    """Stages with their states, seconds, digests and outputs, and what to do next."""
    rows = [["stage", "state", "output", "seconds", "digest"]]
    for state in states:
        seconds = state.record.seconds if state.record is not None else None
        rows.append(
            [
                state.stage.name,
                f"{state.word} {state.detail}".strip(),
                str(state.stage.folder),
                "" if seconds is None else f"{seconds:,.1f}",
                (state.digest or "")[:_DIGITS],
            ]
        )
    return f"{run.folder}: the run of {run.source}\n{aligned(rows, left=3)}\n{_next(run, states)}"


def run_facts(run: Run, states: Sequence[StageState]) -> dict[str, Any]:
    """The same as plain values, for JSON."""
    return {
        "run": str(run.folder),
        "recipe": run.source,
        "overrides": dict(run.overrides),
        "done": all(state.word == "done" for state in states),
        "stages": [state.to_dict() for state in states],
    }


def _next(run: Run, states: Sequence[StageState]) -> str:
    left = [state for state in states if state.word != "done"]
    if not left:
        return "all stages are done."
    if any(state.word == "running" for state in states):
        return f"it runs now; its logs are in {run.folder / 'logs'}."
    return f"next: {left[0].stage.name}. Go on with: ultralong run {run.folder}"
