"""The finished prompts of a run on disk: appended as they come, taken up again, never mixed with others."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.tasks import Key, Record

RUN_FILE = "run.json"
PROMPTS_FILE = "prompts.jsonl"


def record_key(record: Mapping[str, Any]) -> Key:
    """(task, length, depth, sample): the place of a prompt."""
    depth = record["depth"]
    return (
        str(record["task"]),
        int(record["length"]),
        None if depth is None else float(depth),
        int(record["sample"]),
    )


def is_failed(record: Mapping[str, Any]) -> bool:
    """Whether the prompt got no answer: it is in no score."""
    return bool(record.get("failure"))


class Ledger:
    """Finished prompts, in memory and, with a folder, in its prompts.jsonl.

    The folder is bound to `settings` by run.json, written at the first use. A folder bound to others is
    refused with an EvaluationError that names what differs. A last line torn by a killed run is dropped, and
    so are prompts that got no answer: they are asked again.
    With a folder the long prompt texts stay on disk; without one they are kept in memory.
    """

    def __init__(self, folder: str | Path | None, settings: Mapping[str, Any]) -> None:
        self.folder = Path(folder) if folder is not None else None
        self.records: dict[Key, Record] = {}
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            _bind(self.folder, settings)
            for record in _read_whole_lines(self.folder / PROMPTS_FILE):
                self._keep(record)
            if any(map(is_failed, self.records.values())):
                self._forget_failures()

    def append(self, records: Iterable[Record]) -> None:
        """Takes finished prompts in; they are on disk when this returns."""
        records = list(records)
        if self.folder is not None:
            with (self.folder / PROMPTS_FILE).open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        for record in records:
            self._keep(record)

    def _forget_failures(self) -> None:
        """Prompts that got no answer are asked again."""
        assert self.folder is not None
        path = self.folder / PROMPTS_FILE
        with path.open(encoding="utf-8") as file:
            write_lines(path, (record for record in map(json.loads, file) if not is_failed(record)))
        self.records = {key: record for key, record in self.records.items() if not is_failed(record)}

    def _keep(self, record: Record) -> None:
        if self.folder is not None:
            record = {name: value for name, value in record.items() if name != "prompt"}
        self.records[record_key(record)] = record


def settings_digest(settings: Mapping[str, Any]) -> str:
    """SHA-256 of the settings as sorted JSON."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def write_json(path: Path, content: Any) -> None:
    """Writes under another name first, so that the file is whole or not there."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(
        json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8"
    )
    os.replace(partial, path)


def write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Writes a JSON Lines file; whole or not there."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    os.replace(partial, path)


def _bind(folder: Path, settings: Mapping[str, Any]) -> None:
    digest = settings_digest(settings)
    path = folder / RUN_FILE
    if not path.exists():
        if (folder / PROMPTS_FILE).exists():
            raise EvaluationError(
                f"{folder} holds a {PROMPTS_FILE} without its {RUN_FILE}: what it was measured with "
                "is unknown. Use another output folder."
            )
        write_json(path, {"digest": digest, "settings": settings})
        return
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        stored_digest, stored_settings = stored["digest"], stored["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise EvaluationError(
            f"{path} is damaged: remove the folder or use another output folder."
        ) from error
    if stored_digest != digest:
        ours = json.loads(json.dumps(settings, default=str))
        differing = sorted(
            name for name in {*ours, *stored_settings} if ours.get(name) != stored_settings.get(name)
        )
        raise EvaluationError(
            f"{folder} holds another evaluation; it differs in {', '.join(differing)}. "
            "Use another output folder, or the same settings to go on with it."
        )


def _read_whole_lines(path: Path) -> list[Record]:
    """The records of the file; a last line without its end is cut off the file."""
    if not path.exists():
        return []
    records = []
    whole_bytes = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                record = json.loads(line)
                record_key(record)
            except (ValueError, KeyError, TypeError) as error:
                raise EvaluationError(
                    f"{path}, line {number}, is damaged: remove the folder and measure again."
                ) from error
            records.append({name: value for name, value in record.items() if name != "prompt"})
            whole_bytes += len(line)
    if whole_bytes < path.stat().st_size:
        os.truncate(path, whole_bytes)
    return records
