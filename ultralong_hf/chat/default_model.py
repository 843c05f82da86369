"""The lab's extended model, which the chat takes where none is named: found, or made once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ultralong_hf.errors import ModelError

QUICKSTART = Path("outputs/quickstart")


def lab_model(*, say: Callable[[str], None] = print, home: Path | None = None) -> Path:
    """A quickstart's folder, with `model` and `report.json` in it.

    That of the current folder (outputs/quickstart) if it is finished, else one of the user's cache folder,
    which is made if it is missing: some minutes on two cores. An interrupted making goes on where it was.
    Raises ModelError.
    """
    if _is_finished(QUICKSTART):
        return QUICKSTART
    folder = (home or _cache_home()) / "ultralong_hf" / "quickstart"
    if not _is_finished(folder):
        say("Making the lab's model, once (2 to 5 minutes on 2 cores); it is kept for the next time.")
        _make(folder, say)
    if not _is_finished(folder):
        raise ModelError("The lab's model could not be made: run `ultralong lab quickstart` to see why.")
    return folder


def _make(folder: Path, say: Callable[[str], None]) -> None:
    from filelock import FileLock

    from ultralong_hf.lab.quickstart import run_quickstart

    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(str(folder) + ".lock"):  # a second chat waits for the first, and finds it made
        if not _is_finished(folder):
            run_quickstart(folder, say=say)


def _is_finished(folder: Path) -> bool:
    return (folder / "model" / "config.json").is_file() and (folder / "report.json").is_file()


def _cache_home() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
