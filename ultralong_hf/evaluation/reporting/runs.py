"""Run folders of `ultralong eval`, read back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.ledger import PROMPTS_FILE, RUN_FILE

REPORT_FILE = "report.json"
STANDARD_FILE = "standard.json"
Record = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One run folder. `records` are its finished prompts without the long texts; failed ones are counted."""

    folder: Path
    model: str
    settings: Mapping[str, Any]
    records: list[Record] = field(repr=False)
    failures: dict[str, int]
    perplexity: list[dict[str, Any]]
    standard: list[dict[str, Any]]
    notes: list[str]
    window: int | None
    finished: bool

    @property
    def identity(self) -> tuple[str, str]:
        """Tells models apart: the name, and the digest of config and weights."""
        return self.model, str(self.settings.get("identity", ""))

    @property
    def tasks(self) -> list[str]:
        """Of prompts, standard benchmarks and loss by position, in their order."""
        names = [record["task"] for record in self.records]
        names += [f"standard/{entry['task']}" for entry in self.standard]
        names += ["perplexity"] if self.perplexity else []
        return list(dict.fromkeys([*names, *self.failures]))


def read_run(folder: str | Path) -> Run:
    """The run in a folder, finished or not. Raises EvaluationError for what is none, or is damaged."""
    folder = Path(folder)
    if not folder.is_dir():
        raise EvaluationError(f"{folder} is no folder: name what `ultralong eval ... --output DIR` wrote.")
    report = _read_json(folder / REPORT_FILE) if (folder / REPORT_FILE).is_file() else None
    if report is not None and "settings" not in report:
        raise EvaluationError(
            f"{folder / REPORT_FILE} is no report of `ultralong eval`: it holds "
            f"{', '.join(report) or 'nothing'}."
        )
    settings = report["settings"] if report is not None else _bound_settings(folder)
    records, failures = _read_records(folder / PROMPTS_FILE)
    standard = list((report or {}).get("standard") or _standard(folder))
    perplexity = list((report or {}).get("perplexity", ()))
    if not (records or failures or standard or perplexity):
        raise EvaluationError(f"{folder} holds no result yet: run the same `ultralong eval` again to go on.")
    return Run(
        folder=folder,
        model=str((report or settings).get("model", folder.name)),
        settings=settings,
        records=records,
        failures=failures,
        perplexity=perplexity,
        standard=standard,
        notes=list((report or {}).get("notes", ())),
        window=(report or {}).get("window"),
        finished=report is not None,
    )


def _bound_settings(folder: Path) -> Mapping[str, Any]:
    if not (folder / RUN_FILE).is_file():
        raise EvaluationError(
            f"{folder} holds no run: neither {REPORT_FILE} nor {RUN_FILE} is there. Name the --output folder "
            "of `ultralong eval`."
        )
    settings = _read_json(folder / RUN_FILE).get("settings")
    if not isinstance(settings, dict):
        raise EvaluationError(f"{folder / RUN_FILE} is damaged: measure again in another folder.")
    return settings


def _read_records(path: Path) -> tuple[list[Record], dict[str, int]]:
    """Finished prompts, and how many of each task have no answer. A last line without its end is left out."""
    records: list[Record] = []
    failures: dict[str, int] = {}
    if not path.is_file():
        return records, failures
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith("\n"):
                break
            try:
                record = json.loads(line)
                task = str(record["task"])
                if record.get("failure"):
                    failures[task] = failures.get(task, 0) + 1
                    continue
                if "score" not in record:  # runs of earlier versions
                    record["score"] = float(record["hit"])
                records.append({name: value for name, value in record.items() if name != "prompt"})
            except (ValueError, KeyError, TypeError) as error:
                raise EvaluationError(f"{path}, line {number}, is damaged: measure again.") from error
    return records, failures


def _standard(folder: Path) -> list[dict[str, Any]]:
    path = folder / STANDARD_FILE
    return list(_read_json(path).get("tasks", ())) if path.is_file() else []


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path} is damaged: run the same `ultralong eval` again.") from error
    if not isinstance(content, dict):
        raise EvaluationError(f"{path} holds a {type(content).__name__}, no report: is this a run folder?")
    return content
