"""What each kind of stage does: one call of what exists, with the run's recipe and folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultralong_hf.errors import ReleaseError
from ultralong_hf.lab.names import document_sources, model_location
from ultralong_hf.pipeline.run import Run
from ultralong_hf.pipeline.stages import Stage

if TYPE_CHECKING:
    from ultralong_hf.evaluation import Report


def do_job(run: Run, stage: Stage, *, confirm_requests: bool = False) -> None:
    """Makes the output of `stage` in this process, or goes on with it. Raises what the call raises."""
    if stage.kind == "store":
        _prepare(run)
    elif stage.kind == "blend":
        _blend(run, stage, confirm_requests)
    elif stage.kind == "model":
        _extend(run, stage)
    elif stage.kind == "evaluation":
        _evaluate(run, stage)
    elif stage.kind == "training":
        _train(run, stage)
    elif stage.kind == "release":
        _publish(run, stage)


def model_of(run: Run, stage: Stage) -> str:
    """The folder or id of the model that a stage takes."""
    if stage.model is None:
        return model_location(run.recipe.model.name_or_path)
    return str(run.stage(stage.model).folder)


def _prepare(run: Run) -> None:
    from ultralong_hf.data.packing import prepare_dataset
    from ultralong_hf.training.models import load_tokenizer

    recipe = run.recipe
    prepare_dataset(
        document_sources(recipe), tokenizer=load_tokenizer(recipe.model), **recipe.data.prepare_options()
    )


def _blend(run: Run, stage: Stage, confirm_requests: bool) -> None:
    from ultralong_hf.data.instructions.blend import prepare_blend
    from ultralong_hf.training.models import load_tokenizer

    prepare_blend(
        run.recipe.instruct,
        tokenizer=load_tokenizer(run.recipe.model),
        output_dir=stage.folder,
        confirm_requests=confirm_requests,
        say=print,
    )


def _extend(run: Run, stage: Stage) -> None:
    from ultralong_hf.rope import extend_context
    from ultralong_hf.rope.folder import find_model
    from ultralong_hf.training.models import rope_arguments

    recipe = run.recipe
    shutil.rmtree(stage.folder, ignore_errors=True)  # of an attempt whose end was not recorded
    source = find_model(
        model_location(recipe.model.name_or_path), with_weights=True, revision=recipe.model.revision
    )
    extend_context(source, recipe.window, **rope_arguments(recipe), output_dir=stage.folder)


def _train(run: Run, stage: Stage) -> None:
    from ultralong_hf.training.running import run_stage

    run_stage(run.recipe, stage.name, model=model_of(run, stage))


def _evaluate(run: Run, stage: Stage) -> None:
    model = model_of(run, stage)
    if stage.model is None and (revision := run.recipe.model.revision) is not None:
        from ultralong_hf.rope.folder import find_model

        model = str(find_model(model, with_weights=True, revision=revision))
    measure(model, run, stage.folder)


def measure(model: str, run: Run, folder: Path) -> Report:
    """The recipe's evaluation of a model. The standard side is held to the original's, where that is done."""
    from ultralong_hf.evaluation import evaluate

    section = run.recipe.evaluation
    options: dict[str, Any] = section.options()
    options["lengths"] = section.lengths or [run.recipe.window]
    base = run.folder / "evaluation" / "base"
    if "standard" in {task.partition("/")[0] for task in section.tasks} and folder != base:
        options["baseline"] = base if (base / "report.json").is_file() else None
    return evaluate(model, list(section.tasks), output_dir=folder, device=_devices(run), **options)


def _publish(run: Run, stage: Stage) -> None:
    """The folder, checked; nothing is uploaded. Raises ReleaseError with what stands against an upload."""
    from ultralong_hf.publishing import publish

    needed = [run.stage(name) for name in stage.needs]
    released = publish(
        model_of(run, stage),
        output_dir=stage.folder,
        recipe=run.recipe,
        reports=[one.folder for one in needed if one.kind == "evaluation"],
        name=run.release_name,
        dry_run=True,
    )
    print(json.dumps(released.to_dict(), indent=1))
    if released.faults:
        raise ReleaseError(*released.faults)


def _devices(run: Run) -> str | None:
    """All GPUs, where there are several; the CPU where the recipe trains there; else as `evaluate` has it."""
    import torch

    if run.recipe.cpt.get("use_cpu"):
        return "cpu"
    return "auto" if torch.cuda.device_count() > 1 else None
