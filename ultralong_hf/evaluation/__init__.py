"""Evaluation: engines that answer, tasks that ask, reports that show.

`evaluate` and the other names are imported on first use: reports and heat maps alone need no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ultralong_hf.evaluation.engines import Engine, TransformersEngine
    from ultralong_hf.evaluation.heatmap import before_after_heatmap
    from ultralong_hf.evaluation.perplexity import loss_by_position
    from ultralong_hf.evaluation.report import Report, write_html_report
    from ultralong_hf.evaluation.running import evaluate

_HOME_OF = {
    "Engine": "engines",
    "Report": "report",
    "TransformersEngine": "engines",
    "before_after_heatmap": "heatmap",
    "evaluate": "running",
    "loss_by_position": "perplexity",
    "write_html_report": "report",
}

__all__ = [
    "Engine",
    "Report",
    "TransformersEngine",
    "before_after_heatmap",
    "evaluate",
    "loss_by_position",
    "write_html_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
