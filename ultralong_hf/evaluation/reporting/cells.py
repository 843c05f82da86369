"""How the report writes names, lengths, shares and intervals."""

from __future__ import annotations

from typing import Any

from ultralong_hf.evaluation.reporting.models import FAMILY_TITLES, Score
from ultralong_hf.lengths import format_length


def place_of(family: str) -> int:
    """Where a family stands in the report; unknown ones last."""
    return list(FAMILY_TITLES).index(family) if family in FAMILY_TITLES else len(FAMILY_TITLES)


def title_of(task: str) -> str:
    family, slash, name = task.partition("/")
    if family == "infinitebench" and slash:
        from ultralong_hf.evaluation.infinitebench.table import TASKS

        known = TASKS.get(name.partition("@")[0])
        return f"{known.title} ({name})" if known else name
    if family == "safety" and slash:
        from ultralong_hf.evaluation.safety.rates import told_rate

        return told_rate(task)
    return name or task


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def percent_of(score: Score | None) -> str:
    return "-" if score is None else percent(score.mean)


def length_text(length: int) -> str:
    return format_length(length) if length else "shortest"


def interval(score: Score) -> str:
    if score.low is None or score.high is None:
        return "-"
    return f"{100 * score.low:.0f} to {100 * score.high:.0f}"


def with_error(entry: dict[str, Any]) -> str:
    error = entry.get("stderr")
    spread = f" ± {100 * error:.1f}" if error is not None else ""
    return f"{100 * entry['value']:.1f}{spread} ({entry['samples']:,})"


def how_asked(settings: dict[str, Any]) -> str:
    shots = settings.get("num_fewshot")
    parts = [] if shots is None else [f"{shots}-shot"]
    parts += ["chat template"] if settings.get("chat_template") else []
    parts += [f"first {settings['limit']} rows"] if settings.get("limit") is not None else []
    return ", ".join(parts) or "-"


def shortened(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
