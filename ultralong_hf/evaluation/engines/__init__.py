"""Engines: token ids in, greedy answers out.

Imported on first use: the contract alone needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ultralong_hf.evaluation.engines.base import Answer, Engine, Prompt, check_window
    from ultralong_hf.evaluation.engines.local import TransformersEngine
    from ultralong_hf.evaluation.engines.opening import open_engine
    from ultralong_hf.evaluation.engines.server import ServerEngine

_HOME_OF = {
    "Answer": "base",
    "Engine": "base",
    "Prompt": "base",
    "ServerEngine": "server",
    "TransformersEngine": "local",
    "check_window": "base",
    "open_engine": "opening",
}

__all__ = [
    "Answer",
    "Engine",
    "Prompt",
    "ServerEngine",
    "TransformersEngine",
    "check_window",
    "open_engine",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
