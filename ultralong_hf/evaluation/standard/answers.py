"""Answers of a model to lm-eval's requests, kept on disk as JSON: a stopped run goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ultralong_hf.errors import EvaluationError

_SQLITE = b"SQLite format 3\0"


@contextmanager
def kept_answers(lm: Any, path: Path) -> Iterator[Any]:
    """The model behind lm-eval's own cache of answers, which would be of pickles and is of JSON here.

    Raises EvaluationError where the file is no such cache.
    """
    from lm_eval.api.model import LM, CachingLM
    from sqlitedict import SqliteDict

    class JsonCachingLM(CachingLM):
        """All but the answers is the model's own."""

        def __init__(self) -> None:
            self.lm = lm
            self.cache_db = str(path)
            self.dbdict = SqliteDict(str(path), autocommit=True, encode=json.dumps, decode=_decode)
            lm.set_cache_hook(self.get_cache_hook())

    LM.register(JsonCachingLM)  # lm-eval takes nothing else for a model
    if path.exists() and path.stat().st_size:
        with path.open("rb") as file:
            if file.read(len(_SQLITE)) != _SQLITE:
                raise EvaluationError(f"{path} is no cache of answers: remove it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = JsonCachingLM()
    try:
        yield kept
    finally:
        kept.dbdict.close()


def _decode(text: str) -> Any:
    """JSON has no tuples, and lm-eval takes (log probability, whether it is the greedy answer) as one."""
    value = json.loads(text)
    return tuple(value) if isinstance(value, list) else value
