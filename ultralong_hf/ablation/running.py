"""`run_ablation`: studies x seeds in, every arm trained and measured, one report out."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultralong_hf.ablation.arms import Arm, Setting, Study, build_studies
from ultralong_hf.ablation.trial import LAB_OVERRIDES, Trial
from ultralong_hf.ablation.working import finished_result, run_trial
from ultralong_hf.errors import AblationError, MachineError, UltraLongError

if TYPE_CHECKING:
    from ultralong_hf.ablation.report import AblationReport

Result = dict[str, Any]
LOG = "log.txt"


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

    studies: names of `arms.STUDIES`, "paper" for the paper's three, "all". seeds: how many, or which. recipe:
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


def run_trials(
    trials: Sequence[Trial],
    workers: int,
    *,
    done: int = 0,
    stop_after: float | None = None,
    progress: bool | None = None,
) -> None:
    """Runs the trials; one that fails stops no other.

    `stop_after`: seconds, after which no other trial is begun. Raises MachineError with a line a failure at
    the end, or where trials are left.
    """
    from tqdm.auto import tqdm

    faults: list[str] = []
    deadline = time.monotonic() + stop_after if stop_after is not None else math.inf
    disable = None if progress is None else not progress
    left = len(trials)
    with tqdm(total=done + left, initial=done, unit="run", disable=disable) as bar:
        for trial, error in _outcomes(trials, workers, deadline):
            if error is not None:
                faults.append(f"{trial.name}: {_reason(error)} ({trial.home / LOG})")
            left -= 1
            bar.set_postfix_str(trial.name)
            bar.update()
    if left:
        faults.append(f"stopped in time: {left} of {done + len(trials)} runs are left.")
    if faults:
        raise MachineError(*faults, "What has finished is kept: run the same command again for the rest.")


def _outcomes(
    trials: Sequence[Trial], workers: int, deadline: float
) -> Iterator[tuple[Trial, BaseException | None]]:
    """Each trial begun before the deadline, and what it raised."""
    waiting = iter(trials)
    if workers == 1:
        for trial in waiting:
            if time.monotonic() >= deadline:
                return
            try:
                run_trial(trial)
            except UltraLongError as error:
                yield trial, error
            else:
                yield trial, None
        return
    with _pool(workers) as pool:
        running: dict[Future, Trial] = {}
        while True:
            while len(running) < workers and time.monotonic() < deadline:
                following = next(waiting, None)
                if following is None:
                    break
                running[pool.submit(_run_quietly, following)] = following
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.exception()


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Worker processes with their share of the cores; none outlives this block, or this process."""
    import multiprocessing

    threads = max(1, _cores() // workers)
    # OpenMP reads its own when torch loads, in the worker; threads that wait by spinning slow the others
    for name, value in (("OMP_NUM_THREADS", str(threads)), ("OMP_WAIT_POLICY", "PASSIVE")):
        os.environ.setdefault(name, value)
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(threads,),
    )
    try:
        yield pool
    except BaseException:
        processes = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        raise
    pool.shutdown()


def _start_worker(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would train on for nobody."""
    import multiprocessing
    import multiprocessing.connection

    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _run_quietly(trial: Trial) -> None:
    """The trial with all that it prints in its log: two bars on one screen are none."""
    trial.home.mkdir(parents=True, exist_ok=True)
    with (trial.home / LOG).open("a", encoding="utf-8") as log:
        kept = os.dup(1), os.dup(2)
        sys.stdout.flush(), sys.stderr.flush()
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            run_trial(trial)
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            for descriptor, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, descriptor)
                os.close(copy)


def _reason(error: BaseException) -> str:
    if isinstance(error, BrokenProcessPool):
        return "its process was ended from outside, for memory perhaps"
    first = str(error).strip().splitlines()
    return f"{type(error).__name__}: {first[0] if first else ''}"


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
    return workers or (_cores() if is_lab else 1)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
