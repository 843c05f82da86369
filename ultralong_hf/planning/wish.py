"""What a plan is made for: a model or a recipe, and what stands fixed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ultralong_hf.errors import PlanError
from ultralong_hf.footprint import ModelShape
from ultralong_hf.lengths import parse_length
from ultralong_hf.parallel.global_batch import GlobalBatch
from ultralong_hf.planning.shapes import read_shape
from ultralong_hf.recipes import PRESETS, Recipe, load_recipe
from ultralong_hf.recipes.schema import MemorySection, ModelSection, ParallelSection

STAGES = ("cpt", "sft", "preference", "orpo", "grpo")
_TRL_ROWS = 8
"""per_device_train_batch_size of transformers' TrainingArguments."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """A stage to be planned."""

    name: str
    """Of the model or recipe."""
    shape: ModelShape
    length: int
    stage: str
    model: ModelSection
    memory: MemorySection
    parallel: ParallelSection
    settings: dict[str, Any]
    """The stage's keys of TRL."""
    is_free: bool
    """Nobody has said how to save memory: the plan chooses."""
    rows: int = 1
    """Of a group of devices at once, as the stage says."""
    tokens: int | None = None
    """To train on; None: the stage's steps."""
    store_tokens: int = 0
    """Of the token store."""
    notes: tuple[str, ...] = field(default=())

    batch: GlobalBatch | None = None
    """The rows of a step, where the recipe says them for all devices together."""

    def accumulation(self, groups: int) -> int:
        """Passes that make a step on so many groups of devices."""
        if self.batch:
            return self.batch.accumulation(groups)
        return int(self.settings.get("gradient_accumulation_steps", 1))

    @property
    def splits_rows(self) -> bool:
        """Whether rows of such a model can be shared at all: its attention sees all tokens."""
        return not any(self.shape.windows) and not self.shape.linear_layers


def read_wish(
    subject: Any,
    *,
    length: int | str | None,
    stage: str,
    tokens: int | None,
    overrides: dict[str, Any] | None,
) -> Wish:
    """The wish for a recipe (an object, a preset's name, a YAML file) or a model (see `read_shape`)."""
    if stage not in STAGES:
        raise PlanError(f"{stage!r} is no stage. Use one of {', '.join(STAGES)}.")
    if isinstance(subject, Recipe) or _is_recipe(subject):
        if isinstance(subject, Recipe):
            if overrides:
                raise PlanError("a recipe that is loaded takes no overrides: give them to load_recipe.")
            recipe = subject
        else:
            recipe = load_recipe(subject, overrides)
        return of_recipe(recipe, length=length, stage=stage, tokens=tokens)
    if overrides:
        raise PlanError("only a recipe has keys to set, and this is a model.")
    if length is None:
        raise PlanError("give the length of a row too, such as length='1M': a model alone does not say it.")
    name, shape, notes = read_shape(subject)
    tokens_of_row = parse_length(length)
    return Wish(
        name=name,
        shape=shape,
        length=tokens_of_row,
        stage=stage,
        model=ModelSection(name_or_path=name or "model", dtype="bfloat16"),
        memory=MemorySection(),
        parallel=ParallelSection(),
        settings={"per_device_train_batch_size": 1},
        is_free=True,
        tokens=tokens,
        notes=(*notes, *_shape_notes(shape, tokens_of_row)),
    )


def of_recipe(
    recipe: Recipe,
    *,
    length: int | str | None = None,
    stage: str = "cpt",
    tokens: int | None = None,
    config: Any = None,
) -> Wish:
    """`config`: the model's, where it is loaded already."""
    name = recipe.model.name_or_path if config is None else config
    _, shape, notes = read_shape(name, trust_remote_code=recipe.model.trust_remote_code)
    pair = recipe.preference_data.max_length or recipe.data.target_length
    rows = {
        "cpt": recipe.data.target_length,
        "sft": recipe.instruct.max_length,
        "preference": pair,
        "orpo": pair,
        "grpo": max(recipe.grpo_data.lengths, default=recipe.data.target_length),
    }
    tokens_of_row = rows[stage] if length is None else parse_length(length)
    settings = dict(getattr(recipe, stage))
    rows_at_once = int(settings.get("per_device_train_batch_size", _TRL_ROWS))
    more = []
    if stage in ("preference", "orpo"):
        rows_at_once *= 2
        more.append("each pair is two rows.")
    if stage == "preference":
        more.append("the reference model is counted as weights that do not train.")
    if stage == "grpo":
        more.append("the step that learns is counted, generation is not: neither its KV cache nor its time.")
    return Wish(
        name=f"{Path(recipe.origin).stem} ({recipe.model.name_or_path})",
        shape=shape,
        length=tokens_of_row,
        stage=stage,
        model=recipe.model,
        memory=recipe.memory,
        parallel=recipe.parallel,
        settings=settings,
        is_free=False,
        rows=rows_at_once,
        batch=stage_batch(recipe, stage),
        tokens=tokens,
        store_tokens=(recipe.data.token_budget or 0) if stage == "cpt" else 0,
        notes=(*notes, *_shape_notes(shape, tokens_of_row), *more),
    )


def stage_batch(recipe: Recipe, stage: str) -> GlobalBatch | None:
    """The rows of a step of the stage, where the recipe says them for all devices together."""
    rows = recipe.rows_of_step(stage)
    at_once = int(getattr(recipe, stage).get("per_device_train_batch_size", _TRL_ROWS))
    return GlobalBatch(stage=stage, rows=rows, at_once=at_once) if rows else None


def require_recipe(subject: Any) -> None:
    """Raises PlanError for what is a model."""
    if not _is_recipe(subject):
        raise PlanError(f"{subject} is no recipe: give a YAML file, or one of {', '.join(PRESETS)}.")


def _is_recipe(subject: Any) -> bool:
    return str(subject) in PRESETS or Path(str(subject)).suffix in (".yaml", ".yml")


def _shape_notes(shape: ModelShape, length: int) -> list[str]:
    """What of the model is counted otherwise than by a run."""
    notes = []
    if shape.has_experts:
        notes.append(
            f"{shape.experts} experts a layer, {shape.experts_per_token} of them for a token: all are "
            "counted as weights, those as work; that tokens choose them evenly is assumed."
        )
    windows = [window for window in shape.windows if window and window < length]
    if windows:
        notes.append(
            f"{len(windows)} of {shape.layers} layers see {max(windows):,} tokens back: their work is "
            "counted so, and rows cannot be split over devices."
        )
    if shape.linear_layers:
        notes.append(
            f"{shape.linear_layers} of {shape.layers} layers have a recurrent state: they are counted as "
            "attention, which is too much, and rows cannot be split over devices."
        )
    return notes
