"""Standard benchmarks as measures of a run: asked by lm-eval, kept in standard.json, held to a baseline."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.ledger import settings_digest, write_json
from ultralong_hf.evaluation.standard.answers import kept_answers
from ultralong_hf.evaluation.standard.baseline import Baseline
from ultralong_hf.evaluation.standard.harness import TaskCall, find_task, harness_version, run_task
from ultralong_hf.evaluation.standard.models import harness_model, standard_batch_size
from ultralong_hf.evaluation.standard.presets import PRESETS, Preset
from ultralong_hf.evaluation.standard.results import Entry, make_entry
from ultralong_hf.evaluation.standard.retention import retention
from ultralong_hf.evaluation.tasks import TaskContext

STANDARD_FILE = "standard.json"
ANSWERS_FILE = "standard_answers.sqlite"


class _AnyTask(tuple[str, ...]):
    """The presets' names; any other is looked for among lm-eval's tasks later."""

    def __contains__(self, name: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return super().__iter__()


SELECTORS = _AnyTask(PRESETS)


def standard_measures(selector: str | None, context: TaskContext) -> list[StandardMeasure]:
    """The paper's five, one of them, or any task of lm-eval or of the user's own files.

    Raises EvaluationError for a task that is not there, or runs code without leave; MachineError without
    lm-eval.
    """
    names = [selector] if selector else list(PRESETS)
    return [StandardMeasure(name, context) for name in names]


class StandardMeasure:
    """One benchmark by lm-eval."""

    def __init__(self, name: str, context: TaskContext) -> None:
        self.name = f"standard/{name}"
        self._title, self._context = name, context
        self._preset = PRESETS.get(name)
        self._call = _call_of(name, self._preset, context)
        self._manager = find_task(self._call)

    def settings(self) -> Mapping[str, Any]:
        return {"standard": self._settings()}

    def measure(self, engine: Any, folder: Path | None) -> Mapping[str, Any]:
        """{"standard": [the entry]}; written to the folder's standard.json, and taken from there."""
        entry = self._entry(engine, folder)
        baseline = self._context.baseline
        if baseline is not None:
            self._hold_to(entry, baseline, folder)
            _store(entry, folder)
        return {"standard": [entry]}

    def _entry(self, engine: Any, folder: Path | None) -> Entry:
        stored = read_entries(folder) if folder is not None else []
        for entry in stored:
            if entry["task"] == self._title and entry["settings"] == self._settings():
                return {name: entry[name] for name in entry if name not in ("baseline", "retention")}
        batch_size = standard_batch_size(engine)
        tokenizer = getattr(engine, "tokenizer", None) or self._context.tokenizer
        lm = harness_model(engine, tokenizer, batch_size, chat_template=self._call.chat_template)
        keeping = kept_answers(lm, folder / ANSWERS_FILE) if folder is not None else nullcontext(lm)
        with keeping as asked:
            results = run_task(self._call, self._manager, asked, batch_size)
        metric = self._preset.metric if self._preset else None
        entry = make_entry(self._title, results, self._call.task, metric, self._settings())
        _store(entry, folder)
        return entry

    def _hold_to(self, entry: Entry, baseline: Baseline, folder: Path | None) -> None:
        if baseline.run is not None:
            original = read_entries(baseline.run)
        else:
            # Named by the model, so that another baseline is measured anew.
            digest = settings_digest(baseline.engine.identity())[:8]
            place = folder / f"baseline-{digest}" if folder is not None else None
            original = [self._entry(baseline.engine, place)]
        [found] = retention([entry], original)
        theirs = next(other for other in original if other["task"] == entry["task"])
        entry["baseline"] = {
            "model": baseline.name,
            "value": theirs["value"],
            "stderr": theirs["stderr"],
        }
        entry["retention"] = {"value": found.value, "stderr": found.stderr}

    def _settings(self) -> dict[str, Any]:
        call = self._call
        return {
            "harness": harness_version(),
            "tasks": [call.task],
            "num_fewshot": call.num_fewshot,
            "chat_template": call.chat_template,
            "limit": call.limit,
        }


def read_entries(folder: Path) -> list[Entry]:
    """The entries of a run folder's standard.json, none without one. Raises EvaluationError."""
    path = folder / STANDARD_FILE
    if not path.exists():
        return []
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["tasks"]
        for entry in entries:
            if not isinstance(entry["settings"], dict) or not isinstance(entry["value"], int | float):
                raise TypeError
            entry["task"], entry["metric"], entry["stderr"], entry["samples"]
        return list(entries)
    except (ValueError, KeyError, TypeError) as error:
        raise EvaluationError(f"{path} is damaged: remove it, and its tasks are measured again.") from error


def _store(entry: Entry, folder: Path | None) -> None:
    """Puts the entry in the place of an older one of its task, or at the end."""
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    kept = {old["task"]: old for old in read_entries(folder)} | {entry["task"]: entry}
    write_json(folder / STANDARD_FILE, {"tasks": list(kept.values())})


def _call_of(name: str, preset: Preset | None, context: TaskContext) -> TaskCall:
    chat = context.style == "chat"
    task = name if preset is None else preset.chat_task if chat and preset.chat_task else preset.task
    return TaskCall(
        task=task,
        title=name,
        num_fewshot=preset.num_fewshot if preset else None,
        limit=context.samples,
        chat_template=chat,
        include_path=context.include_path,
        folders=preset.folders if preset else (),
        data_dir=context.data_dir,
        allow_code_execution=context.allow_code_execution,
    )
