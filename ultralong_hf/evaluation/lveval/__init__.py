"""LV-Eval (arXiv 2402.05136): 11 datasets in English and Chinese at 5 levels, 16k to 256k words."""

from __future__ import annotations

from ultralong_hf.evaluation.lveval.datasets import DATASETS
from ultralong_hf.evaluation.lveval.tasks import LVEvalTask, lveval_tasks

SELECTORS = tuple(DATASETS)

__all__ = ["SELECTORS", "LVEvalTask", "lveval_tasks"]
