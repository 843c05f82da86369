"""The runs of one model taken together: scores by task and length, with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.differences import mean_interval
from ultralong_hf.evaluation.intervals import wilson_interval
from ultralong_hf.evaluation.reporting.runs import Record, Run

RULER_TASKS = 13
LVEVAL_TASKS = 11
INFINITEBENCH_TASKS = 12
FAMILY_TITLES = {
    "needle": "Needle",
    "passkey": "Passkey",
    "distractors": "Distractors",
    "ruler": "RULER",
    "lveval": "LV-Eval",
    "infinitebench": "InfiniteBench",
    "safety": "Safety",
}
WITHOUT_MEAN = frozenset({"safety"})
"""Families whose tasks say different things: more is better in one and worse in another."""
FAMILY_SIZES = {"ruler": RULER_TASKS, "lveval": LVEVAL_TASKS, "infinitebench": INFINITEBENCH_TASKS}


@dataclass(frozen=True)
class Score:
    """A mean, 0 to 1, with its 95 % interval: Wilson's for shares of hits, bootstrapped for other scores.

    One prompt has no interval: low and high are None.
    """

    mean: float
    low: float | None
    high: float | None
    samples: int


@dataclass
class ModelResults:
    """Everything that was measured of one model."""

    name: str
    runs: list[Run]
    records: dict[str, dict[int, list[Record]]] = field(repr=False)
    """Task -> length -> finished prompts."""

    @property
    def window(self) -> int | None:
        return next((run.window for run in self.runs if run.window), None)

    @property
    def perplexity(self) -> list[dict[str, Any]]:
        return next((run.perplexity for run in self.runs if run.perplexity), [])

    @property
    def standard(self) -> dict[str, dict[str, Any]]:
        """Benchmark -> its entry of standard.json."""
        return {entry["task"]: entry for run in self.runs for entry in run.standard}

    @property
    def failures(self) -> dict[str, int]:
        """Task -> prompts that got no answer."""
        counts: dict[str, int] = {}
        for run in self.runs:
            for task, count in run.failures.items():
                counts[task] = counts.get(task, 0) + count
        return counts

    @property
    def notes(self) -> list[str]:
        """What a reader must be told: of each run, and which are not finished."""
        notes = [note for run in self.runs for note in run.notes]
        notes += [
            f"{run.folder} is not finished: {len(run.records):,} prompts so far. Run the same command again."
            for run in self.runs
            if not run.finished
        ]
        notes += [
            f"{e['task']}: {note}" for run in self.runs for e in run.standard for note in e.get("notes", ())
        ]
        told = " ".join(notes)
        notes += [
            f"{task}: {count:,} prompts got no answer and are left out of its score."
            for task, count in self.failures.items()
            if f"{task}:" not in told
        ]
        return list(dict.fromkeys(notes))

    def tasks_of(self, family: str) -> list[str]:
        """The tasks of a family that have prompts, in their order."""
        return [task for task in self.records if family_of(task) == family]

    def grids(self) -> list[str]:
        """The tasks that are asked at depths."""
        return [task for task, cells in self.records.items() if _first(cells).get("depth") is not None]

    def lengths(self, task: str) -> list[int]:
        return sorted(self.records.get(task, {}))

    def score(self, task: str, length: int) -> Score | None:
        """Of all prompts of a task and length; None where there are none."""
        records = self.records.get(task, {}).get(length)
        return score_of([record["score"] for record in records]) if records else None

    def family_mean(self, family: str, lengths: Iterable[int] | None = None) -> float | None:
        """Mean over lengths of the mean over tasks, 0 to 1, as in the paper's tables; None: no prompts."""
        wanted = None if lengths is None else set(lengths)
        by_length: dict[int, list[float]] = {}
        for task in self.tasks_of(family):
            for length in self.lengths(task):
                score = self.score(task, length)
                if score is not None and (wanted is None or length in wanted):
                    by_length.setdefault(length, []).append(score.mean)
        means = [sum(values) / len(values) for values in by_length.values()]
        return sum(means) / len(means) if means else None

    def task_mean(self, task: str) -> float:
        """Mean over lengths."""
        scores = [self.score(task, length) for length in self.lengths(task)]
        means = [score.mean for score in scores if score is not None]
        return sum(means) / len(means)

    def missing_tasks(self, family: str) -> int:
        """How many of a benchmark's tasks were not measured."""
        return max(0, FAMILY_SIZES.get(family, 0) - len(self.tasks_of(family)))


def family_of(task: str) -> str:
    """ "ruler" of "ruler/vt"."""
    return task.partition("/")[0]


def score_of(scores: Sequence[float]) -> Score:
    """The mean of prompts' scores, each 0 to 1, with its interval."""
    mean = sum(scores) / len(scores)
    if len(scores) == 1:
        return Score(mean, None, None, 1)
    if all(score in (0, 1) for score in scores):
        return Score(mean, *wilson_interval(round(sum(scores)), len(scores)), len(scores))
    found = mean_interval([list(scores)])
    return Score(mean, found.low, found.high, len(scores))


def read_models(folders: Sequence[str | Path], names: Sequence[str] | None = None) -> list[ModelResults]:
    """The models of run folders, in their order; runs of one model are taken together.

    names: what to call the models, in order. Raises EvaluationError where a task was measured twice of a
    model, and for names that do not match in number or are not distinct.
    """
    from ultralong_hf.evaluation.reporting.runs import read_run

    if not folders:
        raise EvaluationError("There is no run to report: name one or several folders of `ultralong eval`.")
    by_model: dict[tuple[str, str], list[Run]] = {}
    for folder in dict.fromkeys(map(Path, folders)):
        run = read_run(folder)
        by_model.setdefault(run.identity, []).append(run)
    groups = list(by_model.values())
    titles = list(names) if names else _distinct_names(groups)
    if len(titles) != len(groups) or len(set(titles)) != len(titles):
        listed = ", ".join(f"{runs[0].model} ({', '.join(str(r.folder) for r in runs)})" for runs in groups)
        raise EvaluationError(
            f"{len(titles)} names for {len(groups)} models, or two alike: there are {listed}."
        )
    return [_together(title, runs) for title, runs in zip(titles, groups, strict=True)]


def _together(name: str, runs: list[Run]) -> ModelResults:
    home: dict[str, Path] = {}
    faults = []
    for run in runs:
        for task in run.tasks:
            if task in home:
                faults.append(
                    f"{task} of {name} was measured in {home[task]} and in {run.folder}: name one of them."
                )
            home.setdefault(task, run.folder)
    if faults:
        raise EvaluationError(*faults)
    records: dict[str, dict[int, list[Record]]] = {}
    for run in runs:
        for record in run.records:
            records.setdefault(record["task"], {}).setdefault(int(record["length"]), []).append(record)
    return ModelResults(name, runs, records)


def _distinct_names(groups: Sequence[Sequence[Run]]) -> list[str]:
    """The models' own names, short where that is enough; a name twice gets its folder."""
    full = [runs[0].model for runs in groups]
    short = [Path(name).name or name for name in full]
    if len(set(short)) == len(short):
        return short
    return [
        name if full.count(name) == 1 else f"{name} in {runs[0].folder.name}"
        for name, runs in zip(full, groups, strict=True)
    ]


def _first(cells: Mapping[int, list[Record]]) -> Record:
    return next(iter(cells.values()))[0]
