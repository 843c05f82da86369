"""YAML as plain values, and the line that each key stands in."""

from __future__ import annotations

import re
from typing import Any

import yaml

from ultralong_hf.errors import RecipeError
from ultralong_hf.recipes.checking import Path, dotted


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which alone would read 3e-5 (YAML 1.2's number) as a text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(?:\.\d*)?[eE][-+]?\d+"), list("-+0123456789")
)


def parse_value(text: str) -> Any:
    """One value of the command line as a recipe would read it; the text itself where that is no YAML."""
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError):
        return text


class LocatedYaml:
    """The file `origin` with content `text`, read on construction.

    `values`: its top-level mapping. `lines`: path of a key or list item -> line, counted from 1.
    `faults`: a message for each key that stands twice in one mapping. Raises RecipeError for what is no YAML.
    """

    def __init__(self, origin: str, text: str) -> None:
        self.origin = origin
        self.lines: dict[Path, int | None] = {}
        self.faults: list[str] = []
        try:
            self._loader = _Loader(text)
            root = self._loader.get_single_node()
            values = {} if root is None else self._plain(root, (), ())
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = f", line {mark.line + 1}" if mark else ""
            raise RecipeError(f"{origin}{line}: this is no YAML: {error.problem}.") from None
        except yaml.YAMLError as error:
            raise RecipeError(f"{origin}: this is no YAML: {error}.") from None
        if not isinstance(values, dict):
            raise RecipeError(f"{origin}: a recipe is a mapping of sections, not {type(values).__name__}.")
        self.values: dict[str, Any] = values

    def _plain(self, node: yaml.Node, path: Path, above: tuple[yaml.Node, ...]) -> Any:
        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        if node in above:
            raise RecipeError(f"{self.origin}, line {line}: this anchor holds itself.")
        if not isinstance(node, yaml.ScalarNode) and not node.tag.endswith((":map", ":seq")):
            raise RecipeError(f"{self.origin}, line {line}: the tag {node.tag} is not read in a recipe.")
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(n, (*path, i), (*above, node)) for i, n in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, (*above, node))
        try:
            return self._loader.construct_object(node)
        except ValueError as error:  # a date such as 2024-13-45
            raise RecipeError(
                f"{self.origin}, line {line}: {node.value!r} cannot be read: {error}."
            ) from None

    def _mapping(self, node: yaml.MappingNode, path: Path, above: tuple[yaml.Node, ...]) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key, line = str(key_node.value), key_node.start_mark.line + 1
            here = (*path, key)
            if key in mapping:
                first = self.lines[here]
                self.faults.append(
                    f"{self.origin}, line {line}: {dotted(here)} stands twice, first in line {first}."
                )
            else:
                self.lines[here] = line
            mapping[key] = self._plain(value_node, here, above)
        return mapping
