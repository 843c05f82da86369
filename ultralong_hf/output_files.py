"""What a process prints, in a file: its own streams and those of the libraries beneath it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


@contextmanager
def printing_to(path: Path) -> Iterator[TextIO]:
    """Appends all that this process and its children print meanwhile to the file, by their descriptors.

    Gives the file, opened. `sys.stdout` and `sys.stderr` stay as they are: loggers made meanwhile keep
    them for good.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as log:
        sys.stdout.flush(), sys.stderr.flush()
        kept = os.dup(1), os.dup(2)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            yield log
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            for descriptor, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, descriptor)
                os.close(copy)
