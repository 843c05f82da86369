"""The UltraLong recipe (arXiv 2504.06214) on the Hugging Face stack.

The public names are imported on first use: `import ultralong_hf` itself loads neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ultralong_hf.data.collator import LongContextCollator
    from ultralong_hf.data.packing import prepare_dataset
    from ultralong_hf.data.store import load_packed
    from ultralong_hf.errors import UltraLongError
    from ultralong_hf.evaluation import evaluate
    from ultralong_hf.parallel import SequenceParallelPlugin
    from ultralong_hf.planning import plan
    from ultralong_hf.recipes import Recipe, load_recipe
    from ultralong_hf.rope import describe_rope, extend_context
    from ultralong_hf.training import cpt_trainer, grpo_trainer, orpo_trainer, preference_trainer, sft_trainer

_HOME_OF = {
    "LongContextCollator": "data.collator",
    "Recipe": "recipes",
    "SequenceParallelPlugin": "parallel",
    "UltraLongError": "errors",
    "cpt_trainer": "training",
    "describe_rope": "rope",
    "evaluate": "evaluation",
    "extend_context": "rope",
    "grpo_trainer": "training",
    "load_packed": "data.store",
    "load_recipe": "recipes",
    "orpo_trainer": "training",
    "plan": "planning",
    "preference_trainer": "training",
    "prepare_dataset": "data.packing",
    "sft_trainer": "training",
}

__all__ = [
    "LongContextCollator",
    "Recipe",
    "SequenceParallelPlugin",
    "UltraLongError",
    "cpt_trainer",
    "describe_rope",
    "evaluate",
    "extend_context",
    "grpo_trainer",
    "load_packed",
    "load_recipe",
    "orpo_trainer",
    "plan",
    "preference_trainer",
    "prepare_dataset",
    "sft_trainer",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
