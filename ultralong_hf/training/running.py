"""A stage trained to its end: what every launched process does."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultralong_hf.errors import ModelError, RecipeError
from ultralong_hf.training.checkpoints import resume_point
from ultralong_hf.training.configs import output_folder

if TYPE_CHECKING:
    from filelock import BaseFileLock

    from ultralong_hf.recipes import Recipe


def trainer_maker(stage: str) -> Callable[..., Any]:
    """The function that makes the trainer of a stage. Raises RecipeError for what is no stage."""
    from ultralong_hf import training

    makers: dict[str, Callable[..., Any]] = {
        "cpt": training.cpt_trainer,
        "sft": training.sft_trainer,
        "preference": training.preference_trainer,
        "orpo": training.orpo_trainer,
        "grpo": training.grpo_trainer,
    }
    if stage not in makers:
        raise RecipeError(f"{stage!r} is no stage that trains. Use one of {', '.join(makers)}.")
    return makers[stage]


def run_stage(recipe: Recipe, stage: str, *, model: str | None = None) -> None:
    """Trains `stage` from its last whole checkpoint to its end, and saves the model in its folder.

    `model`: a folder or id to start from; none: as the stage says. What is drawn at random does not depend on
    what this process did before. Raises ModelError where another process trains in the same folder.
    """
    from transformers import set_seed

    make = trainer_maker(stage)
    set_seed(int(getattr(recipe, stage).get("seed", 42)))  # adapters are drawn before the trainer sets it
    lock = _lock(output_folder(recipe, stage)) if os.environ.get("RANK", "0") == "0" else None
    try:
        trainer = make(recipe, model=model)
        trainer.train(resume_from_checkpoint=resume_point(trainer.args))
        trainer.save_model()
    finally:
        if lock is not None:
            lock.release()


def _lock(folder: Path) -> BaseFileLock:
    """Beside the folder: what is in it is the model."""
    from filelock import FileLock, Timeout

    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ModelError(f"another process trains in {folder}. Wait until it has ended, or end it.") from None
    return lock
