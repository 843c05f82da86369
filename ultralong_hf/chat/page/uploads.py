"""What the browser uploaded: checked to lie in the upload folder, and deleted once it is read.

Gradio would fetch an address that a browser names in place of a file, so events that take files have
`preprocess=False`, and what they bring is looked at here.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from gradio.utils import get_upload_folder

from ultralong_hf.chat.page import texts
from ultralong_hf.errors import UploadError

Result = TypeVar("Result")


@dataclass(frozen=True)
class Upload:
    path: Path
    name: str


def uploaded(payload: Any) -> list[Upload]:
    """The files of an event, raw. Raises UploadError for what is no file of the upload folder."""
    home = Path(get_upload_folder()).resolve()
    found = []
    for item in payload if isinstance(payload, list) else [payload]:
        named = item.get("path") if isinstance(item, dict) else None
        path = Path(str(named)).resolve() if named else None
        if path is None or home not in path.parents or not path.is_file():
            raise UploadError(texts.UPLOAD_GONE)
        found.append(Upload(path, str(item.get("orig_name") or path.name)))
    return found


def delete(files: Sequence[Upload]) -> None:
    for file in files:
        file.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            file.path.parent.rmdir()


def with_progress(work: Callable[[Callable[[str], None]], Result]) -> Iterator[str | Result]:
    """Runs work(say) in a thread: what it says as it says it, then its result. Raises what it raises."""
    said: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    outcome: dict[str, Any] = {}

    def run() -> None:
        try:
            outcome["result"] = work(said.put)
        except BaseException as error:
            outcome["error"] = error
        finally:
            said.put(None)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while (text := said.get()) is not None:
        yield text
    thread.join()
    if "error" in outcome:
        raise outcome["error"]
    yield outcome["result"]
