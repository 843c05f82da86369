"""The model before its window was extended: a finished run of it, or the model itself."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ultralong_hf.errors import EvaluationError


@dataclass(frozen=True)
class Baseline:
    """source: the folder of a finished run (with standard.json), a model folder or hub id, or a loaded model
    with its tokenizer.

    The model is loaded once, beside the extended one, when its first benchmark is measured.
    """

    source: Any
    device: Any = None
    dtype: Any = "auto"

    @cached_property
    def run(self) -> Path | None:
        """The finished run's folder, if that was given. Raises EvaluationError for one without results."""
        if not isinstance(self.source, str | Path) or not Path(self.source).is_dir():
            return None
        folder = Path(self.source)
        if (folder / "standard.json").exists():
            return folder
        if (folder / "config.json").exists():
            return None
        raise EvaluationError(
            f"{folder} is neither a model nor a run with standard.json: the baseline is one or the other."
        )

    @property
    def name(self) -> str:
        if isinstance(self.source, str | Path):
            return str(self.source)
        model = self.source[0] if isinstance(self.source, tuple) else self.source
        return str(getattr(model, "name_or_path", "") or type(model).__name__)

    @cached_property
    def engine(self) -> Any:
        """The model's engine, in this process. Raises ModelError, EvaluationError."""
        from ultralong_hf.evaluation.engines import TransformersEngine

        if isinstance(self.source, str | Path):
            return TransformersEngine.from_pretrained(self.source, device=self.device, dtype=self.dtype)
        if isinstance(self.source, tuple) and len(self.source) == 2:
            return TransformersEngine(*self.source)
        raise EvaluationError("A loaded baseline comes with its tokenizer: give (model, tokenizer).")
