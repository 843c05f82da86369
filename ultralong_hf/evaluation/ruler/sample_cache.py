"""Made prompts on disk: the second run reads what the first one made."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ultralong_hf.evaluation.prompts import Frame
from ultralong_hf.evaluation.ruler.building import Prompt

FORMAT = 3
"""Counts changes of the generators: prompts made before one are not read after it."""


def cache_key(values: Mapping[str, Any]) -> str:
    """A digest of all that decides a task's prompts."""
    text = json.dumps({"format": FORMAT, **values}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class SampleCache:
    """Prompts of one task and length, a file each: ids and, in the file's header, the rest as JSON.

    A file is written under another name first, so that it is whole or not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, sample: int) -> Prompt | None:
        """None: it is not there, or not whole."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self._path(sample), framework="numpy") as file:
                rest = json.loads(file.metadata()["prompt"])
                ids, head, tail = (file.get_tensor(name) for name in ("ids", "head", "tail"))
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            return None
        frame = Frame(tuple(head.tolist()), tuple(tail.tolist()), *rest["frame"])
        return Prompt(ids, tuple(rest["references"]), rest["details"], tuple(rest["notes"]), frame)

    def write(self, sample: int, prompt: Prompt) -> None:
        """Where the disk is full or the folder cannot be written, the prompt is not kept."""
        from safetensors import SafetensorError
        from safetensors.numpy import save_file

        path, frame = self._path(sample), prompt.frame
        rest = {
            "references": prompt.references,
            "details": dict(prompt.details),
            "notes": prompt.notes,
            "frame": [frame.before, frame.after, frame.answer_prefix],
        }
        arrays = {
            "ids": prompt.ids,
            "head": np.array(frame.head, dtype=np.int32),
            "tail": np.array(frame.tail, dtype=np.int32),
        }
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file(arrays, partial, metadata={"prompt": json.dumps(rest)})
            os.replace(partial, path)
        except (OSError, SafetensorError):
            with contextlib.suppress(OSError):
                partial.unlink()

    def _path(self, sample: int) -> Path:
        return self.folder / f"{sample:05}.safetensors"
