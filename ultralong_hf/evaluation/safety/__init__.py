"""Whether a model still declines, still helps, and does not obey what a document says: rates by length.

`tasks` asks, `refusals` reads the answers by rules, `rates` turns a run into rates with intervals. The
prompts are this project's own and few: they show whether extension changed a model, not that it is safe.
"""

from __future__ import annotations

from ultralong_hf.evaluation.safety.tasks import SELECTORS, safety_tasks

__all__ = ["SELECTORS", "safety_tasks"]
