"""The pairs that a recipe's preference stages train on: of its sources, and those made from documents."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import PartialState

from ultralong_hf.data.documents import open_sources, read_documents
from ultralong_hf.data.grounding.pairs import PAIRS, PairSettings, prepare_pairs
from ultralong_hf.data.instructions import read_rows
from ultralong_hf.data.reading.records import digest
from ultralong_hf.errors import RecipeError
from ultralong_hf.recipes.schema import LAB, GroundedPairsSection, PreferenceDataSection

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def pair_rows(
    section: PreferenceDataSection, tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[str, Any]]:
    """(place, row) of all sources, then the grounded pairs, which the first process makes if need be.

    The source `lab` is made from the seed.
    """
    for source in section.sources:
        if source.path != LAB:
            yield from read_rows([source])
            continue
        from ultralong_hf.lab.preferences import preferences

        yield from ((f"lab, row {number}", row) for number, row in enumerate(preferences(section.seed), 1))
    if section.grounded is not None:
        with PartialState().main_process_first():
            make_grounded(section, tokenizer)
        columns = {
            "prompt": section.prompt_column,
            "chosen": section.chosen_column,
            "rejected": section.rejected_column,
        }
        path = Path(section.grounded.output_dir) / PAIRS
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                row = json.loads(line)
                yield f"{path}, line {number}", {name: row[key] for key, name in columns.items()}


def make_grounded(section: PreferenceDataSection, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The account of the grounded pairs, made if they are missing. Raises RecipeError for no wish of them."""
    grounded = section.grounded
    if grounded is None:
        raise RecipeError(
            "preference_data.grounded is missing: it says from which documents pairs are made, and how long."
        )
    lengths = grounded.lengths or ([section.max_length] if section.max_length else [])
    if not lengths:
        raise RecipeError(
            "preference_data.grounded.lengths is empty: say how long prompts are, such as [8K, 64K]."
        )
    documents, origin = _documents(grounded)
    settings = PairSettings(
        pairs=grounded.pairs,
        lengths=tuple(lengths),
        distractors=grounded.distractors,
        hallucinated_share=grounded.hallucinated_share,
        unanswerable_share=grounded.unanswerable_share,
        seed=section.seed,
    )
    return prepare_pairs(
        documents, tokenizer=tokenizer, settings=settings, output_dir=grounded.output_dir, origin=origin
    )


def _documents(grounded: GroundedPairsSection) -> tuple[Iterable[str], str]:
    """The texts, and what tells them from others."""
    if not grounded.documents or grounded.documents[0].path == LAB:
        from ultralong_hf.lab.corpus import real_training_documents

        return real_training_documents(), LAB
    sources = open_sources(grounded.documents)
    origin = digest([[source.label, source.fingerprint] for source in sources])
    return (document.text for _, document in read_documents(sources)), origin
