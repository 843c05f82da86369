"""The evaluation of a release: which runs are its own, its tables and pictures, its safety rates."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ultralong_hf.errors import ReleaseError
from ultralong_hf.evaluation.reporting.contents import build_sections
from ultralong_hf.evaluation.reporting.markdown import markdown_of
from ultralong_hf.evaluation.reporting.models import ModelResults, family_of, read_models
from ultralong_hf.evaluation.reporting.runs import read_run
from ultralong_hf.evaluation.safety.rates import card_section

PICTURES = "images"
_SAFETY = "safety"
_OF_FOLDERS = "What was run"
"""The section of the report that names folders of this machine."""


def read_results(
    reports: Sequence[str | Path], source: Path, name: str
) -> tuple[list[ModelResults], list[str]]:
    """The models of run folders, the released one last and called `name`; and notes.

    Its own runs are those whose model is the folder `source`; where none says so, the last model's are.
    Raises EvaluationError for what is no run, ReleaseError for a run that is not finished.
    """
    runs = {Path(folder): read_run(folder) for folder in reports}
    unfinished = [folder for folder, run in runs.items() if not run.finished]
    if unfinished:
        raise ReleaseError(
            *(f"{folder} is not finished: run the same `ultralong eval` again." for folder in unfinished)
        )
    own = [folder for folder, run in runs.items() if _same_folder(run.model, source)]
    identity = runs[own[-1]].identity if own else list(runs.values())[-1].identity
    order = sorted(runs, key=lambda folder: runs[folder].identity == identity)  # stable: its own come last
    called = [Path(model.runs[0].model).name or model.name for model in read_models(order)]
    names = [one if called[:-1].count(one) == 1 else f"{one}-{at}" for at, one in enumerate(called[:-1], 1)]
    names = [f"{one} (base)" if one == name else one for one in names]
    notes = [] if own else [f"no run of --report is of {source}: the last one is taken for it."]
    return read_models(order, [*names, name]), notes


def results_markdown(models: Sequence[ModelResults], folder: Path) -> str:
    """Sections of the card; pictures are drawn into `folder`/images. Safety is told apart from these."""
    shown = [without_safety(model) for model in models]
    if not any(model.records or model.standard or model.perplexity for model in shown):
        return ""
    sections = [section for section in build_sections(shown) if section[0] != _OF_FOLDERS]
    text = markdown_of("results", sections, folder / PICTURES).partition("\n\n")[2].rstrip()
    return re.sub(r"^## ", "### ", text, flags=re.MULTILINE)


def safety_markdown(models: Sequence[ModelResults]) -> str | None:
    """Rates of the released model, beside those of the first that has them; None: not measured."""
    with_rates = [
        (model, run.folder)
        for model in models
        for run in model.runs
        if any(family_of(task) == _SAFETY for task in run.tasks)
    ]
    own = [folder for model, folder in with_rates if model is models[-1]]
    if not own:
        return None
    others = [folder for model, folder in with_rates if model is not models[-1]]
    return card_section(own[0], before=others[0] if others else None)


def without_safety(model: ModelResults) -> ModelResults:
    """The same without safety prompts, whose mean over tasks would mean nothing."""
    records = {task: cells for task, cells in model.records.items() if family_of(task) != _SAFETY}
    return replace(model, records=records)


def _same_folder(name: str, source: Path) -> bool:
    path = Path(name)
    return path.exists() and path.resolve() == source.resolve()
