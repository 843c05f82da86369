"""The rows that a recipe trains on: its token store, made where it is missing, and the batches of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ultralong_hf.data.collator import LongContextCollator
from ultralong_hf.data.packing import prepare_dataset
from ultralong_hf.data.separators import add_token_embeddings, parse_separator, resolve_separator
from ultralong_hf.data.store import load_packed
from ultralong_hf.errors import RecipeError
from ultralong_hf.lab.names import document_sources
from ultralong_hf.recipes import Recipe

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments


def open_rows(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, args: TrainingArguments) -> Dataset:
    """The rows of `data.output_dir`; the first process makes them, or makes them whole, before any reads.

    Without sources the store must be there already. The others wait `ddp_timeout` seconds, 30 minutes unless
    the recipe says otherwise: make a store that takes longer with `ultralong prepare` beforehand.
    """
    data = recipe.data
    with args.main_process_first(local=False, desc="the token store"):
        if data.sources and args.process_index == 0:
            prepare_dataset(
                document_sources(recipe),
                tokenizer=tokenizer,
                **data.prepare_options(),
            )
    # prepare_dataset has just compared every shard with its digest
    return load_packed(data.output_dir, tokenizer=tokenizer, verify=not data.sources)


def hold_out(samples: Dataset, count: int, key: str) -> tuple[Dataset, Dataset | None]:
    """All but the last `count` samples, and those; `key` of the recipe is named if nothing would be left."""
    if not count:
        return samples, None
    train = len(samples) - count
    if train < 1:
        raise RecipeError(f"{key} is {count}, but there are only {len(samples)}: none is left to train on.")
    return samples.select(range(train)), samples.select(range(train, len(samples)))


def row_collator(
    recipe: Recipe, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, *, shards: int = 1
) -> tuple[LongContextCollator, PreTrainedTokenizerBase]:
    """The collator for rows that split into `shards` parts, and the tokenizer that has the separator.

    For a separator that is a new token this is another tokenizer, and the model gets embeddings for it.
    """
    data = recipe.data
    separator = resolve_separator(parse_separator(data.separator), tokenizer)
    if separator.is_new:
        add_token_embeddings(model, separator.ids)
    collator = LongContextCollator(
        data.target_length,
        separator_token_id=separator.ids,
        loss_on_separators=data.loss_on_separators,
        shards=shards,
        mask_documents=data.mask_documents or separator.separator.masks_documents,
    )
    return collator, separator.tokenizer
