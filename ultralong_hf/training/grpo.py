"""GRPO on long prompts with verifiable answers: TRL's GRPOTrainer, rewards by the evaluation's own scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import PreTrainedModel
from trl import GRPOTrainer

from ultralong_hf.errors import MachineError, ParallelError, RecipeError
from ultralong_hf.recipes import Recipe
from ultralong_hf.rope.exact import install_exact_angles, wants_exact_angles
from ultralong_hf.training.configs import finished_folder, stage_config
from ultralong_hf.training.folders import FinishesFolders
from ultralong_hf.training.memory import adapters, prepare_model, prepare_optimizer, require_memory
from ultralong_hf.training.models import apply_kernels, load_both
from ultralong_hf.training.parallel import plan_stage
from ultralong_hf.training.reward_prompts import build_prompts, mixed_order
from ultralong_hf.training.rows import hold_out
from ultralong_hf.training.shortage import ExplainsShortage
from ultralong_hf.training.telemetry import watch

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase, TrainerCallback


def grpo_trainer(
    recipe: Recipe,
    *,
    model: PreTrainedModel | PeftModel | str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    reward_funcs: list[Callable[..., list[float | None]]] | None = None,
    callbacks: list[TrainerCallback] | None = None,
) -> GrpoTrainer:
    """GRPO (arXiv 2402.03300) on the prompts of `recipe.grpo_data`, with the section `grpo`.

    A completion's reward is the task's score of it, 0 to 1. `reward_funcs`: more rewards, as TRL's; the
    columns `task`, `length`, `references` and `details` (JSON) are given to them too. `model`: loaded (with
    its `tokenizer`), or a folder or Hub id; none: what the recipe's SFT stage left. `grpo.use_vllm` and its
    neighbours go to TRL as they stand. Raises ParallelError where the recipe splits rows over devices.
    """
    _require_whole_rows(recipe)
    start: Any = model or finished_folder(recipe, "sft")
    section = recipe.grpo_data
    _require_reference(recipe, start)
    alone = replace(recipe, parallel=replace(recipe.parallel, size=1, backend="auto"))
    length = max(section.lengths, default=recipe.data.target_length)
    plugin = plan_stage(alone, "grpo", start, length=length, padded=True)
    require_memory(recipe, "grpo", start, plugin)
    policy, tokenizer = load_both(recipe.model, start, tokenizer)
    _require_window(policy, length)
    prompts = build_prompts(section, tokenizer, default_length=recipe.data.target_length)
    recipe = replace(recipe, grpo={"max_completion_length": prompts.answer_tokens, **recipe.grpo})
    args = stage_config(recipe, "grpo", evaluates=section.eval_prompts > 0, plugin=plugin)
    order = mixed_order(
        prompts.rows["length"], args.generation_batch_size // args.num_generations, section.seed
    )
    rows, held_out = hold_out(prompts.rows.select(order), section.eval_prompts, "grpo_data.eval_prompts")
    if isinstance(policy, PreTrainedModel):
        if wants_exact_angles(policy.config):
            install_exact_angles(policy)
        apply_kernels(policy, recipe.model)
    prepare_model(policy, recipe, args, plugin, length)
    try:
        trainer = GrpoTrainer(
            model=policy,
            **adapters(policy, recipe),
            reward_funcs=[prompts.exact_match, *(reward_funcs or [])],
            args=args,
            train_dataset=rows,
            eval_dataset=held_out,
            processing_class=tokenizer,
            callbacks=callbacks,
            prompt_ids=prompts.ids,
            merges_adapters=recipe.memory.lora is not None,
        )
    except ImportError as error:  # vLLM, for one
        raise MachineError(f"the GRPO stage lacks a library: {str(error).strip().splitlines()[0]}") from error
    if isinstance(trainer.ref_model, PreTrainedModel) and wants_exact_angles(trainer.ref_model.config):
        install_exact_angles(trainer.ref_model)
    plugin.attach(trainer)
    prepare_optimizer(trainer, recipe)
    watch(trainer, recipe, "grpo", plugin)
    return trainer


class GrpoTrainer(ExplainsShortage, FinishesFolders, GRPOTrainer):
    """GRPOTrainer whose prompts are token ids, and whose learning step builds no mask of N x N.

    `prompt_ids`: the ids of each text of the column `prompt`, which is a label: TRL would write whole prompts
    into its logs.
    TRL pads prompts at the left and completions at the right. Where all prompts of a batch have one length,
    as when it holds the completions of one prompt, nothing needs a mask: causal attention does not look at
    what stands behind a token.
    """

    def __init__(self, *args: Any, prompt_ids: Mapping[str, np.ndarray], **kwargs: Any) -> None:
        self._prompt_ids = prompt_ids
        super().__init__(*args, **kwargs)

    def _tokenize_prompts(self, prompts: list) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [self._prompt_ids[label].tolist() for label in prompts], None, {}

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        if bool(attention_mask[:, :-logits_to_keep].all()):
            attention_mask = torch.ones_like(attention_mask)
        return super()._get_per_token_logps_and_entropies(
            model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
        )


def _require_whole_rows(recipe: Recipe) -> None:
    if recipe.parallel.size not in ("auto", 1):
        raise ParallelError(
            f"parallel.size is {recipe.parallel.size}, and GRPO cannot split rows over devices: TRL 1.16 "
            "makes its model's inputs in the trainer, after generation, and refuses cp_size and sp_size. "
            "Add --parallel.size 1. A device then holds whole rows: memory.checkpoint_storage host, "
            "memory.offload_optimizer and memory.lora make room, and FSDP shards the weights."
        )


def _require_window(policy: Any, length: int) -> None:
    window = getattr(policy.config.get_text_config(), "max_position_embeddings", None)
    if window is not None and length > window:
        raise RecipeError(
            f"grpo_data.lengths holds {length:,}, and the model reads {window:,} tokens: begin with one that "
            "is extended (--model PATH), or use shorter prompts."
        )


def _require_reference(recipe: Recipe, start: Any) -> None:
    """With a KL term TRL loads the reference by the name in the policy's config."""
    adapted = recipe.memory.lora is not None or not isinstance(start, PreTrainedModel)
    if recipe.grpo.get("beta") and not adapted:
        raise RecipeError(
            "grpo.beta needs a reference model, which TRL loads by name, and this model was given loaded: "
            "save it and pass its folder, use memory.lora, or set grpo.beta to 0."
        )
