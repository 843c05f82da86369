"""A run's safety rates with intervals, the change from another run, and both as a model card states them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.intervals import paired_interval, wilson_interval
from ultralong_hf.evaluation.ledger import PROMPTS_FILE, is_failed

TITLES = {
    "safety/refusal": "harmful requests declined",
    "safety/over_refusal": "harmless requests declined",
    "safety/injection": "hidden instructions obeyed",
}
HIGHER_IS_BETTER = {"safety/refusal": True, "safety/over_refusal": False, "safety/injection": False}


def told_rate(task: str) -> str:
    """What happened, and which way is better."""
    return f"{TITLES[task]} ({'higher' if HIGHER_IS_BETTER[task] else 'lower'} is better)"


@dataclass(frozen=True)
class Rate:
    """How often the thing happened that `task` is named after."""

    task: str
    length: int
    """Tokens of prompt and answer; 0: the request alone."""
    events: int
    prompts: int
    depth: float | None = None
    """Percent of the document before the injection; None: all depths together."""

    @property
    def value(self) -> float:
        return self.events / self.prompts

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's, 95 %."""
        return wilson_interval(self.events, self.prompts)


@dataclass(frozen=True)
class Change:
    """The second run's rate minus the first's, over the prompts that both answered."""

    task: str
    length: int
    before: Rate
    after: Rate
    interval: tuple[float, float]
    """Newcombe's for paired shares, 95 %."""

    @property
    def value(self) -> float:
        return self.after.value - self.before.value

    @property
    def is_worse(self) -> bool:
        """Whether the interval lies on the bad side of zero."""
        low, high = self.interval
        return high < 0 if HIGHER_IS_BETTER[self.task] else low > 0


def read_rates(run: str | Path, *, by_depth: bool = False) -> list[Rate]:
    """The rates of a run folder of `evaluate`, in order of task, length and depth.

    `by_depth`: injections at each depth by themselves. Raises EvaluationError for a folder without any.
    """
    groups: dict[tuple[str, int, float | None], list[bool]] = {}
    for record in _records(run):
        depth = record["details"].get("depth") if by_depth else None
        groups.setdefault((record["task"], record["length"], depth), []).append(bool(record["score"]))
    keys = sorted(groups, key=lambda key: (list(TITLES).index(key[0]), key[1], key[2] or 0.0))
    return [Rate(key[0], key[1], sum(groups[key]), len(groups[key]), key[2]) for key in keys]


def compare_rates(before: str | Path, after: str | Path) -> list[Change]:
    """The change of each rate from one run to another, of the same prompts.

    Raises EvaluationError where the runs have no prompt in common.
    """
    first, second = ({_place(record): record for record in _records(run)} for run in (before, after))
    common = [place for place in first if place in second and _same(first[place], second[place])]
    if not common:
        raise EvaluationError(
            f"{before} and {after} have no safety prompt in common: use the same seed and lengths."
        )
    groups: dict[tuple[str, int], list[tuple[bool, bool]]] = {}
    for place in common:
        pair = bool(first[place]["score"]), bool(second[place]["score"])
        groups.setdefault(place[:2], []).append(pair)
    order = sorted(groups, key=lambda key: (list(TITLES).index(key[0]), key[1]))
    return [_change(*key, groups[key]) for key in order]


def card_section(run: str | Path, *, before: str | Path | None = None) -> str:
    """What a model card says of a run: a table in Markdown, and its limits. `before`: the original's run."""
    head = ["what", "length", "rate", "95 % interval"]
    if before is None:
        rows = [[*_told(rate.task, rate.length), *_share(rate)] for rate in read_rates(run)]
    else:
        head = ["what", "length", "before", "after", "change (95 % interval)"]
        rows = [
            [*_told(change.task, change.length), *_difference(change)]
            for change in compare_rates(before, run)
        ]
    lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
    lines += [
        "",
        "Measured with a small English prompt set, answers judged by rules: a change between two models is "
        "what it shows, not that a model is safe.",
    ]
    return "\n".join(lines)


def _change(task: str, length: int, pairs: Sequence[tuple[bool, bool]]) -> Change:
    both = sum(a and b for a, b in pairs)
    lost = sum(a and not b for a, b in pairs)
    won = sum(b and not a for a, b in pairs)
    interval = paired_interval(both, won, lost, len(pairs) - both - won - lost)
    return Change(
        task,
        length,
        Rate(task, length, both + lost, len(pairs)),
        Rate(task, length, both + won, len(pairs)),
        interval,
    )


def _records(run: str | Path) -> Iterable[Mapping[str, Any]]:
    path = Path(run) / PROMPTS_FILE
    if not path.is_file():
        raise EvaluationError(
            f"{run} holds no {PROMPTS_FILE}: name the folder of a finished `ultralong eval`."
        )
    with path.open(encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    found = [record for record in records if record["task"] in TITLES and not is_failed(record)]
    if not found:
        raise EvaluationError(
            f"{run} holds no answers to safety prompts: run `ultralong eval ... --tasks safety`."
        )
    return found


def _place(record: Mapping[str, Any]) -> tuple[str, int, int]:
    return record["task"], record["length"], record["sample"]


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return bool(one["details"] == other["details"] and one["references"] == other["references"])


def _told(task: str, length: int) -> tuple[str, str]:
    return told_rate(task), f"{length:,}" if length else "the request alone"


def _difference(change: Change) -> tuple[str, str, str]:
    first, second = (f"{100 * rate.value:.1f} % of {rate.prompts}" for rate in (change.before, change.after))
    low, high = change.interval
    return first, second, f"{100 * change.value:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def _share(rate: Rate) -> tuple[str, str]:
    low, high = rate.interval
    return f"{100 * rate.value:.1f} % of {rate.prompts}", f"{100 * low:.1f} to {100 * high:.1f} %"
