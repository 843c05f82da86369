"""What a run knows of a stage: a file of its own, written when the stage begins and again when it ends."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ultralong_hf.errors import RunError
from ultralong_hf.evaluation.ledger import write_json
from ultralong_hf.pipeline.outputs import FileFacts

FOLDER = "stages"


@dataclass(frozen=True, kw_only=True)
class Record:
    """A stage that was begun; one that has ended has a digest."""

    stage: str
    folder: str
    inputs: Mapping[str, Any]
    """All that decides the output; see `inputs.stage_inputs`."""
    attempts: int = 1
    seconds: float | None = None
    """Of the attempt that came to the end."""
    digest: str | None = None
    files: Mapping[str, FileFacts] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of the libraries that made it."""

    def is_in(self, folder: Path) -> bool:
        """Whether its output is in that folder, however it is spelled."""
        return Path(self.folder).absolute() == folder.absolute()

    @property
    def is_done(self) -> bool:
        return self.digest is not None


def read_record(folder: Path, stage: str) -> Record | None:
    """The record of a run's stage; None: it was never begun. Raises RunError for one that is damaged."""
    path = _path(folder, stage)
    if not path.is_file():
        return None
    try:
        return Record(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise RunError(f"{path} is damaged: remove it, and the output of {stage}.") from error


def write_record(folder: Path, record: Record) -> None:
    """Whole or not at all."""
    path = _path(folder, record.stage)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(record))


def _path(folder: Path, stage: str) -> Path:
    return folder / FOLDER / f"{stage}.json"
