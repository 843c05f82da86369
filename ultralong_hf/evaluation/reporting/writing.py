"""The report's files: page, Markdown with its pictures, JSON, and metadata for model cards."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.ledger import write_json
from ultralong_hf.evaluation.pages import write_html_report
from ultralong_hf.evaluation.published import COLUMNS
from ultralong_hf.evaluation.reporting.against import paired_cells, retentions
from ultralong_hf.evaluation.reporting.contents import build_sections
from ultralong_hf.evaluation.reporting.markdown import markdown_of
from ultralong_hf.evaluation.reporting.model_index import eval_results, model_index
from ultralong_hf.evaluation.reporting.models import ModelResults, read_models
from ultralong_hf.evaluation.reporting.pairing import setting_differences
from ultralong_hf.evaluation.reporting.standing import comparable, ruler_standing

PAGE, TEXT, DATA = "report.html", "report.md", "comparison.json"


def write_comparison(
    runs: Sequence[str | Path], output_dir: str | Path, *, names: Sequence[str] | None = None
) -> dict[str, Any]:
    """Reads run folders and writes report.html, report.md with pictures/, comparison.json and model-index
    files.

    The first model is what the others are held to. Returns what comparison.json holds. Raises EvaluationError
    for folders that are no runs, before anything is written.
    """
    models = read_models(runs, names)
    folder = Path(output_dir)
    if folder.exists() and not folder.is_dir():
        raise EvaluationError(f"{folder} is a file: name a folder for the report.")
    title = " and ".join(model.name for model in models) if len(models) < 3 else f"{len(models)} models"
    title += ": long-context evaluation"
    sections = build_sections(models)
    content = to_dict(models)
    folder.mkdir(parents=True, exist_ok=True)
    _write_text(folder / TEXT, markdown_of(title, sections, folder / "pictures"))
    for model in models:
        if eval_results(model):
            name = "model-index.yaml" if len(models) == 1 else f"model-index-{_file_name(model.name)}.yaml"
            _write_text(folder / name, yaml.safe_dump({"model-index": model_index(model)}, sort_keys=False))
    write_html_report(folder / PAGE, title, sections)
    write_json(folder / DATA, content)
    return content


def to_dict(models: Sequence[ModelResults]) -> dict[str, Any]:
    """All numbers of the report as plain values; scores 0 to 1, the paper's columns in percent."""
    base = models[0]
    return {
        "models": [_model(model) for model in models],
        "against": [
            {
                "base": base.name,
                "model": other.name,
                "paired": [asdict(pairing) for pairing in paired_cells(base, other)],
                "retention": [asdict(kept) for kept in retentions(base, other)],
                "not_compared": setting_differences(base, other),
            }
            for other in models[1:]
        ],
    }


def _model(model: ModelResults) -> dict[str, Any]:
    standing = ruler_standing(model) if model.tasks_of("ruler") else None
    return {
        "name": model.name,
        "window": model.window,
        "runs": [str(run.folder) for run in model.runs],
        "notes": model.notes,
        "scores": [
            {"task": task, "length": length, **asdict(score)}
            for task in model.records
            for length in model.lengths(task)
            if (score := model.score(task, length)) is not None
        ],
        "ruler": asdict(standing) if standing else None,
        "standard": list(model.standard.values()),
        "perplexity": model.perplexity,
        "paper_columns": {
            column.title: value for column in COLUMNS if (value := comparable(model, column)) is not None
        },
    }


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(f".partial-{path.name}")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
