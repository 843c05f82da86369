"""Trials run in this process or in several, each with its share of the cores."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from ultralong_hf.ablation.trial import Trial
from ultralong_hf.ablation.working import run_trial
from ultralong_hf.errors import MachineError, UltraLongError
from ultralong_hf.output_files import printing_to

LOG = "log.txt"


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

    threads = max(1, cores() // workers)
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
    with printing_to(trial.home / LOG):
        run_trial(trial)


def _reason(error: BaseException) -> str:
    if isinstance(error, BrokenProcessPool):
        return "its process was ended from outside, for memory perhaps"
    first = str(error).strip().splitlines()
    return f"{type(error).__name__}: {first[0] if first else ''}"


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
