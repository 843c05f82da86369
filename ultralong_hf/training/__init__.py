"""The stages of a recipe as TRL trainers."""

from ultralong_hf.training.checkpoints import last_checkpoint, resume_point
from ultralong_hf.training.grpo import grpo_trainer
from ultralong_hf.training.orpo import orpo_trainer
from ultralong_hf.training.preference import preference_trainer
from ultralong_hf.training.stages import cpt_trainer, sft_trainer

__all__ = [
    "cpt_trainer",
    "grpo_trainer",
    "last_checkpoint",
    "orpo_trainer",
    "preference_trainer",
    "resume_point",
    "sft_trainer",
]
