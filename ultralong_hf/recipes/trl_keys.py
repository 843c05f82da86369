"""Which keys TRL's config classes have, and which of them the stages set themselves."""

from __future__ import annotations

import importlib
import warnings
from dataclasses import fields
from functools import cache
from typing import Any, get_type_hints

_TAKEN = {
    "model_init_kwargs": "use the section model.",
    "trust_remote_code": "use model.trust_remote_code.",
    "dataset_kwargs": "rows and samples come prepared, so TRL's own preparation is skipped.",
    "remove_unused_columns": "the datasets hold only the columns that the collator reads.",
    "use_liger_kernel": "use model.liger_kernels.",
}
_TAKEN_BY_STAGE = {
    "cpt": {
        "max_length": "a row has data.target_length tokens and is never cut.",
        "packing": "rows are packed in the token store.",
        "packing_strategy": "rows are packed in the token store.",
        "eval_packing": "rows are packed in the token store.",
        "padding_free": "rows have no padding.",
        "completion_only_loss": "every token counts; see data.loss_on_separators.",
        "assistant_only_loss": "every token counts; see data.loss_on_separators.",
        "chat_template_path": "the stage reads documents, not conversations.",
    },
    "sft": {
        "max_length": "use instruct.max_length: longer samples are dropped and counted, not cut.",
        "completion_only_loss": "only the assistant's tokens count in this stage.",
        "assistant_only_loss": "only the assistant's tokens count in this stage.",
        "chat_template_path": "use instruct.chat_template: samples are tokens before the trainer is made.",
    },
    "preference": {
        "max_length": "use preference_data.max_length: longer pairs are dropped and counted, not cut.",
        "truncation_mode": "pairs are not cut.",
        "padding_free": "TRL 1.16 ignores it.",
    },
    "orpo": {
        "max_length": "use preference_data.max_length: longer pairs are dropped and counted, not cut.",
        "max_completion_length": "pairs are not cut.",
        "is_encoder_decoder": "long-context models are decoders.",
        "generate_during_eval": "measure answers with `ultralong eval`.",
    },
    "grpo": {
        "shuffle_dataset": "prompts of all tasks and lengths are mixed by grpo_data.seed.",
        "chat_template_kwargs": "prompts are those of the evaluation, chat template included.",
    },
}


def trl_class(name: str) -> Any:
    """trl.SFTConfig of "SFTConfig"; a class of trl.experimental by its dotted name."""
    module, _, attribute = f"trl.{name}".rpartition(".")
    with warnings.catch_warnings():
        # trl.experimental says that it may change; constraints.txt holds the version
        warnings.filterwarnings("ignore", message="You are importing from 'trl.experimental'")
        return getattr(importlib.import_module(module), attribute)


@cache
def trl_hints(class_name: str) -> dict[str, Any]:
    """Key -> type of a config class of trl, of the keys that its constructor takes."""
    cls = trl_class(class_name)
    hints = get_type_hints(cls)
    return {f.name: hints[f.name] for f in fields(cls) if f.init}


def why_not(section: str, key: str) -> str | None:
    """Why `key` cannot stand in `section` of a recipe; None where it can."""
    return _TAKEN.get(key) or _TAKEN_BY_STAGE[section].get(key)
