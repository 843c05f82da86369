"""The stages as data: one YAML file a recipe, checked against frozen dataclasses."""

from ultralong_hf.recipes.loading import PRESETS, load_recipe
from ultralong_hf.recipes.schema import Recipe

__all__ = ["PRESETS", "Recipe", "load_recipe"]
