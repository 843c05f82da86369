"""The stages of the recipe as TRL trainers: continued pretraining, fine-tuning on short conversations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ultralong_hf.recipes import Recipe
from ultralong_hf.rope.exact import install_exact_angles, wants_exact_angles
from ultralong_hf.training.configs import finished_folder, stage_config
from ultralong_hf.training.memory import (
    adapters,
    prepare_head,
    prepare_model,
    prepare_optimizer,
    require_memory,
)
from ultralong_hf.training.models import apply_kernels, extend_by_recipe, load_both
from ultralong_hf.training.padding import WithoutPaddingMask
from ultralong_hf.training.parallel import plan_stage
from ultralong_hf.training.rows import hold_out, open_rows, row_collator
from ultralong_hf.training.samples import open_samples, pack_samples, row_length
from ultralong_hf.training.telemetry import watch
from ultralong_hf.training.trainer import LongContextTrainer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback


def cpt_trainer(
    recipe: Recipe,
    *,
    model: PreTrainedModel | str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    callbacks: list[TrainerCallback] | None = None,
) -> LongContextTrainer:
    """Continued pretraining: the model's RoPE is extended, then it trains on rows of `data.target_length`.

    `model`: loaded, or a folder or Hub id; none: the recipe's. A loaded one is extended in place, and needs
    its `tokenizer` given too. The token store is made first where it is missing. Devices share rows as
    `recipe.parallel` says; a set-up that would train wrongly is refused before the model is loaded.
    """
    plugin = plan_stage(recipe, "cpt", model, length=recipe.data.target_length)
    require_memory(recipe, "cpt", model, plugin)
    model, tokenizer = load_both(recipe.model, model, tokenizer)
    extend_by_recipe(model, recipe)
    args = stage_config(recipe, "cpt", evaluates=recipe.data.eval_rows > 0, plugin=plugin)
    collator, tokenizer = row_collator(recipe, tokenizer, model, shards=plugin.resolved.sizes.parts)
    tokenizer.model_max_length = recipe.window
    train_rows, eval_rows = hold_out(
        open_rows(recipe, tokenizer, args), recipe.data.eval_rows, "data.eval_rows"
    )
    apply_kernels(model, recipe.model)
    prepare_model(model, recipe, args, plugin, recipe.data.target_length)
    trainer = LongContextTrainer(
        model=model,
        args=args,
        **adapters(model, recipe),
        data_collator=collator,
        train_dataset=train_rows,
        eval_dataset=eval_rows,
        processing_class=tokenizer,
        callbacks=callbacks,
        bucket_length=recipe.data.target_length,
        merges_adapters=recipe.memory.lora is not None,
    )
    plugin.attach(trainer)
    prepare_head(trainer, recipe)
    prepare_optimizer(trainer, recipe)
    watch(trainer, recipe, "cpt", plugin)
    return trainer


def sft_trainer(
    recipe: Recipe,
    *,
    model: PreTrainedModel | str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    callbacks: list[TrainerCallback] | None = None,
) -> LongContextTrainer:
    """Fine-tuning on short conversations; only the assistant's tokens count.

    `model`: loaded (with its `tokenizer`), or a folder or Hub id; none: what the recipe's CPT stage left.
    The blend is made first where it is missing. With `sft.packing`, conversations share rows without seeing
    each other. Devices share samples as `recipe.parallel` says; batches are padded so that they split.
    """
    model = model or finished_folder(recipe, "cpt")
    longest = row_length(recipe)
    plugin = plan_stage(recipe, "sft", model, length=longest, padded=True)
    require_memory(recipe, "sft", model, plugin)
    model, tokenizer = load_both(recipe.model, model, tokenizer)
    if wants_exact_angles(model.config):
        install_exact_angles(model)
    section = recipe.instruct
    args = stage_config(recipe, "sft", evaluates=section.eval_samples > 0, plugin=plugin)
    train_samples, eval_samples = hold_out(
        open_samples(recipe, tokenizer, args), section.eval_samples, "instruct.eval_samples"
    )
    train_samples, eval_samples = pack_samples(recipe, train_samples, eval_samples)
    apply_kernels(model, recipe.model)
    prepare_model(model, recipe, args, plugin, longest)
    trainer = LongContextTrainer(
        model=model,
        args=args,
        **adapters(model, recipe),
        train_dataset=train_samples,
        eval_dataset=eval_samples,
        processing_class=tokenizer,
        callbacks=callbacks,
        bucket_length=longest,
        merges_adapters=recipe.memory.lora is not None,
    )
    trainer.data_collator = WithoutPaddingMask(trainer.data_collator)
    plugin.attach(trainer)
    prepare_head(trainer, recipe)
    prepare_optimizer(trainer, recipe)
    watch(trainer, recipe, "sft", plugin)
    return trainer
