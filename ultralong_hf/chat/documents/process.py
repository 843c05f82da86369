"""Starts reader processes and ends those that overrun; a file that kills its reader harms no other."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from ultralong_hf.chat.documents.limits import MIB, Limits
from ultralong_hf.errors import UploadError

_LONGEST_HEADER = 16 * MIB
_WAKES_EVERY = 0.1


@dataclass
class Answer:
    """What a reader said of one file: `header` without an error, or why it is refused."""

    header: dict[str, Any] = field(default_factory=dict)
    text: str = ""
    refusal: str = ""


def read_files(
    files: Sequence[tuple[str, str]],
    into: Path,
    limits: Limits,
    *,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Answer]:
    """One Answer a file (name, path), in order. After one that had to be killed a fresh process goes on."""
    done = 0
    while done < len(files):
        with _Reader(files[done:], into, limits) as reader:
            for _ in files[done:]:
                answer = reader.next(stopped)
                done += 1
                yield answer
                if reader.ended:
                    break


class _Reader:
    """One process. It sees an empty folder, no variables of ours (so no keys), no input and no terminal."""

    def __init__(self, files: Sequence[tuple[str, str]], into: Path, limits: Limits) -> None:
        self.limits, self.ended = limits, False
        descriptor, self._request = tempfile.mkstemp(suffix=".json", dir=into)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({"files": [*files], "into": str(into), "limits": asdict(limits)}, file)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ultralong_hf.chat.documents.worker", self._request],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=into,
            env={
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                "PATH": os.defpath,
                "LANG": "C.UTF-8",
            },
            start_new_session=True,
        )
        self._answers: queue.SimpleQueue[Answer | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *fault: object) -> None:
        self._kill()
        self._process.wait()
        self._thread.join()
        Path(self._request).unlink(missing_ok=True)

    def next(self, stopped: Callable[[], bool]) -> Answer:
        """Raises UploadError if the user stopped it."""
        deadline = time.monotonic() + self.limits.seconds
        while True:
            if stopped():
                raise UploadError("reading was stopped.")
            try:
                answer = self._answers.get(timeout=_WAKES_EVERY)
            except queue.Empty:
                if time.monotonic() < deadline:
                    continue
                self.ended = True
                return Answer(refusal=f"reading it took more than {self.limits.seconds:g} s and was ended.")
            if answer is None:
                self.ended = True
                return Answer(refusal="its reader broke down: the file is damaged, or takes too much memory.")
            return answer

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            while (answer := _receive(stream, self.limits)) is not None:
                self._answers.put(answer)
        self._answers.put(None)

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()


def _receive(stream: BinaryIO | Any, limits: Limits) -> Answer | None:
    """None at the end, or where the reader says something that is no answer."""
    line = stream.readline(_LONGEST_HEADER)
    try:
        header = json.loads(line)
        size = int(header.pop("bytes"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if not 0 <= size <= 4 * limits.characters:
        return None
    content = stream.read(size)
    if len(content) < size:
        return None
    return Answer(header, content.decode("utf-8", "replace"), str(header.get("error", "")))
