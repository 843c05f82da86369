"""One arm with one seed: the recipe of each of its stages, and where everything of it lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultralong_hf.ablation.arms import Arm
from ultralong_hf.evaluation.ledger import settings_digest

if TYPE_CHECKING:
    from ultralong_hf.recipes import Recipe

RESULT = "result.json"
LAB_STEPS = 36
"""Rows of 4,096 tokens, one a step: recall at the full length is then far from both 0 and 1, and the paper's
three studies fit into 20 minutes. Two and three divide it."""
# What the lab changes of its recipe: nothing is evaluated or saved on the way, documents keep to their rows.
LAB_OVERRIDES: dict[str, Any] = {
    "cpt.max_steps": LAB_STEPS,
    "cpt.eval_strategy": "no",
    "cpt.save_strategy": "no",
    "cpt.logging_strategy": "no",
    "cpt.disable_tqdm": True,
    "data.eval_rows": 0,
    "data.keep_tail": False,
    "data.workers": 1,
}
SEEDED = ("data", "cpt", "evaluation")
# Of the section `data`, what does not change the rows of a store.
NOT_OF_ROWS = ("output_dir", "sources", "mask_documents", "loss_on_separators", "eval_rows", "workers")


@dataclass(frozen=True)
class Trial:
    """One arm and seed of a run in `folder`; plain values, so that it travels to a worker.

    `recipe`: a preset or YAML file. `overrides`: what every arm changes of it. `is_lab`: documents are made
    for the rows, and the lab's probe measures.
    """

    arm: Arm
    seed: int
    recipe: str
    overrides: Mapping[str, Any]
    folder: Path
    is_lab: bool

    @property
    def home(self) -> Path:
        return self.folder / "arms" / self.arm.key / f"seed-{self.seed}"

    @property
    def result_path(self) -> Path:
        return self.home / RESULT

    @property
    def name(self) -> str:
        return f"{self.arm.key}, seed {self.seed}"

    def stage_overrides(self, number: int) -> dict[str, Any]:
        """What stage `number` changes of the recipe, folders and the lab's documents aside."""
        seeds = {f"{section}.seed": self.seed for section in SEEDED}
        # a recipe wants another seed for the prompts of rewards, though no arm is trained by them
        seeds["grpo_data.seed"] = self.seed + 1
        return {**seeds, **self.overrides, **self.arm.stages[number]}

    def stage_recipes(self) -> list[Recipe]:
        """The recipe of each stage, with its folders. Raises RecipeError for what does not go together."""
        from ultralong_hf.recipes import load_recipe

        count = len(self.arm.stages)
        plain = [load_recipe(self.recipe, self.stage_overrides(number)) for number in range(count)]
        tokens = sum(tokens_of(recipe) for recipe in plain)
        return [
            load_recipe(self.recipe, {**self.stage_overrides(number), **self._places(number, recipe, tokens)})
            for number, recipe in enumerate(plain)
        ]

    def fingerprint(self) -> dict[str, Any]:
        """All that the result hangs on, as plain values; folders aside, so that a run may be moved."""
        sections = ("model", "rope", "data", "cpt", *(() if self.is_lab else ("evaluation",)))
        stages = []
        for recipe in self.stage_recipes():
            stage = {name: value for name, value in asdict(recipe).items() if name in sections}
            del stage["data"]["output_dir"], stage["cpt"]["output_dir"]
            if self.is_lab:
                del stage["data"]["sources"]
            stages.append(stage)
        return {"stages": stages, "trained": self.arm.trained, "documents": self.arm.documents}

    def _places(self, number: int, recipe: Recipe, tokens: int) -> dict[str, Any]:
        last = number == len(self.arm.stages) - 1
        places: dict[str, Any] = {
            "cpt.output_dir": str(self.home / ("model" if last else f"stage-{number + 1}")),
        }
        rows = asdict(recipe.data)
        for key in NOT_OF_ROWS:
            del rows[key]
        if self.is_lab:
            length = recipe.data.target_length
            rows["documents"] = f"{self.arm.documents}-{length}x{tokens // length}-seed-{self.seed}"
            places["data.sources"] = [str(self.folder / "documents" / f"{rows['documents']}.jsonl")]
        else:
            rows["sources"] = [asdict(source) for source in recipe.data.sources]
        # arms that pack alike share a store
        places["data.output_dir"] = str(self.folder / "stores" / settings_digest(rows)[:16])
        return places


def tokens_of(recipe: Recipe) -> int:
    """Tokens that the recipe's CPT stage trains on, on one device."""
    cpt = recipe.cpt
    accumulated = cpt.get("gradient_accumulation_steps", 1)
    rows = recipe.rows_of_step("cpt") or cpt.get("per_device_train_batch_size", 8) * accumulated
    return int(cpt["max_steps"] * rows * recipe.data.target_length)
