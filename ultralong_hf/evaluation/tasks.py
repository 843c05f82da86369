"""What a task is - places, samples, scores - and the families that tasks are made from by name."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

from ultralong_hf.errors import EvaluationError

if TYPE_CHECKING:
    import numpy as np

    from ultralong_hf.evaluation.engines import Engine
    from ultralong_hf.evaluation.prompts import Frame
    from ultralong_hf.evaluation.standard.baseline import Baseline

Key: TypeAlias = tuple[str, int, float | None, int]
"""(task, length, depth in percent or None, sample): the place of a prompt."""
Record: TypeAlias = dict[str, Any]
"""A finished prompt, as prompts.jsonl holds it: the sample's fields, prompt_tokens, prompt, answer, score."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One prompt of a task, ready for an engine."""

    task: str
    """ "needle", "ruler/niah_single_1", "lveval/hotpotwikiqa_mixup", "infinitebench/passkey"."""
    length: int
    """What it is reported under: the tokens asked for, or the benchmark's own level."""
    sample: int
    """Which of its cell, from 0."""
    ids: Sequence[int] | np.ndarray = field(repr=False)
    """The whole prompt, chat template and answer prefix included: a list, or int32 [tokens]."""
    references: tuple[str, ...]
    """What the answer is scored against."""
    max_new_tokens: int
    depth: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    """JSON values kept with the record: where the needles stand, the row of the official file."""
    notes: tuple[str, ...] = ()
    """What the report must say of this prompt, as "kind: what", such as "cut: 1,024 tokens of the middle";
    the report counts the prompts of each kind."""
    frame: Frame | None = field(default=None, repr=False)
    """Where it was made with one: a server that takes chat messages only is sent the user's message of it."""

    @property
    def key(self) -> Key:
        return self.task, self.length, self.depth, self.sample


@runtime_checkable
class Task(Protocol):
    """Asks prompts and scores their answers."""

    name: str

    def keys(self, lengths: Sequence[int], samples: int | None) -> Iterable[Key]:
        """Every prompt's place. samples: prompts a cell; None: as many as the task has by itself.

        Prompts are asked in this order, and those that begin alike share that part of the work when they
        stand next to each other.
        """

    def build(self, key: Key) -> Sample:
        """The prompt of a place: the same one whichever others are built. Raises EvaluationError."""

    def score(self, record: Mapping[str, Any], answer: str) -> float:
        """0 to 1; record has the sample's "references" and "details"."""

    def settings(self) -> Mapping[str, Any]:
        """What results depend on beyond the arguments of `evaluate`, such as digests of texts: a run folder
        is gone on with only where all of it is equal."""

    def notes(self, records: Sequence[Mapping[str, Any]]) -> list[str]:
        """Sentences that a reader of its scores must be told, beside the samples' own notes."""


@runtime_checkable
class Measure(Protocol):
    """Needs the engine itself, not answers to prompts: loss by position, another library's tasks."""

    name: str

    def settings(self) -> Mapping[str, Any]:
        """As a Task's."""

    def measure(self, engine: Engine, folder: Path | None) -> Mapping[str, Any]:
        """Attributes of the Report with their values: {"perplexity": [...]}. `folder`: the run's, if any."""


@dataclass(frozen=True, kw_only=True)
class TaskContext:
    """What the tasks of a family are made from."""

    tokenizer: Any
    style: Literal["chat", "plain"]
    seed: int = 0
    window: int | None = None
    """Tokens that prompt and answer may have together; None: no bound is known or wanted."""
    lengths: Sequence[int] = ()
    """Tokens, ascending; empty where none were asked for."""
    samples: int | None = None
    depths: Sequence[float] = ()
    """Percent of the text before the needle."""
    clamp_short: bool = False
    """Lengths that are too short for a prompt are measured with the shortest one."""
    haystack: str | Path | Sequence[str] | None = None
    """A text file, a folder of them, or texts; None: the user gave none."""
    data_dir: Path | None = None
    """Where benchmarks' official files lie; None: the cache, or the hub."""
    cache_dir: Path | None = None
    """Where made samples may be kept."""
    include_path: Path | None = None
    """lm-eval task files of the user's own."""
    allow_code_execution: bool = False
    """Leave for standard tasks that run the model's code."""
    baseline: Baseline | None = None
    """What the standard side is held to."""

    def documents(self) -> Iterable[str]:
        """The texts of the haystack; where none was given, documents of the lab, held out from training."""
        from ultralong_hf.evaluation.haystack import read_texts

        if self.haystack is None:
            from ultralong_hf.lab.corpus import held_out_documents

            return held_out_documents()
        return read_texts(self.haystack) if isinstance(self.haystack, str | Path) else self.haystack


@dataclass(frozen=True)
class Family:
    """Tasks made by one function of one module, which is imported when a task of it is named.

    The module has SELECTORS, the names after the slash, and the function `(selector or None, TaskContext) ->
    list of Task or Measure`; no selector means all of its tasks.
    """

    module: str
    function: str
    fills_lengths: bool = True
    """Its prompts are made to the lengths asked for; else they have lengths of their own."""


FAMILIES = {
    "needle": Family("needle", "needle_tasks"),
    "passkey": Family("needle", "passkey_tasks"),
    "distractors": Family("distractors", "distractors_tasks"),
    "ruler": Family("ruler", "ruler_tasks"),
    "lveval": Family("lveval", "lveval_tasks", fills_lengths=False),
    "infinitebench": Family("infinitebench", "infinitebench_tasks", fills_lengths=False),
    "safety": Family("safety", "safety_tasks"),
    "perplexity": Family("perplexity", "perplexity_measures"),
    "standard": Family("standard", "standard_measures", fills_lengths=False),
}


def check_names(names: str | Sequence[str]) -> list[str]:
    """The names of tasks and families, each once. Raises EvaluationError, a fault for each unknown one."""
    given = [names] if isinstance(names, str) else list(names)
    if not given:
        raise EvaluationError(f"There is no task to evaluate: name one or several of {', '.join(FAMILIES)}.")
    faults = []
    for name in given:
        family, slash, selector = str(name).partition("/")
        if family not in FAMILIES:
            faults.append(f"{name!r} is no task. {nearest(family, FAMILIES)}")
        elif slash and selector not in (selectors := _module_of(family).SELECTORS):
            known = [f"{family}/{part}" for part in selectors] or [family]
            faults.append(f"{name!r} is no task. {nearest(str(name), known)}")
    if faults:
        raise EvaluationError(*faults)
    return list(dict.fromkeys(given))


def make_tasks(names: Sequence[str], context: TaskContext) -> list[Task | Measure]:
    """The tasks of checked names, each once, in their order."""
    tasks: dict[str, Task | Measure] = {}
    for name in names:
        family, _, selector = name.partition("/")
        make = getattr(_module_of(family), FAMILIES[family].function)
        for task in make(selector or None, context):
            tasks.setdefault(task.name, task)
    return list(tasks.values())


def fill_lengths(names: Sequence[str]) -> bool:
    """Whether a task of these makes its prompts to the lengths asked for."""
    return any(FAMILIES[name.partition("/")[0]].fills_lengths for name in names)


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error message: the known name that is nearest, and all of them."""
    known = list(known)
    closest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
    return f"Nearest: {closest!r}; there are {', '.join(known)}."


def _module_of(family: str) -> Any:
    return importlib.import_module(f"ultralong_hf.evaluation.{FAMILIES[family].module}")
