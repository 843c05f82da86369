"""Keys of a recipe on a command line: `--data.target_length 8K`, `--cpt.learning_rate=1e-5`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, get_type_hints

from ultralong_hf.errors import RecipeError
from ultralong_hf.recipes.checking import Faults, convert
from ultralong_hf.recipes.located_yaml import parse_value
from ultralong_hf.recipes.schema import SECTIONS, TRL_SECTIONS
from ultralong_hf.recipes.trl_keys import trl_hints


def take_overrides(words: Iterable[str]) -> tuple[list[str], dict[str, Any]]:
    """The words without `--section.key value` and `--section.key=value`, and those as overrides.

    Raises RecipeError for a key without a value.
    """
    rest: list[str] = []
    taken: dict[str, Any] = {}
    following = iter(words)
    for word in following:
        option, equals, text = word.partition("=")
        if not option.startswith("--") or "." not in option:
            rest.append(word)
            continue
        if not equals:
            text = next(following, "--")
            if text.startswith("--"):
                raise RecipeError(f"{option} needs a value.")
        taken[option[2:]] = _value(option[2:], text)
    return rest, taken


def _value(key: str, text: str) -> Any:
    """`text` as YAML reads it, or as it stands where the key wants a text: a commit may look like 1e5."""
    value = parse_value(text)
    section, _, name = key.partition(".")
    hints: dict[str, Any] = {}
    if section in SECTIONS:
        hints = get_type_hints(SECTIONS[section], include_extras=True)
    elif section in TRL_SECTIONS and not isinstance(value, str):
        hints = trl_hints(TRL_SECTIONS[section])  # "no" is a strategy there
    if name not in hints:
        return value
    trial = Faults("", {})
    convert(value, hints[name], (key,), trial)
    return text if trial.messages else value
