"""The stages of a recipe as TRL trainers.

The names are imported on first use: `training.checkpoints` alone needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ultralong_hf.training.checkpoints import last_checkpoint, resume_point
    from ultralong_hf.training.grpo import grpo_trainer
    from ultralong_hf.training.orpo import orpo_trainer
    from ultralong_hf.training.preference import preference_trainer
    from ultralong_hf.training.stages import cpt_trainer, sft_trainer

_HOME_OF = {
    "cpt_trainer": "stages",
    "grpo_trainer": "grpo",
    "last_checkpoint": "checkpoints",
    "orpo_trainer": "orpo",
    "preference_trainer": "preference",
    "resume_point": "checkpoints",
    "sft_trainer": "stages",
}

__all__ = [
    "cpt_trainer",
    "grpo_trainer",
    "last_checkpoint",
    "orpo_trainer",
    "preference_trainer",
    "resume_point",
    "sft_trainer",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
