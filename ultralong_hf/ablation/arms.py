"""What an arm and a study are, and the setting that they are made in.

An arm is a list of training stages, each a set of overrides; `()` stands for the recipe as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ultralong_hf.errors import AblationError
from ultralong_hf.recipes import Recipe

Overrides = Mapping[str, Any]

BASE = "base"


@dataclass(frozen=True)
class Arm:
    """One way to train. Arms of equal `key` are the same in every study."""

    key: str
    title: str
    stages: tuple[Overrides, ...] = ({},)
    """Overrides of each CPT stage, in turn; each starts from the model of the one before."""
    trained: bool = True
    """False: only the first stage's RoPE is applied."""
    documents: str = "rows"
    """The lab's documents: "rows", planned for each row; "sparse", with few facts; "pool", of all lengths."""


@dataclass(frozen=True)
class Study:
    """A question, the arm that the others are compared with, and the others."""

    name: str
    question: str
    base: Arm
    arms: tuple[Arm, ...]
    paired: bool = True
    """False: arms have different lengths and budgets, so that no difference is taken."""

    @property
    def all_arms(self) -> tuple[Arm, ...]:
        return (self.base, *self.arms) if self.paired else self.arms


@dataclass(frozen=True)
class Setting:
    """What the arms are made from: the recipe and two facts of its model."""

    recipe: Recipe
    original_length: int
    """The window before any stretch: what RoPE's scale is taken of."""
    present_window: int
    """What the model reads before this recipe."""
    is_lab: bool = field(default=False)

    @property
    def base(self) -> Arm:
        return Arm(BASE, f"the recipe: {_rope_title(self.recipe)}, one step, {_separator_title(self.recipe)}")

    @property
    def steps(self) -> int:
        """Updates of every arm."""
        return int(self.recipe.cpt["max_steps"])

    def check_steps(self) -> None:
        """Raises AblationError where the recipe sets no number of steps: equal budgets hang on it."""
        steps = self.recipe.cpt.get("max_steps")
        if not isinstance(steps, int) or steps < 1:
            raise AblationError(
                f"{self.recipe.origin} sets no cpt.max_steps, so arms would not train on equally many "
                "tokens: set it there, or give --steps."
            )


def _rope_title(recipe: Recipe) -> str:
    scale = f", scale {recipe.rope.scale:g}" if recipe.rope.scale else ""
    return f"{recipe.rope.method}{scale}"


def _separator_title(recipe: Recipe) -> str:
    separator = recipe.data.separator
    return f"separator {separator!r}" if separator else "no separator"
