"""What a run would do and take, before it does anything: stages, plans of training, room on the disk."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ultralong_hf.errors import UltraLongError
from ultralong_hf.pipeline.run import Run
from ultralong_hf.pipeline.stages import Stage
from ultralong_hf.pipeline.states import StageState, survey
from ultralong_hf.planning import plan
from ultralong_hf.planning.plan import Plan
from ultralong_hf.recipes.schema import LAB, SAFETY, SAMPLE, Recipe

_SAVE_STEPS = 500
"""Of transformers' TrainingArguments."""
_SHIPPED = (LAB, SAMPLE, SAFETY)


@dataclass(frozen=True)
class DryRun:
    """What `look_ahead` found. Bytes in `disk` are of a stage's whole output; None: not known here."""

    run: Run
    states: list[StageState]
    plans: dict[str, Plan]
    disk: dict[str, int | None]
    free_bytes: int
    from_hub: list[str]
    """What is fetched where the run is made."""
    notes: list[str] = field(default_factory=list)

    @property
    def needed_bytes(self) -> int:
        """By the stages that are not done, as far as it is known."""
        left = [state.stage.name for state in self.states if state.word != "done"]
        return sum(self.disk.get(name) or 0 for name in left)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "run": str(self.run.folder),
            "recipe": self.run.source,
            "stages": [
                {**state.to_dict(), "disk_bytes": self.disk.get(state.stage.name)} for state in self.states
            ],
            "plans": {name: one.to_dict() for name, one in self.plans.items()},
            "disk_needed_bytes": self.needed_bytes,
            "disk_free_bytes": self.free_bytes,
            "from_hub": self.from_hub,
            "notes": self.notes,
        }


def look_ahead(
    run: Run, *, gpus: int | None = None, gpu: str = "h100-80g", gpus_per_node: int | None = None
) -> DryRun:
    """What each stage would read, leave and take. Nothing is written, fetched, loaded or trained.

    `gpus`, `gpu`, `gpus_per_node`: as of `plan`; of a recipe that trains on the CPU, that is planned for.
    """
    notes: list[str] = []
    plans = plan_stages(run, notes, gpus=gpus, gpu=gpu, gpus_per_node=gpus_per_node)
    disk = {stage.name: _disk_of(run, stage, plans, notes) for stage in run.stages}
    found = DryRun(run, survey(run), plans, disk, _free(run.folder), _from_hub(run.recipe), notes)
    if found.needed_bytes > found.free_bytes:
        notes.append("the disk has too little room for this.")
    return found


def plan_stages(
    run: Run,
    notes: list[str],
    *,
    gpus: int | None = None,
    gpu: str = "h100-80g",
    gpus_per_node: int | None = None,
) -> dict[str, Plan]:
    """The plan of each stage that trains; where none can be made, the reason is added to `notes`."""
    plans = {}
    for stage in run.stages:
        if stage.kind != "training":
            continue
        on_cpu = bool(getattr(run.recipe, stage.name).get("use_cpu"))
        try:
            plans[stage.name] = plan(
                run.recipe,
                stage=stage.name,
                gpus=1 if on_cpu else gpus,
                gpu="cpu" if on_cpu else gpu,
                gpus_per_node=None if on_cpu else gpus_per_node,
            )
        except UltraLongError as error:
            notes.append(f"no plan of {stage.name}: {error.faults[0]}")
    return plans


def _disk_of(run: Run, stage: Stage, plans: dict[str, Plan], notes: list[str]) -> int | None:
    if stage.kind == "store":
        return _store_bytes(run, notes)
    if stage.kind == "training":
        return _training_bytes(run, stage, plans.get(stage.name), notes)
    if stage.kind in ("model", "release"):
        return 0  # weights are hard-linked; the rest is a few MB
    return None


def _store_bytes(run: Run, notes: list[str]) -> int | None:
    """While it is made: rows, and the cache of tokens that they are gathered from."""
    from ultralong_hf.lab.corpus import TRAINING_ROWS

    data = run.recipe.data
    if [source.path for source in data.sources] == [LAB]:
        return 2 * 2 * TRAINING_ROWS * data.target_length
    if data.token_budget is not None:
        return 2 * 4 * data.token_budget  # two bytes a token where the vocabulary is below 65,536
    if all(Path(source.path).exists() for source in data.sources):
        return _sampled_bytes(run, notes)
    notes.append("the room for the store is not known: its sources are read nowhere else than on the hub.")
    return None


def _sampled_bytes(run: Run, notes: list[str]) -> int | None:
    from ultralong_hf.data.showing.estimate import estimate_store
    from ultralong_hf.data.storing.job import open_job
    from ultralong_hf.training.models import load_tokenizer

    options = run.recipe.data.prepare_options()
    folder = options.pop("output_dir")
    try:
        job = open_job(run.recipe.data.sources, tokenizer=load_tokenizer(run.recipe.model), **options)
        return int(estimate_store(job, folder)["disk_needed_bytes"])
    except UltraLongError as error:
        notes.append(f"the room for the store is not known: {error.faults[0]}")
        return None


def _training_bytes(run: Run, stage: Stage, planned: Plan | None, notes: list[str]) -> int | None:
    """The checkpoints that are kept, and the model."""
    if planned is None:
        return None
    section = getattr(run.recipe, stage.name)
    if planned.steps is None and section.get("save_total_limit") is None:
        notes.append(f"{stage.name}: its steps are not known yet, and one checkpoint is counted.")
    count = checkpoints_kept(section, planned.steps)
    return count * planned.disk["a checkpoint of training"] + planned.disk["the model"]


def checkpoints_kept(section: dict[str, Any], steps: int | None) -> int:
    """How many checkpoints a stage leaves: one where its steps are not known.

    >>> checkpoints_kept({"save_steps": 25}, 480), checkpoints_kept({"save_total_limit": 2}, 5000)
    (20, 2)
    """
    if section.get("save_strategy") == "no":
        return 0
    every = float(section.get("save_steps", _SAVE_STEPS))
    made = 1
    if steps and section.get("save_strategy", "steps") == "steps":
        made = math.ceil(steps / (every if every >= 1 else max(1.0, every * steps)))
    limit = section.get("save_total_limit")
    return made if limit is None else min(made, int(limit))


def _from_hub(recipe: Recipe) -> list[str]:
    """Models and datasets that are no files here."""
    from ultralong_hf.data.instructions.sources import expand
    from ultralong_hf.lab.names import model_location

    named = [model_location(recipe.model.name_or_path)]
    named += [source.path for source in recipe.data.sources]
    named += [source.path for source in expand(recipe.instruct.sources)]
    return list(dict.fromkeys(path for path in named if not _is_here(path, recipe.instruct.data_dir)))


def _is_here(path: str, copies: str | None) -> bool:
    if path.partition("/")[0] in _SHIPPED or any(mark in path for mark in "*?["):
        return True
    return Path(path).exists() or (copies is not None and (Path(copies) / path).exists())


def _free(folder: Path) -> int:
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def dry_run_text(found: DryRun) -> str:
    """The stages as a table, the plans in a few lines each, and the room on the disk."""
    from ultralong_hf.planning.launch_files import plan_lines
    from ultralong_hf.rope.tables import aligned

    rows: list[Sequence[str]] = [["stage", "state", "reads", "leaves", "disk"]]
    for state in found.states:
        size = found.disk.get(state.stage.name)
        rows.append(
            [
                state.stage.name,
                state.word,
                ", ".join(state.stage.needs) or _origin(found.run, state.stage),
                str(state.stage.folder),
                "" if size is None else _size(size),
            ]
        )
    lines = [f"{found.run.folder}: the run of {found.run.source}; nothing was done"]
    lines += [aligned(rows, left=4), ""]
    for name, one in found.plans.items():
        lines += [f"plan of {name}: {one_line}" for one_line in plan_lines(one)]
    lines.append(
        f"disk: {_size(found.needed_bytes)} for what is left, {_size(found.free_bytes)} are free "
        "(stores while they are made, every checkpoint that is kept, the models)"
    )
    if found.from_hub:
        lines.append(f"from the hub, where it runs: {', '.join(found.from_hub)}")
    return "\n".join([*lines, *(f"note: {note}" for note in found.notes)])


def _origin(run: Run, stage: Stage) -> str:
    if stage.kind == "store":
        return f"documents of {_few([source.path for source in run.recipe.data.sources])}"
    if stage.kind == "blend":
        return f"conversations of {_few([source.path for source in run.recipe.instruct.sources])}"
    return run.recipe.model.name_or_path


def _few(names: Sequence[str]) -> str:
    own = list(dict.fromkeys(names))
    return own[0] + (f" and {len(own) - 1} more" if len(own) > 1 else "")


def _size(count: int) -> str:
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 1000:,.0f} kB"
