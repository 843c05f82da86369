"""Preference training, the stage after fine-tuning: TRL's DPO on pairs of answers to long prompts."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import is_peft_model
from transformers import PreTrainedModel
from trl import DPOTrainer

from ultralong_hf.data.pairs import read_pairs
from ultralong_hf.errors import ConversationError
from ultralong_hf.recipes import Recipe
from ultralong_hf.rope.exact import install_exact_angles, wants_exact_angles
from ultralong_hf.training.configs import finished_folder, stage_config
from ultralong_hf.training.folders import FinishesFolders
from ultralong_hf.training.memory import adapters, prepare_model, prepare_optimizer, require_memory
from ultralong_hf.training.models import apply_kernels, load_both, load_model
from ultralong_hf.training.padding import WithoutPaddingMask
from ultralong_hf.training.pairs import pair_rows
from ultralong_hf.training.parallel import plan_stage
from ultralong_hf.training.rows import hold_out
from ultralong_hf.training.shortage import ExplainsShortage
from ultralong_hf.training.telemetry import watch

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase, TrainerCallback

logger = logging.getLogger(__name__)


def preference_trainer(
    recipe: Recipe,
    *,
    model: PreTrainedModel | PeftModel | str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    callbacks: list[TrainerCallback] | None = None,
) -> PreferenceTrainer:
    """DPO: the better answer becomes likelier than the worse one, measured against the model it starts from.

    `model`: loaded (with its `tokenizer`), or a folder or Hub id; none: what the recipe's SFT stage left. One
    with a PEFT adapter is its own reference. Devices share pairs as `recipe.parallel` says, those of the
    reference too; with `preference.precompute_ref_log_probs` the reference runs once, before training, and
    leaves the memory.
    """
    start: Any = model or finished_folder(recipe, "sft")
    section = recipe.preference_data
    length = section.max_length or recipe.data.target_length
    plugin = plan_stage(recipe, "preference", start, length=length, padded=True)
    require_memory(recipe, "preference", start, plugin)
    policy, tokenizer = load_both(recipe.model, start, tokenizer)
    pairs, held_out = hold_out(
        read_pairs(section, pair_rows(section, tokenizer), tokenizer),
        section.eval_pairs,
        "preference_data.eval_pairs",
    )
    args = stage_config(recipe, "preference", evaluates=held_out is not None, plugin=plugin)
    needed = recipe.memory.lora is None and _needs_reference(policy, args)
    reference = _reference(recipe, policy, start) if needed else None
    for member in (policy, reference):
        if isinstance(member, PreTrainedModel):
            if wants_exact_angles(member.config):
                install_exact_angles(member)
            apply_kernels(member, recipe.model)
    prepare_model(policy, recipe, args, plugin, 2 * length)  # a pair is two rows
    trainer = PreferenceTrainer(
        model=policy,
        **adapters(policy, recipe),
        ref_model=reference,
        args=args,
        train_dataset=pairs,
        eval_dataset=held_out,
        processing_class=tokenizer,
        callbacks=callbacks,
        longest=length,
        merges_adapters=recipe.memory.lora is not None,
    )
    plugin.attach(trainer)
    prepare_optimizer(trainer, recipe)
    watch(trainer, recipe, "preference", plugin)
    trainer.precompute_reference()
    return trainer


class PreferenceTrainer(ExplainsShortage, FinishesFolders, DPOTrainer):
    """DPOTrainer for long pairs: none is cut, padding has no mask, and the reference may run on split rows.

    `longest`: tokens of prompt and answer; longer pairs are dropped and counted. With
    `precompute_ref_log_probs`, call `precompute_reference` before training: TRL does it in the construction,
    where rows are not split yet. A model folder that it saves holds both generations of the RoPE keys.
    """

    def __init__(self, *args: Any, longest: int, **kwargs: Any) -> None:
        self._longest = longest
        self._constructed = False
        super().__init__(*args, **kwargs)
        self._constructed = True
        self.data_collator = WithoutPaddingMask(self.data_collator)

    def precompute_reference(self) -> None:
        """The reference's log-probabilities of all pairs, if the arguments ask for them beforehand.

        They are kept in `output_dir`/reference, for a run that goes on. The reference model is let go.
        """
        if not self.precompute_ref_logps:
            return
        for name, size in (
            ("train", self.args.per_device_train_batch_size),
            ("eval", self.args.per_device_eval_batch_size),
        ):
            pairs = getattr(self, f"{name}_dataset")
            if pairs is not None:
                size = getattr(self.args, "precompute_ref_batch_size", None) or size
                setattr(self, f"{name}_dataset", self._precompute_ref_logps(pairs, name, size))
        self.ref_model = None

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        if not self._constructed:
            return dataset
        folder = Path(str(self.args.output_dir)) / "reference"
        folder.mkdir(parents=True, exist_ok=True)
        # where all processes look: of a dataset in memory each has a temporary folder of its own
        dataset._get_cache_file_path = lambda fingerprint: str(folder / f"{name}-{fingerprint}.arrow")
        return super()._precompute_ref_logps(dataset, name, batch_size)

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        tokens = super()._prepare_dataset(dataset, *args, **kwargs)
        lengths = [
            len(pair["prompt_ids"]) + max(len(pair["chosen_ids"]), len(pair["rejected_ids"]))
            for pair in tokens.select_columns(["prompt_ids", "chosen_ids", "rejected_ids"])
        ]
        return without_long_pairs(tokens, lengths, self._longest)


def without_long_pairs(pairs: Dataset, lengths: Sequence[int], longest: int) -> Dataset:
    """The pairs of at most `longest` tokens, by the `lengths` of all; the others are counted in the log."""
    kept = [index for index, length in enumerate(lengths) if length <= longest]
    too_long = len(lengths) - len(kept)
    if not kept:
        raise ConversationError(
            f"No pair is left to train on: {too_long:,} are longer than {longest:,} tokens."
        )
    if too_long:
        logger.warning("%s pairs of more than %s tokens were dropped.", f"{too_long:,}", f"{longest:,}")
    return pairs.select(kept) if too_long else pairs


def _needs_reference(policy: Any, args: Any) -> bool:
    """An adapter is switched off instead; log-probabilities computed beforehand are the policy's own.

    Under FSDP the policy is not sharded until it trains, so that the reference is a model for itself.
    """
    sharded = bool(args.fsdp) or os.environ.get("ACCELERATE_USE_FSDP") == "true"
    return not is_peft_model(policy) and (sharded or not args.precompute_ref_log_probs)


def _reference(recipe: Recipe, policy: PreTrainedModel, start: Any) -> PreTrainedModel:
    """A second model like the policy. TRL would load it by the name in the config, which knows no changes."""
    return load_model(recipe.model, start) if isinstance(start, str) else copy.deepcopy(policy)
