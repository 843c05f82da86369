"""What the name `lab` stands for in a recipe: the base model that ships, and documents made from the seed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ultralong_hf.errors import RecipeError
from ultralong_hf.recipes.schema import LAB

if TYPE_CHECKING:
    from ultralong_hf.recipes import Recipe


def model_location(name_or_path: str) -> str:
    """The folder of the base model for `lab`; any other name as it is."""
    if name_or_path != LAB:
        return name_or_path
    from ultralong_hf.lab.base import base_model_path

    return str(base_model_path())


def document_sources(recipe: Recipe) -> Iterable[Any]:
    """What `prepare_dataset` reads. Raises RecipeError for no sources, or for lab beside others."""
    data = recipe.data
    if not data.sources:
        raise RecipeError(f"{recipe.origin}: data.sources is empty: name the documents to prepare.")
    if all(source.path != LAB for source in data.sources):
        return data.sources
    if len(data.sources) > 1:
        raise RecipeError(
            "data.sources holds lab beside others: the lab's documents make a store of their own."
        )
    from ultralong_hf.lab.corpus import training_documents

    return training_documents(data.target_length, data.seed)
