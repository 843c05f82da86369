"""A checked recipe as the YAML that it could have been read from."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import yaml

from ultralong_hf.recipes.schema import Recipe, section_names


def recipe_values(recipe: Recipe) -> dict[str, Any]:
    """Section -> its keys, as plain values; sections without keys are left out."""
    values = {name: getattr(recipe, name) for name in section_names()}
    plain = {name: value if isinstance(value, dict) else asdict(value) for name, value in values.items()}
    return {name: value for name, value in plain.items() if value}


def recipe_text(recipe: Recipe) -> str:
    """YAML that `load_recipe` makes the same recipe of."""
    return str(yaml.safe_dump(recipe_values(recipe), sort_keys=False, allow_unicode=True))
