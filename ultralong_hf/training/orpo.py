"""ORPO: fine-tuning on the better answers and a preference for them in one loss, without a reference model.

Letters: `B` pairs of a batch, `S` tokens of its longest row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from accelerate.utils import is_peft_model
from transformers import PreTrainedModel
from trl.trainer.utils import add_fused_lm_head

from ultralong_hf.data.collator import IGNORED
from ultralong_hf.data.pairs import read_pairs
from ultralong_hf.recipes import Recipe
from ultralong_hf.recipes.trl_keys import trl_class
from ultralong_hf.rope.exact import install_exact_angles, wants_exact_angles
from ultralong_hf.training.configs import finished_folder, stage_config
from ultralong_hf.training.folders import FinishesFolders
from ultralong_hf.training.memory import adapters, prepare_model, prepare_optimizer, require_memory
from ultralong_hf.training.models import apply_kernels, load_both
from ultralong_hf.training.pairs import pair_rows
from ultralong_hf.training.parallel import plan_stage
from ultralong_hf.training.preference import without_long_pairs
from ultralong_hf.training.rows import hold_out
from ultralong_hf.training.shortage import ExplainsShortage
from ultralong_hf.training.telemetry import watch

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase, TrainerCallback

_ORPOTrainer: Any = trl_class("experimental.orpo.ORPOTrainer")


def orpo_trainer(
    recipe: Recipe,
    *,
    model: PreTrainedModel | PeftModel | str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    callbacks: list[TrainerCallback] | None = None,
) -> OrpoTrainer:
    """ORPO (arXiv 2403.07691) on the pairs of `recipe.preference_data`, with the section `orpo`.

    `model`: loaded (with its `tokenizer`), or a folder or Hub id; none: what the recipe's SFT stage left.
    Devices share pairs as `recipe.parallel` says.
    """
    start: Any = model or finished_folder(recipe, "sft")
    section = recipe.preference_data
    length = section.max_length or recipe.data.target_length
    plugin = plan_stage(recipe, "orpo", start, length=length, padded=True)
    require_memory(recipe, "orpo", start, plugin)
    policy, tokenizer = load_both(recipe.model, start, tokenizer)
    pairs, held_out = hold_out(
        read_pairs(section, pair_rows(section, tokenizer), tokenizer),
        section.eval_pairs,
        "preference_data.eval_pairs",
    )
    args = stage_config(recipe, "orpo", evaluates=held_out is not None, plugin=plugin)
    args.max_length = length
    if isinstance(policy, PreTrainedModel):
        if wants_exact_angles(policy.config):
            install_exact_angles(policy)
        apply_kernels(policy, recipe.model)
    prepare_model(policy, recipe, args, plugin, 2 * length)  # a pair is two rows
    trainer = OrpoTrainer(
        model=policy,
        **adapters(policy, recipe),
        args=args,
        train_dataset=pairs,
        eval_dataset=held_out,
        processing_class=tokenizer,
        callbacks=callbacks,
        merges_adapters=recipe.memory.lora is not None,
    )
    plugin.attach(trainer)
    prepare_optimizer(trainer, recipe)
    watch(trainer, recipe, "orpo", plugin)
    return trainer


class OrpoTrainer(ExplainsShortage, FinishesFolders, _ORPOTrainer):
    """TRL's ORPOTrainer for long pairs: its loss, from log-probabilities that need no logits of whole rows.

    TRL 1.16 builds [2 B, S, vocabulary] and copies of it; here the LM head is TRL's fused one, in tiles.
    Pairs are tokenized as its DPOTrainer does it, are never cut, and those of more than `args.max_length`
    tokens are dropped and counted. Padding has no mask. `logits/chosen` and `logits/rejected` are means over
    the tokens that are scored, not over whole rows.
    """

    whole_batch_methods: ClassVar[tuple[str, ...]] = ("get_batch_loss_metrics",)
    """What computes a loss over whole rows, for `SequenceParallelPlugin`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        base = self.model.get_base_model() if is_peft_model(self.model) else self.model
        add_fused_lm_head(base, outputs=("log_probs", "mean_logits"))
        for name in ("train_dataset", "eval_dataset"):
            pairs = getattr(self, name)
            if pairs is not None:
                setattr(self, name, self._without_long(pairs))

    def tokenize_row(self, feature: dict[str, Any], model: Any = None) -> dict[str, Any]:
        """Ids of the prompt with each answer; labels are -100 before the answer."""
        tokenizer, is_chat = self.processing_class, self.processing_class.chat_template is not None

        def encode(text: str) -> list[int]:
            return list(tokenizer(text, add_special_tokens=not is_chat)["input_ids"])

        answers = {name: feature[name] for name in ("chosen", "rejected")}
        if not is_chat:  # a template writes its own end
            end = tokenizer.eos_token
            answers = {name: text if text.endswith(end) else text + end for name, text in answers.items()}
        rows = {name: encode(feature["prompt"] + text) for name, text in answers.items()}
        prompt = _common_start(encode(feature["prompt"]), *rows.values())
        encoded: dict[str, Any] = {}
        for name, ids in rows.items():
            encoded[f"{name}_input_ids"] = ids
            encoded[f"{name}_attention_mask"] = [1] * len(ids)
            encoded[f"{name}_labels"] = [IGNORED] * prompt + ids[prompt:]
        return encoded

    def concatenated_forward(self, model: Any, batch: dict[str, Any]) -> tuple[Any, ...]:
        """Mean log-probabilities of the answers [B], their mean logits, and the better rows' own loss."""
        both = self.concatenated_inputs(
            batch, padding_value=self.padding_value, device=self.accelerator.device
        )
        ids, answers = both["concatenated_input_ids"], both["concatenated_labels"]
        chosen = len(batch["chosen_labels"])
        labels = answers.clone()
        labels[:chosen] = ids[:chosen].masked_fill(both["concatenated_attention_mask"][:chosen] == 0, IGNORED)
        more = {"output_router_logits": True} if self.aux_loss_enabled else {}
        # padding stands at the end, where causal attention does not look: a mask of it would be S x S
        outputs = model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            labels=labels,
            use_cache=False,
            fused_lm_head=True,
            **more,
        )
        answered = answers[:, 1:] != IGNORED
        means = (outputs.log_probs * answered).sum(1) / answered.sum(1)
        loss = -outputs.log_probs[:chosen].sum() / (labels[:chosen, 1:] != IGNORED).sum()
        logits = outputs.mean_logits.masked_select(answered[:, : outputs.mean_logits.shape[1]])
        counts = answered.sum(1)
        logits_of_chosen, logits_of_rejected = logits.split(
            [int(counts[:chosen].sum()), int(counts[chosen:].sum())]
        )
        result = (means[:chosen], means[chosen:], logits_of_chosen, logits_of_rejected, loss)
        return (*result, outputs.aux_loss) if self.aux_loss_enabled else result

    def _without_long(self, pairs: Dataset) -> Dataset:
        columns = pairs.select_columns(["chosen_input_ids", "rejected_input_ids"])
        lengths = [max(len(row["chosen_input_ids"]), len(row["rejected_input_ids"])) for row in columns]
        return without_long_pairs(pairs, lengths, self.max_length)


def _common_start(*rows: list[int]) -> int:
    """How many ids all rows begin with alike."""
    for place, ids in enumerate(zip(*rows, strict=False)):
        if len(set(ids)) > 1:
            return place
    return min(map(len, rows))
