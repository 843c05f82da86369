"""What a stage left: its files with their digests, whether they are whole, and one digest of what counts."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict

from ultralong_hf.data.storing.shards import file_sha256
from ultralong_hf.evaluation.ledger import PROMPTS_FILE, settings_digest
from ultralong_hf.pipeline.stages import Stage

_PASSING = ("checkpoint-", "reference", "runs")
"""Folders of a trainer's that are no part of the model."""
_OF_THE_RUN = {"training": ("README.md",), "release": ("README.md", "release.json", "recipe.yaml")}
"""What differs between equal outputs: TRL's card of a model, whose tags come in any order; of a release the
card, which tells what training took, its digest, and the recipe, which names folders."""
_MEASURED = ("cells", "scores", "perplexity", "standard")
"""Of an evaluation's report, what depends on the model alone."""


class FileFacts(TypedDict):
    """Of a file as it was when its stage ended. `mtime_ns`: a file that has it still is not read again."""

    sha256: str
    bytes: int
    mtime_ns: int


def describe_files(folder: Path) -> dict[str, FileFacts]:
    """Every file of an output by its path in the folder; hidden files and checkpoints are left out."""
    facts: dict[str, FileFacts] = {}
    for path in _files(folder):
        status, sha256 = path.stat(), file_sha256(path)
        assert sha256 is not None, path
        facts[path.relative_to(folder).as_posix()] = {
            "sha256": sha256,
            "bytes": status.st_size,
            "mtime_ns": status.st_mtime_ns,
        }
    return facts


def find_damage(folder: Path, files: Mapping[str, FileFacts]) -> str | None:
    """Which file is missing or is not as it was, in words; None: the output is whole.

    A file whose size and time are as they were is taken for the same; any other is compared by its digest.
    """
    for name, facts in files.items():
        path = folder / name
        try:
            status = path.stat()
        except OSError:
            return f"{path} is missing"
        if status.st_size != facts["bytes"] or (
            status.st_mtime_ns != facts["mtime_ns"] and file_sha256(path) != facts["sha256"]
        ):
            return f"{path} was changed"
    return None


def output_digest(stage: Stage, files: Mapping[str, FileFacts]) -> str:
    """SHA-256 of what a stage is for: equal for equal inputs, however often the stage was interrupted."""
    if stage.kind == "evaluation":
        return settings_digest(_measured(stage.folder))
    left_out = _OF_THE_RUN.get(stage.kind, ())
    return settings_digest({name: facts["sha256"] for name, facts in files.items() if name not in left_out})


def _files(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if not name.startswith((".", *_PASSING)) or Path(root) != folder
        )
        yield from (Path(root) / name for name in sorted(names) if not name.startswith("."))


def _measured(folder: Path) -> dict[str, Any]:
    """Results, and a digest of every prompt and answer in the order of their places."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    lines = []
    if (folder / PROMPTS_FILE).is_file():
        with (folder / PROMPTS_FILE).open(encoding="utf-8") as file:
            lines = [json.dumps(json.loads(line), sort_keys=True) for line in file]
    answers = hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
    return {**{name: report[name] for name in _MEASURED}, "answers": answers}
