"""The samples that a recipe's SFT stage trains on: its blend, made where it is missing, and packed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ultralong_hf.data.instructions.blend import load_blend, prepare_blend
from ultralong_hf.data.instructions.encoding import with_template
from ultralong_hf.errors import RecipeError
from ultralong_hf.lengths import format_length
from ultralong_hf.recipes import Recipe
from ultralong_hf.training.configs import output_folder

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase, TrainingArguments


def blend_folder(recipe: Recipe) -> Path:
    """Where the recipe's blend is, or will be."""
    return Path(recipe.instruct.output_dir or output_folder(recipe, "sft").parent / "blend")


def row_length(recipe: Recipe) -> int:
    """Tokens of the longest row of the stage. Raises RecipeError for rows shorter than a sample may be."""
    section = recipe.instruct
    if not recipe.sft.get("packing") or section.packed_length is None:
        return section.max_length
    if section.packed_length < section.max_length:
        raise RecipeError(
            f"{recipe.origin}: instruct.packed_length {format_length(section.packed_length)} is shorter than "
            f"instruct.max_length {format_length(section.max_length)}: a conversation would be cut."
        )
    return section.packed_length


def open_samples(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, args: TrainingArguments) -> Dataset:
    """The samples of the blend; the first process makes it, or makes it whole, before any reads.

    Without sources the blend must be there already. The others wait `ddp_timeout` seconds, 30 minutes unless
    the recipe says otherwise: make a blend that takes longer with `ultralong prepare --stage sft` beforehand.
    """
    section, folder = recipe.instruct, blend_folder(recipe)
    with args.main_process_first(local=False, desc="the blend of conversations"):
        if section.sources and args.process_index == 0:
            prepare_blend(section, tokenizer=tokenizer, output_dir=folder)
    with_template(tokenizer, section.chat_template)
    # prepare_blend has just compared every file with its digest
    return load_blend(folder, tokenizer=tokenizer, verify=not section.sources)


def pack_samples(
    recipe: Recipe, train: Dataset, evaluation: Dataset | None
) -> tuple[Dataset, Dataset | None]:
    """With `sft.packing`, rows of several conversations each, by TRL's best fit; else the samples.

    `sft.eval_packing` says the same of the held-out ones, which stay one a row without it. TRL's collator
    begins positions anew at each conversation, by which attention keeps them apart.
    """
    from trl import pack_dataset

    length = row_length(recipe)
    in_memory = {"keep_in_memory": True}  # else each process writes a copy into the blend's folder
    if recipe.sft.get("packing"):
        train = pack_dataset(train, length, "bfd", map_kwargs=in_memory)
        if recipe.sft.get("eval_packing") and evaluation is not None:
            evaluation = pack_dataset(evaluation, length, "bfd", map_kwargs=in_memory)
    return train, evaluation
