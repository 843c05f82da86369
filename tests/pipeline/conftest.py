import json

import pytest

from ultralong_hf.errors import MachineError
from ultralong_hf.pipeline import open_run
from ultralong_hf.pipeline.run import Run
from ultralong_hf.pipeline.stages import Stage


class Jobs:
    """Stands in for the work of stages: small files whose content is all that the stage depends on."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.fails: dict[str, Exception] = {}

    def __call__(self, run: Run, stage: Stage, *, confirm_requests: bool = False) -> None:
        self.done.append(stage.name)
        stage.folder.mkdir(parents=True, exist_ok=True)
        if stage.name in self.fails:
            (stage.folder / "half.txt").write_text("half")
            raise self.fails[stage.name]
        if stage.kind == "evaluation":
            seen = run.stage(stage.model).folder / "out.txt" if stage.model else None
            report = {"cells": [seen.read_text() if seen else "base"], "scores": []}
            report |= {"perplexity": [], "standard": [], "seconds": len(self.done)}
            (stage.folder / "report.json").write_text(json.dumps(report))
            return
        before = [run.stage(name).folder / "out.txt" for name in stage.needs]
        told = [path.read_text() for path in before if path.is_file()]
        seed = run.recipe.data.seed if stage.kind == "store" else 0
        steps = getattr(run.recipe, stage.name)["max_steps"] if stage.kind == "training" else 0
        (stage.folder / "out.txt").write_text(f"{stage.name} {seed} {steps} {told}")


@pytest.fixture
def jobs(monkeypatch):
    stand_in = Jobs()
    monkeypatch.setattr("ultralong_hf.pipeline.launching.do_job", stand_in)
    return stand_in


@pytest.fixture
def lab(tmp_path):
    """Opens the run of the lab's recipe in a folder of this test."""

    def open_lab(**changes):
        options = {name: changes.pop(name) for name in ("preference", "skip") if name in changes}
        return open_run("lab", output_dir=tmp_path / "run", overrides=changes, **options)

    return open_lab


@pytest.fixture
def full_disk():
    return MachineError("the disk is full.")
