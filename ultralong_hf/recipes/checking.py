"""Plain values against the types of `schema.py`: what fits is converted, what does not becomes a fault."""

from __future__ import annotations

import difflib
import enum
import math
import types
from collections.abc import Iterable
from dataclasses import MISSING, fields, is_dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from ultralong_hf.errors import LengthError
from ultralong_hf.lengths import parse_budget, parse_length
from ultralong_hf.recipes.schema import Between, Budget, OneOf, Source, Tokens

Path = tuple[str | int, ...]

_NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", dict: "a mapping"}


class Faults:
    """Collects what is wrong, each with the file and line of its key."""

    def __init__(self, origin: str, lines: dict[Path, int | None]) -> None:
        """`lines`: key -> its line in the file; None for a key that an override has set."""
        self.origin = origin
        self.lines = lines
        self.messages: list[str] = []

    def add(self, path: Path, text: str) -> None:
        """`text` about the key at `path`, after the place of it or of what it is in."""
        self.messages.append(f"{self._where(path)}{text}")

    def _where(self, path: Path) -> str:
        known = next((path[:end] for end in range(len(path), 0, -1) if path[:end] in self.lines), None)
        if known is None:
            return f"{self.origin}: "
        line = self.lines[known]
        return "" if line is None else f"{self.origin}, line {line}: "


def dotted(path: Path) -> str:
    """The key as a user writes it: ("data", "sources", 0, "path") -> "data.sources[0].path"."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def nearest(key: str, known: Iterable[str]) -> str:
    """A sentence, with a space before it, that names the known key most like `key`; empty where none is."""
    match = difflib.get_close_matches(key, list(known), n=1, cutoff=0.5)
    return f" Nearest: {match[0]}." if match else ""


def build(cls: type, value: Any, path: Path, faults: Faults) -> Any:
    """An instance of the dataclass `cls` from a mapping; None where there was a fault."""
    if issubclass(cls, Source) and isinstance(value, str):
        value = {"path": value}
    if not isinstance(value, dict):
        faults.add(path, f"{dotted(path)} is {value!r}; expected a mapping of keys to values.")
        return None
    before = len(faults.messages)
    hints = get_type_hints(cls, include_extras=True)
    check_keys(value, hints, path, faults)
    given = {k: convert(v, hints[k], (*path, k), faults) for k, v in value.items() if k in hints}
    for f in fields(cls):
        if f.name not in value and f.default is MISSING and f.default_factory is MISSING:
            faults.add(path, f"{dotted((*path, f.name))} is missing; it has no default.")
    return cls(**given) if len(faults.messages) == before else None


def check_keys(
    value: dict[str, Any], known: Iterable[str], path: Path, faults: Faults, home: str = "a recipe"
) -> None:
    """A fault for each key of `value` that is not in `known`."""
    names = {dotted((*path, k)) for k in known}
    for key in value:
        name = dotted((*path, key))
        if name not in names:
            faults.add((*path, key), f"{name} is no key of {home}.{nearest(name, names)}")


def convert(value: Any, hint: Any, path: Path, faults: Faults) -> Any:
    """`value` as the type `hint` wants it; a fault, and None, where it does not fit."""
    if is_dataclass(hint):
        return build(hint, value, path, faults)  # type: ignore[arg-type]
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        member = next((m for m in _without_text_of_enum(args) if _looks_like(value, m)), None)
        if member is not None:
            return convert(value, member, path, faults)
    elif origin is Annotated:
        return _convert_marked(value, args[0], args[1], path, faults)
    elif origin is list and isinstance(value, list):
        return [convert(v, args[0], (*path, i), faults) for i, v in enumerate(value)]
    elif _looks_like(value, hint):
        return float(value) if hint is float else value
    faults.add(path, f"{dotted(path)} is {value!r}; expected {_describe(hint)}.")
    return None


def _convert_marked(value: Any, hint: Any, mark: Any, path: Path, faults: Faults) -> Any:
    if isinstance(mark, Tokens | Budget):
        try:
            return parse_length(value) if isinstance(mark, Tokens) else parse_budget(value)
        except LengthError as error:
            faults.add(path, f"{dotted(path)}: {error}")
            return None
    if isinstance(mark, OneOf):
        if not isinstance(value, str) or value.partition("/")[0] not in mark.names:
            near = nearest(str(value), mark.names)
            faults.add(path, f"{dotted(path)} is {value!r}; expected one of {', '.join(mark.names)}.{near}")
        return value
    assert isinstance(mark, Between)
    before = len(faults.messages)
    number = convert(value, hint, path, faults)
    if len(faults.messages) == before and not mark.least <= number <= mark.most:
        bounds = f"at least {mark.least:g}" if math.isinf(mark.most) else f"{mark.least:g} to {mark.most:g}"
        faults.add(path, f"{dotted(path)} is {value!r}; expected {bounds}.")
    return number


def _looks_like(value: Any, hint: Any) -> bool:
    """Whether `value` has the outer shape of `hint`; what is inside is checked by `convert`."""
    origin = get_origin(hint)
    if origin is Annotated:
        marked, mark = get_args(hint)[:2]
        return _looks_like(value, marked) or (isinstance(mark, Tokens | Budget) and isinstance(value, str))
    if origin is Literal:
        return value in get_args(hint)
    if _is_enum(hint):
        return value in [member.value for member in hint]
    if is_dataclass(hint):
        return isinstance(value, dict)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is Any:
        return True
    return isinstance(value, origin or hint)


def _is_enum(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, enum.Enum)


def _without_text_of_enum(members: tuple[Any, ...]) -> list[Any]:
    """transformers' "IntervalStrategy | str" means the texts that are values of IntervalStrategy."""
    return [m for m in members if not (m is str and any(map(_is_enum, members)))]


def _describe(hint: Any) -> str:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_describe(a) for a in _without_text_of_enum(args)))
    if origin is Annotated:
        marked = {Tokens: "a length", Budget: "a number of tokens"}
        return marked.get(type(args[1])) or _describe(args[0])
    if origin is Literal:
        return "one of " + ", ".join(map(str, args))
    if _is_enum(hint):
        return "one of " + ", ".join(str(member.value) for member in hint)
    if hint is type(None):
        return "null"
    return {list: "a list"}.get(origin or hint) or _NAMES.get(origin or hint) or str(hint)
