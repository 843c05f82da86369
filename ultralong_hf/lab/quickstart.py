"""The whole recipe on the lab: the pipeline for each seed, and a report of before and after."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultralong_hf.errors import ModelError
from ultralong_hf.lab.report import write_report

if TYPE_CHECKING:
    from ultralong_hf.pipeline import Run
    from ultralong_hf.recipes import Recipe

REPORT = "report.json"
SKIPPED = ("evaluate-cpt",)
"""Before and after are shown, and a quickstart is short."""


@dataclass(frozen=True)
class SeedRun:
    """What one seed gave; `evaluations` are the folders of each side, "before" and "after"."""

    seed: int
    model: Path
    seconds: dict[str, float]
    evaluations: dict[str, Path]

    def results(self, side: str) -> dict[str, Any]:
        """report.json of a side's evaluation."""
        content: dict[str, Any] = json.loads((self.evaluations[side] / REPORT).read_text(encoding="utf-8"))
        return content


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
    if the folder holds something else, and what `run_pipeline` raises.
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
    return seed_run(name, seed, folder, overrides).recipe


def seed_run(name: str, seed: int, folder: Path, overrides: dict[str, Any]) -> Run:
    """The run of that recipe; its last model is `folder`/model."""
    from ultralong_hf.pipeline import open_run

    ours: dict[str, Any] = {
        f"{section}.seed": seed for section in ("data", "cpt", "instruct", "sft", "evaluation")
    }
    ours["sft.output_dir"] = str(folder / "model")
    return open_run(name, output_dir=folder, overrides=ours | overrides, skip=SKIPPED)


def _run_seed(
    seed: int, folder: Path, name: str, overrides: dict[str, Any], say: Callable[[str], None]
) -> SeedRun:
    from ultralong_hf.pipeline import run_pipeline

    run = seed_run(name, seed, folder, overrides)
    states = run_pipeline(run, say=lambda line: say(f"seed {seed}: {line}"))
    return SeedRun(
        seed=seed,
        model=run.stage("sft").folder,
        seconds={state.stage.name: state.record.seconds or 0.0 for state in states if state.record},
        evaluations={
            "before": run.stage("evaluate-base").folder,
            "after": run.stage("evaluate-final").folder,
        },
    )


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
