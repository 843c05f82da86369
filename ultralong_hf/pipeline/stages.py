"""Which stages a recipe has, in which order, what each needs and where it leaves its output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ultralong_hf.errors import RunError
from ultralong_hf.recipes.checking import nearest
from ultralong_hf.recipes.schema import Recipe

Kind = Literal["store", "blend", "model", "training", "evaluation", "release"]

PREFERENCES = ("preference", "orpo", "grpo")
"""The stages after SFT, of which a run has one or none."""

TITLES = {
    "prepare": "documents -> rows",
    "blend": "conversations -> samples",
    "extend": "RoPE stretched",
    "evaluate-base": "the original measured",
    "cpt": "continued pretraining",
    "evaluate-cpt": "measured",
    "sft": "instruction tuning",
    "preference": "preferences, DPO",
    "orpo": "preferences, ORPO",
    "grpo": "rewards, GRPO",
    "evaluate-final": "the last model measured",
    "publish": "release folder, checked",
}
"""All stages that there are, in their order."""


@dataclass(frozen=True)
class Stage:
    """One step from documents to a release."""

    name: str
    kind: Kind
    folder: Path
    """What it leaves."""
    needs: tuple[str, ...] = ()
    """Stages whose outputs it reads."""
    model: str | None = None
    """Of them, the one whose model it takes; None: the recipe's own model, or none at all."""

    @property
    def title(self) -> str:
        return TITLES[self.name]


def build_stages(
    recipe: Recipe, folder: Path, *, preference: str | None = None, skip: Iterable[str] = ()
) -> tuple[Stage, ...]:
    """The stages of a recipe whose sections all name their folders, in the order in which they run.

    `folder`: of the run, for what the recipe names no place of. Data that has no sources is there already and
    has no stage. Raises RunError for names that are no stages, and for one left out that another needs.
    """
    left_out = set(check_names(skip))
    trained = ["cpt"]
    has_sft = bool(recipe.sft or recipe.instruct.sources)
    if has_sft and "sft" not in left_out:
        trained.append("sft")
    if preference is not None:
        if preference not in PREFERENCES:
            raise RunError(f"{preference!r} is no stage of preferences. Use one of {', '.join(PREFERENCES)}.")
        trained.append(preference)
    last = trained[-1]
    measured = folder / "evaluation"
    stages = [
        *([Stage("prepare", "store", Path(recipe.data.output_dir))] if recipe.data.sources else []),
        *(
            [Stage("blend", "blend", Path(str(recipe.instruct.output_dir)))]
            if recipe.instruct.sources and "sft" in trained
            else []
        ),
        Stage("extend", "model", folder / "extended"),
        Stage("evaluate-base", "evaluation", measured / "base"),
        *_trained(recipe, trained),
        *([Stage("evaluate-cpt", "evaluation", measured / "cpt", ("cpt",), "cpt")] if last != "cpt" else []),
        Stage("evaluate-final", "evaluation", measured / "final", (last,), last),
    ]
    order = list(TITLES)
    stages = [stage for stage in stages if stage.name not in left_out]
    if "publish" not in left_out:
        evaluations = (stage.name for stage in stages if stage.kind == "evaluation")
        stages.append(Stage("publish", "release", folder / "release", (last, *evaluations), last))
    _check(stages)
    return tuple(sorted(stages, key=lambda stage: order.index(stage.name)))


def check_names(names: Iterable[str]) -> list[str]:
    """The names, if all are stages. Raises RunError with each that is none."""
    given = list(names)
    faults = [f"{name!r} is no stage.{nearest(name, TITLES)}" for name in given if name not in TITLES]
    if faults:
        raise RunError(*faults, f"The stages are {', '.join(TITLES)}.")
    return given


def _trained(recipe: Recipe, names: Sequence[str]) -> list[Stage]:
    """Each starts from the model of the one before."""
    data: Mapping[str, tuple[str, ...]] = {
        "cpt": ("prepare",) if recipe.data.sources else (),
        "sft": ("blend",) if recipe.instruct.sources else (),
    }
    stages = []
    before = "extend"
    for name in names:
        folder = Path(getattr(recipe, name)["output_dir"])
        stages.append(Stage(name, "training", folder, (*data.get(name, ()), before), before))
        before = name
    return stages


def _check(stages: Sequence[Stage]) -> None:
    there = {stage.name for stage in stages}
    faults = [
        f"{need} cannot be left out: {stage.name} needs it."
        for stage in stages
        for need in stage.needs
        if need not in there
    ]
    at: dict[Path, str] = {}
    for stage in stages:
        other = at.setdefault(stage.folder.absolute(), stage.name)
        if other != stage.name:
            faults.append(f"{other} and {stage.name} would both leave their output in {stage.folder}.")
    if faults:
        raise RunError(*dict.fromkeys(faults))
