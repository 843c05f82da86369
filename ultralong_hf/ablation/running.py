"""`run_ablation`: studies x seeds in, every arm trained and measured, one report out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultralong_hf.ablation.arms import Arm, Setting, Study
from ultralong_hf.ablation.studies import build_studies
from ultralong_hf.ablation.trial import LAB_OVERRIDES, Trial
from ultralong_hf.ablation.workers import cores, run_trials
from ultralong_hf.ablation.working import finished_result
from ultralong_hf.errors import AblationError

if TYPE_CHECKING:
    from ultralong_hf.ablation.report import AblationReport

Result = dict[str, Any]


def run_ablation(
    studies: str | Sequence[str] = ("paper",),
    *,
    output_dir: str | Path,
    seeds: int | Sequence[int] = 5,
    recipe: str = "lab",
    overrides: Mapping[str, Any] | None = None,
    workers: int | None = None,
    stop_after: float | None = None,
    progress: bool | None = None,
) -> AblationReport:
    """Trains and measures each arm of `studies` with each seed, and compares arms seed by seed.

    studies: names in `STUDIES`, "paper" for the paper's three, "all". seeds: how many, or which. recipe:
    a preset or file; `overrides` such as {"cpt.max_steps": 80} hold for every arm. workers: trials at a time
    (the lab: one a core, each with one thread; else one, in this process). stop_after: seconds, after which
    no other trial is begun. The same call goes on after an interruption: a finished arm and seed is a file.
    Raises AblationError and RecipeError on bad input before anything is trained; a trial that fails is named
    in a MachineError after the others have run.
    """
    from ultralong_hf.ablation.report import AblationReport

    plan = plan_ablation(studies, output_dir=output_dir, seeds=seeds, recipe=recipe, overrides=overrides)
    # a result of other settings is refused before anything runs
    waiting = [trial for trial in plan.trials if finished_result(trial) is None]
    count = _worker_count(workers, plan.setting.is_lab)
    done = len(plan.trials) - len(waiting)
    run_trials(waiting, count, done=done, stop_after=stop_after, progress=progress)
    results = {(trial.arm.key, trial.seed): _result(trial) for trial in plan.trials}
    report = AblationReport.of(plan.studies, plan.seeds, results, plan.setting)
    report.save(output_dir)
    return report


@dataclass(frozen=True)
class Plan:
    """What a run is made of."""

    setting: Setting
    studies: list[Study]
    seeds: list[int]
    trials: list[Trial]
    """Every arm once a seed, seed by seed, so that a run that is stopped has compared something."""


def plan_ablation(
    studies: str | Sequence[str],
    *,
    output_dir: str | Path,
    seeds: int | Sequence[int] = 5,
    recipe: str = "lab",
    overrides: Mapping[str, Any] | None = None,
) -> Plan:
    """The trials of `run_ablation` with these arguments; nothing is run. Raises the same errors."""
    names = (studies,) if isinstance(studies, str) else tuple(studies)
    setting = read_setting(recipe, overrides or {})
    changes = {**(LAB_OVERRIDES if setting.is_lab else {}), **(overrides or {})}

    def trial_of(arm: Arm, seed: int) -> Trial:
        return Trial(arm, seed, recipe, changes, Path(output_dir), setting.is_lab)

    numbers = _known_seeds(seeds)
    setting.check_steps()
    built = [_without_doubles(study, trial_of, numbers[0]) for study in build_studies(names, setting)]
    arms = {arm.key: arm for study in built for arm in study.all_arms}
    return Plan(setting, built, numbers, [trial_of(arm, seed) for seed in numbers for arm in arms.values()])


def _without_doubles(study: Study, trial_of: Callable[[Arm, int], Trial], seed: int) -> Study:
    """The study without arms that are its base by another name. Raises RecipeError for a bad combination."""
    base = trial_of(study.base, seed).fingerprint()
    if not study.paired:
        for arm in study.arms:
            trial_of(arm, seed).fingerprint()
        return study
    return replace(study, arms=tuple(arm for arm in study.arms if trial_of(arm, seed).fingerprint() != base))


def read_setting(recipe_name: str, overrides: Mapping[str, Any]) -> Setting:
    """The recipe and what its model's config tells. Raises RecipeError, ModelError, RopeError."""
    from ultralong_hf.recipes import load_recipe
    from ultralong_hf.recipes.schema import LAB
    from ultralong_hf.rope.families import read_rope
    from ultralong_hf.training.models import load_config

    plain = load_recipe(recipe_name, dict(overrides))
    is_lab = plain.model.name_or_path == LAB and [source.path for source in plain.data.sources] == [LAB]
    recipe = load_recipe(recipe_name, {**(LAB_OVERRIDES if is_lab else {}), **overrides})
    rope = read_rope(load_config(recipe.model))
    original = recipe.rope.original_length or rope.original_length
    if original is None:
        raise AblationError(
            f"{recipe.model.name_or_path} was stretched before and does not tell from which window: set "
            "rope.original_length in the recipe."
        )
    return Setting(recipe, original, rope.window, is_lab)


def _result(trial: Trial) -> Result:
    result = finished_result(trial)
    assert result is not None, trial.name
    return result


def _known_seeds(seeds: int | Sequence[int]) -> list[int]:
    numbers = list(range(seeds)) if isinstance(seeds, int) else list(dict.fromkeys(seeds))
    if not numbers:
        raise AblationError("There is no seed to run: give at least one, and five or more for an interval.")
    return numbers


def _worker_count(workers: int | None, is_lab: bool) -> int:
    if workers is not None and workers < 1:
        raise AblationError(f"--workers {workers}: at least one trial runs at a time.")
    return workers or (cores() if is_lab else 1)
