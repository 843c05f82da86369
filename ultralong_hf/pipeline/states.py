"""How far each stage of a run is, told from what is on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ultralong_hf.evaluation.ledger import PROMPTS_FILE
from ultralong_hf.pipeline.inputs import Inputs, differing_keys, stage_inputs
from ultralong_hf.pipeline.outputs import find_damage
from ultralong_hf.pipeline.records import Record, read_record
from ultralong_hf.pipeline.run import Run, is_running
from ultralong_hf.pipeline.stages import Stage

Word = Literal["done", "stale", "damaged", "interrupted", "running", "waiting"]


@dataclass(frozen=True)
class StageState:
    """A stage, and what is known of it."""

    stage: Stage
    word: Word
    """stale: begun or ended with other inputs. damaged: its output is not as it was. waiting: never begun."""
    detail: str
    inputs: Inputs
    """As they are now; None in it stands for a stage that is not done."""
    record: Record | None

    @property
    def digest(self) -> str | None:
        """Of its output, where that stands."""
        return self.record.digest if self.word == "done" and self.record else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "stage": self.stage.name,
            "title": self.stage.title,
            "state": self.word,
            "detail": self.detail,
            "folder": str(self.stage.folder),
            "needs": list(self.stage.needs),
            "digest": self.digest,
            "seconds": self.record.seconds if self.record else None,
            "attempts": self.record.attempts if self.record else 0,
        }


def survey(run: Run) -> list[StageState]:
    """The state of every stage, in order. Reads records and the times of files, and no weights."""
    digests: dict[str, str | None] = {}
    states = []
    running = is_running(run)
    for stage in run.stages:
        state = look_at(run, stage, digests, running=running)
        digests[stage.name] = state.digest
        states.append(state)
    return states


def look_at(run: Run, stage: Stage, digests: dict[str, str | None], *, running: bool = False) -> StageState:
    """The state of one stage; `digests`: of those before it. `running`: another process works in the run."""
    inputs = stage_inputs(run, stage, digests)
    record = read_record(run.folder, stage.name)
    word, detail = _judge(run, stage, inputs, record, running)
    return StageState(stage, word, detail, inputs, record)


def _judge(run: Run, stage: Stage, inputs: Inputs, record: Record | None, running: bool) -> tuple[Word, str]:
    if record is None:
        return "waiting", _waits_for(inputs)
    if record.inputs != inputs:
        if waits := _waits_for(inputs):
            return "stale", waits
        return "stale", f"changed: {_few(list(differing_keys(record.inputs, inputs)))}"
    if not record.is_in(stage.folder):
        return "stale", f"its output was to be in {record.folder}"
    if not record.is_done:
        return ("running" if running else "interrupted"), progress_of(run, stage)
    if damage := find_damage(stage.folder, record.files):
        return "damaged", damage
    return "done", ""


def progress_of(run: Run, stage: Stage) -> str:
    """How far an interrupted stage came: "at step 40 of 200"; empty where nothing tells."""
    if stage.kind == "training":
        step = last_step(stage.folder)
        steps = getattr(run.recipe, stage.name).get("max_steps")
        return f"at step {step:,}" + (f" of {steps:,}" if steps else "")
    prompts = stage.folder / PROMPTS_FILE
    if stage.kind == "evaluation" and prompts.is_file():
        with prompts.open("rb") as file:
            return f"after {sum(1 for _ in file):,} prompts"
    return ""


def last_step(folder: Path) -> int:
    """The step of the last whole checkpoint; 0 where there is none."""
    from ultralong_hf.training.checkpoints import last_checkpoint

    found = last_checkpoint(folder)
    return 0 if found is None else int(Path(found).name.rpartition("-")[2])


def _waits_for(inputs: Inputs) -> str:
    missing = [name for name, digest in inputs["needs"].items() if digest is None]
    return f"waits for {', '.join(missing)}" if missing else ""


def _few(keys: list[str], most: int = 4) -> str:
    """
    >>> _few(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    left = len(keys) - most
    return ", ".join(keys[:most]) + (f" and {left} more" if left > 0 else "")
