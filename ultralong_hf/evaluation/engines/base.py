"""What every engine has: prompts of token ids in, answers out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from ultralong_hf.errors import EvaluationError

if TYPE_CHECKING:
    import numpy as np

Prompt: TypeAlias = "Sequence[int] | np.ndarray"
"""Token ids: a list, or int32 [tokens]."""


@dataclass(frozen=True)
class Answer:
    """What came back for one prompt."""

    text: str = ""
    failure: str | None = None
    """Why there is no answer: it is counted and named in the report, and never scored."""
    notes: tuple[str, ...] = ()
    """As a Sample's."""
    fatal: bool = False
    """The failure is the engine's, not the prompt's: nothing more can be asked."""


class Engine(Protocol):
    """Answers prompts of token ids, greedily.

    An engine that needs more than ids has `answer(samples) -> list[Answer]` beside it (see ServerEngine).
    """

    window: int | None
    """Tokens (prompt and answer) that the model was made for; None where the engine does not know."""

    def batch_size(self, prompt_tokens: int, max_new_tokens: int) -> int:
        """How many prompts of at most this size to hand over in one call."""

    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int) -> Sequence[Sequence[int] | Answer]:
        """The new tokens of each prompt, without the end-of-text token. Raises EvaluationError."""

    def identity(self) -> dict[str, Any]:
        """What tells this model from another: interrupted results are continued only by the same one."""


def check_window(tokens: int, window: int | None, *, beyond_window: bool) -> None:
    """Raises EvaluationError where prompt and answer outgrow the model's window, unless that is wanted."""
    if window is not None and tokens > window and not beyond_window:
        raise EvaluationError(
            f"{tokens:,} tokens are more than the model's window of {window:,}. Use shorter lengths, "
            "or beyond_window=True (--beyond-window) to measure how it fails there."
        )
