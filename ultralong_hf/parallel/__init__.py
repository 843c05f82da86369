"""One sequence over many devices, in any TRL or transformers trainer.

The public names are imported on first use: the sizes alone need neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ultralong_hf.parallel.groups import SequenceGroup
    from ultralong_hf.parallel.plugin import Plan, SequenceParallelPlugin

_HOME_OF = {"Plan": "plugin", "SequenceGroup": "groups", "SequenceParallelPlugin": "plugin"}

__all__ = ["Plan", "SequenceGroup", "SequenceParallelPlugin"]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
