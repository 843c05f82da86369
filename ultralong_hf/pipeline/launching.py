"""Where a stage runs: in this process, in one of its own, or through accelerate; and its log."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from ultralong_hf.errors import InputError, RunError, StageFailed, UltraLongError
from ultralong_hf.output_files import printing_to
from ultralong_hf.pipeline.jobs import do_job, model_of
from ultralong_hf.pipeline.progress import showing_progress
from ultralong_hf.pipeline.run import Run
from ultralong_hf.pipeline.stages import Stage

LAUNCH = (sys.executable, "-m", "accelerate.commands.launch")


def carry_out(
    run: Run, stage: Stage, *, launch: Sequence[str] | None = None, confirm_requests: bool = False
) -> None:
    """Makes the stage's output. Raises RunError where its input is at fault, else StageFailed: with its log.

    Stages that train go through `accelerate launch`, or the command `launch` in place of it, and evaluations
    have a process of their own, which gives a GPU's memory back. Where the recipe trains on the CPU and no
    `launch` is given, all is done in this process: that is what accelerate would start there.
    """
    log = run.log(stage.name)
    command = stage_command(run, stage, launch)
    with showing_progress(log), printing_to(log) as file:
        print(
            f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} {stage.name}: {_told(command)}", file=file, flush=True
        )
        begin = log.stat().st_size
        try:
            if command is None:
                do_job(run, stage, confirm_requests=confirm_requests)
                return
            status = subprocess.run(command, stdin=subprocess.DEVNULL).returncode
        except UltraLongError as error:
            traceback.print_exc(file=file)
            raise _failure(stage, log, error.faults, isinstance(error, InputError)) from error
        except Exception as error:
            traceback.print_exc(file=file)
            raise _failure(stage, log, [_first_line(error)], False) from error
    if status:
        faults = _told_faults(log, begin)
        raise _failure(stage, log, faults or [_how_it_ended(status)], bool(faults) and status == 2)


def stage_command(run: Run, stage: Stage, launch: Sequence[str] | None = None) -> list[str] | None:
    """The process that does the stage; None: this one."""
    if stage.kind not in ("training", "evaluation") or (launch is None and runs_here(run)):
        return None
    if stage.kind == "evaluation":
        words = [sys.executable, "-m", "ultralong_hf.pipeline", str(run.folder), stage.name]
        return None if runs_here(run) else words
    return [
        *(launch or LAUNCH),
        *("-m", "ultralong_hf.training", stage.name),
        *("--recipe", str(run.recipe_file)),
        *("--model", model_of(run, stage)),
    ]


def runs_here(run: Run) -> bool:
    """Whether every stage that trains says use_cpu."""
    return all(
        getattr(run.recipe, stage.name).get("use_cpu") for stage in run.stages if stage.kind == "training"
    )


def _told(command: Sequence[str] | None) -> str:
    return "in this process" if command is None else shlex.join(command)


def _failure(stage: Stage, log: Path, faults: Sequence[str], of_input: bool) -> UltraLongError:
    kind = RunError if of_input else StageFailed
    return kind(
        *(f"{stage.name}: {fault}" for fault in faults), f"{stage.name} did not end; its log is {log}."
    )


def _told_faults(log: Path, begin: int) -> list[str]:
    """The `error:` lines that the process left."""
    with log.open("rb") as file:
        file.seek(begin)
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    return list(dict.fromkeys(line[7:] for line in lines if line.startswith("error: ")))


def _how_it_ended(status: int) -> str:
    if status < 0:
        return f"its process was ended by signal {-status}, for memory perhaps."
    return f"its process ended with status {status}."


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
