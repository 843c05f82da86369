"""InfiniteBench (arXiv 2402.13718): 12 tasks of 44K to 2.1M tokens in English, Chinese, code and numbers."""

from __future__ import annotations

from ultralong_hf.evaluation.infinitebench.table import SELECTORS
from ultralong_hf.evaluation.infinitebench.tasks import InfiniteBenchTask, infinitebench_tasks

__all__ = ["SELECTORS", "InfiniteBenchTask", "infinitebench_tasks"]
