"""`run_pipeline`: each stage whose output is not there, in order, from where it stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from ultralong_hf.errors import RunError
from ultralong_hf.pipeline.launching import carry_out
from ultralong_hf.pipeline.outputs import describe_files, output_digest
from ultralong_hf.pipeline.records import Record, write_record
from ultralong_hf.pipeline.run import Run, locked
from ultralong_hf.pipeline.stages import Stage, check_names
from ultralong_hf.pipeline.states import StageState, look_at

_LINKS = ("model", "release")
"""Kinds whose folders link to weights, and are made anew in place."""
_LIBRARIES = ("ultralong-hf", "torch", "transformers", "trl", "accelerate", "datasets")


def run_pipeline(
    run: Run,
    *,
    only: Iterable[str] = (),
    launch: Sequence[str] | None = None,
    confirm_requests: bool = False,
    say: Callable[[str], None] = print,
) -> list[StageState]:
    """Runs the stages, or `only` those named; gives the state of each after it.

    A stage is skipped when its inputs have the digests that they had and its output is whole; one that was
    interrupted goes on; one whose inputs changed is done anew, its former output renamed and kept.
    `launch`: words in place of `accelerate launch`. `confirm_requests`: send those of `instruct.rewrite`.
    Raises RunError for a run that cannot go on as asked, or whose input is at fault, and StageFailed.
    """
    chosen = set(check_names(only)) or {stage.name for stage in run.stages}
    for name in chosen:
        run.stage(name)
    with locked(run):
        run.write()
        digests: dict[str, str | None] = {}
        states = []
        for stage in run.stages:
            state = look_at(run, stage, digests)
            if state.word == "done":
                say(_line(state, "is done already"))
            elif stage.name in chosen:
                state = _do(run, state, digests, launch, confirm_requests, say)
            digests[stage.name] = state.digest
            states.append(state)
    return states


def _do(
    run: Run,
    state: StageState,
    digests: dict[str, str | None],
    launch: Sequence[str] | None,
    confirm_requests: bool,
    say: Callable[[str], None],
) -> StageState:
    stage = state.stage
    record = _begin(run, state, say)
    say(f"{stage.name:<15} {stage.title} ... (log: {run.log(stage.name)})")
    started = time.monotonic()
    carry_out(run, stage, launch=launch, confirm_requests=confirm_requests)
    seconds = time.monotonic() - started
    files = describe_files(stage.folder)
    digest = output_digest(stage, files)
    write_record(run.folder, replace(record, seconds=round(seconds, 1), digest=digest, files=files))
    after = look_at(run, stage, digests)
    say(_line(after, f"done in {seconds:,.1f} s"))
    return after


def _begin(run: Run, state: StageState, say: Callable[[str], None]) -> Record:
    """The record of an attempt, on disk before anything else is."""
    stage, record = state.stage, state.record
    if missing := [name for name, digest in state.inputs["needs"].items() if digest is None]:
        raise RunError(f"{stage.name} needs {', '.join(missing)}, which is not done: run it first.")
    if record is None or not record.is_in(stage.folder):
        _refuse_foreign(stage)
    elif state.word == "stale":
        _set_aside(state, say)
    again = record is not None and state.word != "stale"
    begun = Record(
        stage=stage.name,
        folder=str(stage.folder),
        inputs=state.inputs,
        attempts=record.attempts + 1 if record is not None and again else 1,
        versions={name: version(name) for name in _LIBRARIES},
    )
    write_record(run.folder, begun)
    return begun


def _refuse_foreign(stage: Stage) -> None:
    """Stores, blends and evaluations tell by themselves whether they go on with what is there."""
    if (
        stage.kind in ("model", "training", "release")
        and stage.folder.is_dir()
        and any(stage.folder.iterdir())
    ):
        raise RunError(
            f"{stage.folder} holds files that no run has made, and {stage.name} would go on with them or "
            "write over them: remove it, or choose another --output."
        )


def _set_aside(state: StageState, say: Callable[[str], None]) -> None:
    """Renames what was made with other inputs: weeks of training are not deleted for an edited key."""
    folder = state.stage.folder
    if not folder.exists() or state.stage.kind in _LINKS:
        say(f"{state.stage.name:<15} {state.detail}")
        return
    number = 1
    while (kept := Path(f"{folder}.replaced-{number}")).exists():
        number += 1
    folder.rename(kept)
    say(f"{state.stage.name:<15} {state.detail}; what it had made is kept in {kept}")


def _line(state: StageState, words: str) -> str:
    digest = (state.digest or "")[:12]
    return f"{state.stage.name:<15} {words}: {state.stage.folder} [{digest}]"
