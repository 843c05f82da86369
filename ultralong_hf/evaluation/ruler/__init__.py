"""RULER (arXiv 2404.06654): thirteen synthetic tasks at any length, made in time linear in it.

`tasks` makes them for `evaluate`, from five generators (`niah`, `tracking`, `common`, `frequent`,
`questions`) and the table of arguments in `definitions`.
"""

from __future__ import annotations

from ultralong_hf.evaluation.ruler.definitions import TASKS
from ultralong_hf.evaluation.ruler.tasks import ruler_tasks

__all__ = ["SELECTORS", "ruler_tasks"]

SELECTORS = tuple(TASKS)
