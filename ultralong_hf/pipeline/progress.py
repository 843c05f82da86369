"""The last line of a stage's log, shown on a terminal while the stage runs."""

from __future__ import annotations

import os
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SECONDS = 1.0
_TAIL_BYTES = 2000
_CLEAR = "\r\x1b[K"


@contextmanager
def showing_progress(log: Path) -> Iterator[None]:
    """Shows it, cut to the width, where stderr is a terminal; elsewhere nothing."""
    if not sys.stderr.isatty():
        yield
        return
    stop = threading.Event()
    # stderr itself is the log's meanwhile
    with os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding="utf-8", errors="replace") as terminal:

        def show() -> None:
            while not stop.wait(_SECONDS):
                width = shutil.get_terminal_size().columns
                terminal.write(f"{_CLEAR}{last_line(log)[: width - 1]}")
                terminal.flush()

        thread = threading.Thread(target=show, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            terminal.write(_CLEAR)


def last_line(log: Path) -> str:
    """The last line or state of a bar in the file that is not empty, in printable characters."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            text = file.read().decode("utf-8", errors="ignore")
    except OSError:
        return ""
    lines = [line.strip() for line in re.split(r"[\r\n]", text)]
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]|[^ -~\u00a0-\uffff]", "", next(filter(None, reversed(lines)), ""))
