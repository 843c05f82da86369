"""The same arms as commands, for machines where `accelerate launch` trains them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator
from typing import Any

from ultralong_hf.ablation.trial import Trial
from ultralong_hf.errors import AblationError

LAUNCH = "accelerate launch examples/cpt.py"


def launch_commands(trials: Iterable[Trial]) -> Iterator[str]:
    """A line a stage; several stages of an arm run in their order, each from the model of the one before.

    Once they have run, `ultralong ablate` with the same arguments finds the models and measures them. Raises
    AblationError for the lab.
    """
    for trial in trials:
        if trial.is_lab:
            raise AblationError(
                "--commands is for recipes of your own: the lab's documents are made where it is trained, by "
                "`ultralong ablate` itself."
            )
        if not trial.arm.trained:
            continue
        start: str | None = None
        for number, recipe in enumerate(trial.stage_recipes()):
            changes = {
                **trial.stage_overrides(number),
                "data.output_dir": recipe.data.output_dir,
                "cpt.output_dir": recipe.cpt["output_dir"],
            }
            words = [LAUNCH, "--recipe", shlex.quote(trial.recipe)]
            words += [word for key, value in changes.items() for word in _option(key, value)]
            if start is not None:
                words += ["--model", shlex.quote(start)]
            yield " ".join(words)
            start = recipe.cpt["output_dir"]


def _option(key: str, value: Any) -> tuple[str, str]:
    text = value if isinstance(value, str) else json.dumps(value)
    return f"--{key.removeprefix('cpt.')}", shlex.quote(text)
