"""The whole recipe on the lab: measure, extend, prepare, CPT, SFT, measure again, and a report of it.

The stages are those that a recipe for GPUs runs: `cpt_trainer`, `sft_trainer` and `evaluate`.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultralong_hf.errors import ModelError
from ultralong_hf.lab.base import base_model_path
from ultralong_hf.lab.report import write_report

if TYPE_CHECKING:
    from ultralong_hf.evaluation import Report
    from ultralong_hf.recipes import Recipe

REPORT = "report.json"


@dataclass
class SeedRun:
    """What one seed gave: `cells` and `perplexity` hold each side, "before" and "after"."""

    seed: int
    folder: Path
    seconds: dict[str, float] = field(default_factory=dict)
    cells: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    perplexity: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def model(self) -> Path:
        return self.folder / "model"


def run_quickstart(
    output_dir: str | Path,
    *,
    seeds: Sequence[int] = (0,),
    recipe: str = "lab",
    overrides: dict[str, Any] | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Run the recipe for each seed; returns what report.json holds (its keys are in the README).

    An interrupted run goes on where it was; a finished one in the same folder is replaced. Raises ModelError
    if the folder holds something else.
    """
    output_dir = Path(output_dir)
    _make_room(output_dir)
    runs = []
    for seed in seeds:
        folder = output_dir if len(seeds) == 1 else output_dir / f"seed-{seed}"
        runs.append(_run_seed(seed, folder, recipe, overrides or {}, say))
    return write_report(output_dir, runs)


def seed_recipe(name: str, seed: int, folder: Path, overrides: dict[str, Any]) -> Recipe:
    """The recipe with every seed set to `seed` and every output under `folder`."""
    from ultralong_hf.recipes import load_recipe

    ours: dict[str, Any] = {
        f"{section}.seed": seed for section in ("data", "cpt", "instruct", "sft", "evaluation")
    }
    ours |= {
        "data.output_dir": str(folder / "store"),
        "cpt.output_dir": str(folder / "cpt"),
        "instruct.output_dir": str(folder / "blend"),
        "sft.output_dir": str(folder / "model"),
    }
    return load_recipe(name, ours | overrides)


def _run_seed(
    seed: int, folder: Path, name: str, overrides: dict[str, Any], say: Callable[[str], None]
) -> SeedRun:
    from ultralong_hf.training import cpt_trainer, resume_point, sft_trainer

    recipe = seed_recipe(name, seed, folder, overrides)
    run = SeedRun(seed, folder)
    base = base_model_path() if recipe.model.name_or_path == "lab" else recipe.model.name_or_path

    with _stage(run, "evaluate before", say):
        _keep(run, "before", _measure(base, recipe, folder / "before"))
    if not (folder / "cpt" / "config.json").is_file():
        with _stage(run, "extend and prepare", say):
            trainer = cpt_trainer(recipe)
        with _stage(run, "continued pretraining", say):
            trainer.train(resume_from_checkpoint=resume_point(trainer.args))
            trainer.save_model()
    if not (run.model / "config.json").is_file():
        with _stage(run, "instruction tuning", say):
            trainer = sft_trainer(recipe)
            trainer.train(resume_from_checkpoint=resume_point(trainer.args))
            trainer.save_model()
    with _stage(run, "evaluate after", say):
        _keep(run, "after", _measure(run.model, recipe, folder / "after"))
    return run


def _measure(model: str | Path, recipe: Recipe, folder: Path) -> Report:
    """The recipe's tasks, and loss by position on real documents that no stage has seen."""
    from ultralong_hf.evaluation import evaluate

    section = recipe.evaluation
    return evaluate(model, list(section.tasks), output_dir=folder, **section.options())


def _keep(run: SeedRun, side: str, report: Report) -> None:
    run.cells[side] = report.cells
    run.perplexity[side] = report.perplexity


@contextmanager
def _stage(run: SeedRun, name: str, say: Callable[[str], None]) -> Iterator[None]:
    say(f"seed {run.seed}: {name}")
    started = time.monotonic()
    yield
    run.seconds[name] = round(time.monotonic() - started, 1)


def _make_room(output_dir: Path) -> None:
    """Takes a finished quickstart away, keeps an unfinished one, refuses anything else."""
    marker = output_dir / "quickstart.json"
    if output_dir.exists() and any(output_dir.iterdir()):
        if not marker.is_file():
            raise ModelError(f"{output_dir} is not empty and holds no quickstart: choose another --output.")
        if (output_dir / REPORT).is_file():
            shutil.rmtree(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    marker.write_text(json.dumps({"made_by": "ultralong lab quickstart"}) + "\n")
