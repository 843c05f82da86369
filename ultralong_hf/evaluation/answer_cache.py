"""Answers kept by content: the same model is never asked the same prompt twice, whatever the run folder."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ultralong_hf.evaluation.engines.base import Answer, Prompt
from ultralong_hf.evaluation.ledger import settings_digest

Found: TypeAlias = "list[int] | Answer"


def cache_root() -> Path:
    """ULTRALONG_CACHE, else ultralong_hf in the user's cache folder (XDG_CACHE_HOME, ~/.cache)."""
    if given := os.environ.get("ULTRALONG_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ultralong_hf"


def answer_key(prompt: Prompt, max_new_tokens: int) -> str:
    """SHA-256 of the prompt's ids and the answer budget."""
    ids = np.ascontiguousarray(prompt, dtype="<i4")
    return hashlib.sha256(ids.tobytes() + f"/{max_new_tokens}".encode()).hexdigest()


class AnswerCache:
    """Answers of one model in `root`/answers: JSON Lines files, one a run, so that runs never share a file.

    `identity` is what answers depend on beside the prompt: weights, settings, versions. A line torn by a
    killed run is passed over. With `root` None nothing is kept.
    """

    def __init__(self, root: Path | None, identity: Mapping[str, Any]) -> None:
        self._answers: dict[str, Found] = {}
        self._file: Path | None = None
        if root is None:
            return
        folder = root / "answers" / settings_digest(identity)[:32]
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.glob("*.jsonl")):
            self._answers.update(_read(path))
        self._file = folder / f"{uuid.uuid4().hex}.jsonl"

    def find(self, prompt: Prompt, max_new_tokens: int) -> Found | None:
        """The answer, if this prompt has been asked with this budget."""
        return self._answers.get(answer_key(prompt, max_new_tokens)) if self._file else None

    def keep(self, prompts: Iterable[Prompt], max_new_tokens: int, answers: Iterable[Found]) -> None:
        """Failures are not kept."""
        if self._file is None:
            return
        lines = []
        for prompt, answer in zip(prompts, answers, strict=True):
            if isinstance(answer, Answer) and answer.failure:
                continue
            content: dict[str, Any] = (
                {"text": answer.text, "notes": answer.notes}
                if isinstance(answer, Answer)
                else {"ids": list(answer)}
            )
            lines.append(json.dumps({"key": answer_key(prompt, max_new_tokens), **content}) + "\n")
        if lines:
            with self._file.open("a", encoding="utf-8") as file:
                file.write("".join(lines))


def _read(path: Path) -> dict[str, Found]:
    answers: dict[str, Found] = {}
    for line in path.read_bytes().splitlines():
        try:
            content = json.loads(line)
            key = content["key"]
            if "ids" in content:
                answers[key] = [int(token) for token in content["ids"]]
            else:
                answers[key] = Answer(str(content["text"]), notes=tuple(content["notes"]))
        except (ValueError, KeyError, TypeError):
            continue
    return answers
