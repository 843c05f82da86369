"""The pages under `reference/`, made from the code each time the site is built, so that none can be stale.

mkdocs calls `on_config` and `on_files` (mkdocs.yml, `hooks`); each page is a function that gives Markdown.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import os
import re
import textwrap
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import ultralong_hf
from ultralong_hf import errors
from ultralong_hf.cli import COMMANDS, NESTED, build_parser
from ultralong_hf.recipes import PRESETS
from ultralong_hf.recipes.checking import _describe
from ultralong_hf.recipes.schema import SECTIONS, TRL_SECTIONS, section_names
from ultralong_hf.recipes.trl_keys import _TAKEN, _TAKEN_BY_STAGE, trl_class, trl_hints

PACKAGE = Path(ultralong_hf.__file__).parent

# What the guides call by its module, beside the names of `ultralong_hf` itself.
ALSO_PUBLIC = {
    "Publishing": ["ultralong_hf.publishing.publish", "ultralong_hf.publishing.Release"],
    "Chat": [
        "ultralong_hf.chat.opening.open_chat_engine",
        "ultralong_hf.chat.session.ChatService",
        "ultralong_hf.chat.engine.Options",
    ],
    "Preparing on many machines": [
        "ultralong_hf.data.storing.parts.prepare_part",
        "ultralong_hf.data.storing.parts.merge_parts",
    ],
    "Safety rates": [
        "ultralong_hf.evaluation.safety.rates.read_rates",
        "ultralong_hf.evaluation.safety.rates.compare_rates",
        "ultralong_hf.evaluation.safety.rates.card_section",
    ],
}


def on_config(config: Any) -> Any:
    """Leaves out of the nav what is not there, and puts pages that it does not name under Guides."""
    docs = Path(config["docs_dir"])
    named: set[str] = set()
    for section in config["nav"]:
        (title, pages), *_ = section.items()
        section[title] = [p for p in pages if p in PAGES or (docs / p).exists()]
        named.update(section[title])
    guides = next(section["Guides"] for section in config["nav"] if "Guides" in section)
    guides += sorted(p.name for p in docs.glob("*.md") if p.name not in named)
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the generated pages."""
    from mkdocs.structure.files import File

    for name, page in PAGES.items():
        files.append(File.generated(config, name, content=page()))
    return files


def api_page() -> str:
    """Every name of `ultralong_hf.__all__`, for mkdocstrings to fill in."""
    homes = {
        name: f"{(home := inspect.getmodule(getattr(ultralong_hf, name))) and home.__name__}.{name}"
        for name in ultralong_hf.__all__
    }
    lines = [
        "# Python",
        "",
        "What `ultralong_hf` exports. Each name is imported on first use: the import itself loads no torch.",
        "",
    ]
    lines += [f"::: {path}\n" for path in homes.values()]
    for title, paths in ALSO_PUBLIC.items():
        lines += [f"# {title}", "", *(f"::: {path}\n" for path in paths)]
    return "\n".join(lines)


def cli_page() -> str:
    """The --help of every subcommand."""
    lines = [
        "# Command line",
        "",
        "What `--help` prints. Exit status: 0 on success, 2 on bad input (a line a fault on stderr, each "
        "beginning with `error:`), 1 otherwise. Training runs through `accelerate launch examples/STAGE.py`: "
        "its options are the [keys of a recipe](recipe.md).",
        "",
        *_fenced(help_text(build_parser())),
    ]
    for name in COMMANDS:
        parser = build_parser(name)
        sub = _subparsers(parser)[name]
        lines += [f"## ultralong {name}", "", *_fenced(help_text(sub))]
        for job, nested in _subparsers(sub).items():
            lines += [f"### ultralong {name} {job}", "", *_fenced(help_text(nested))]
        for (first, second), module in NESTED.items():
            if first == name:
                lines += [f"### ultralong {first} {second}", "", *_fenced(_nested_help(module))]
    return "\n".join(lines)


def help_text(parser: ArgumentParser) -> str:
    """The help at a width of 100, wherever the site is built."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100"
    try:
        return parser.format_help().rstrip()
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def _nested_help(module: str) -> str:
    """The help of a command of two words, whose parser lives in its own `parse`."""
    import contextlib
    import io

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        importlib.import_module(f"ultralong_hf.commands.{module}").parse(["--help"])
    return printed.getvalue().rstrip()


def _subparsers(parser: ArgumentParser) -> dict[str, ArgumentParser]:
    groups = parser._subparsers._group_actions if parser._subparsers else []
    return {name: sub for group in groups for name, sub in (group.choices or {}).items()}  # type: ignore[union-attr]


def recipe_page() -> str:
    """Every key of every section of a recipe."""
    lines = [
        "# Keys of a recipe",
        "",
        "A recipe is one YAML file with the sections below; all but `model` and `data` may be left out. "
        "A length is a number or a text such as `128K` (K = 1,024, M = 1,048,576); a number of tokens is "
        "a text such as `1B` (by thousands). On the command line a key is `--SECTION.KEY VALUE`; those of "
        "the stage that runs stand without their section, as in TRL's scripts. [Presets](presets.md) shows "
        "whole files. An unknown key is an error that names the nearest known one.",
        "",
    ]
    for section in section_names():
        lines += [f"## {section}", ""]
        if section in SECTIONS:
            lines += [*_section_rows(section, SECTIONS[section]), ""]
        else:
            lines += _trl_rows(section)
    for name in dict.fromkeys(TRL_SECTIONS.values()):
        lines += [f"## Keys of trl.{name}", "", "| key | default |", "|---|---|"]
        lines += [f"| `{key}` | `{_default_of(trl_class(name), key)}` |" for key in trl_hints(name)]
        lines += [""]
    return "\n".join(lines)


def _section_rows(prefix: str, cls: type) -> list[str]:
    """The docstring of a section, a table of its keys, then the sections that are within it."""
    own = cls.__doc__ and not cls.__doc__.startswith(f"{cls.__name__}(")
    lines = [inspect.cleandoc(cls.__doc__ or ""), ""] if own else []
    lines += ["| key | value | default | |", "|---|---|---|---|"]
    hints = get_type_hints(cls, include_extras=True)
    remarks = _remarks(cls)
    inner: list[tuple[str, type]] = []
    for field in dataclasses.fields(cls):
        inner += [(f"{prefix}.{field.name}", c) for c in _dataclasses_in(hints[field.name])]
        lines.append(
            f"| `{prefix}.{field.name}` | {_cell(_describe(hints[field.name]))} "
            f"| {_default(field)} | {_cell(remarks.get(field.name, ''))} |"
        )
    for name, nested in inner:
        lines += ["", f"### {name}", "", *_section_rows(name, nested)]
    return lines


def _dataclasses_in(hint: Any) -> Iterator[type]:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        yield hint
    elif get_origin(hint) is not None:
        for part in get_args(hint):
            yield from _dataclasses_in(part)


def _remarks(cls: type) -> dict[str, str]:
    """The text below each field of a dataclass and of those that it extends."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for before, after in zip(body.body, body.body[1:], strict=False):
            if isinstance(before, ast.AnnAssign) and isinstance(after, ast.Expr):
                found[ast.unparse(before.target)] = inspect.cleandoc(ast.literal_eval(after.value))
    return found


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return f"`{_yaml(field.default)}`"
    if field.default_factory is dataclasses.MISSING:
        return "needed"
    value = field.default_factory()
    return "" if dataclasses.is_dataclass(value) else f"`{_yaml(value)}`"


def _yaml(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value}".replace("'", "") if isinstance(value, list) else str(value)


def _trl_rows(section: str) -> list[str]:
    """Whose keys a section of TRL has, and which of them a recipe cannot set."""
    name = TRL_SECTIONS[section]
    anchor = f"keys-of-trl{name.lower()}".replace(".", "")
    refused = {**_TAKEN, **_TAKEN_BY_STAGE.get(section, {})}
    lines = [f"The keys of [`trl.{name}`](#{anchor}), as they stand, but for these:", ""]
    lines += ["| key | why it cannot be set |", "|---|---|"]
    lines += [f"| `{section}.{key}` | {_cell(reason)} |" for key, reason in refused.items()]
    return [*lines, ""]


def _default_of(cls: type, key: str) -> str:
    field = next(f for f in dataclasses.fields(cls) if f.name == key)
    value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    text = "computed" if value is dataclasses.MISSING else _yaml(getattr(value, "value", value))
    return text.replace("|", "\\|").replace("\n", " ")


def presets_page() -> str:
    """The recipes that ship, whole."""
    lines = ["# Presets", "", "`load_recipe(NAME)`, or `--recipe NAME`; each value with how sure it is."]
    for name in PRESETS:
        text = (PACKAGE / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
        lines += ["", f"## {name}", "", *_fenced(text.rstrip(), "yaml")]
    return "\n".join(lines)


def errors_page() -> str:
    """Every kind of error, with the messages that the code raises it with."""
    lines = [
        "# Errors and their messages",
        "",
        "What this package raises on purpose; `...` stands for a name or number. On the command line each "
        "is a line that begins with `error:`; the exit status is 2 for an InputError and its kinds, else 1. "
        "Messages that are put together from parts are listed where they are written whole. "
        "[Troubleshoot](../howto/troubleshoot.md) says more of the frequent ones.",
        "",
        *_fenced(inspect.cleandoc(errors.__doc__ or "").split("\n\n", 1)[1]),
    ]
    said = raised_messages()
    for name, cls in error_classes().items():
        lines += [f"## {name}", "", inspect.cleandoc(cls.__doc__ or ""), ""]
        lines += [
            f"- {_code(message)} ({', '.join(sorted(places))})"
            for message, places in sorted(said[name].items())
        ]
        lines += [""]
    return "\n".join(lines)


def error_classes() -> dict[str, type]:
    """Name -> class, in the order of errors.py."""
    return {n: c for n, c in vars(errors).items() if inspect.isclass(c) and issubclass(c, Exception)}


def raised_messages() -> dict[str, dict[str, set[str]]]:
    """Error class -> text that it is raised with -> modules; `...` for what is filled in.

    What is added to the faults of a recipe counts as a RecipeError.
    """
    known = error_classes()
    found: dict[str, dict[str, set[str]]] = {name: {} for name in known}
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            kind = node.func.id if isinstance(node.func, ast.Name) else None
            if ast.unparse(node.func) == "faults.add":
                kind = "RecipeError"
            if kind in known:
                for text in map(template, node.args):
                    if text and text.strip(" .:"):
                        found[kind].setdefault(text, set()).add(place)
    return found


def template(node: ast.expr) -> str | None:
    """A string expression as text, `...` for each part that is filled in; None where it is no text."""
    if isinstance(node, ast.Constant):
        return " ".join(node.value.split()) if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        parts = [str(v.value) if isinstance(v, ast.Constant) else "..." for v in node.values]
        return re.sub(r"\.{3,}", "...", " ".join("".join(parts).split()))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = template(node.left), template(node.right)
        return None if left is None and right is None else f"{left or '...'} {right or '...'}"
    return None


def _code(text: str) -> str:
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _fenced(text: str, language: str = "text") -> list[str]:
    return [f"````{language}", text, "````", ""]


PAGES: dict[str, Callable[[], str]] = {
    "reference/api.md": api_page,
    "reference/cli.md": cli_page,
    "reference/recipe.md": recipe_page,
    "reference/presets.md": presets_page,
    "reference/errors.md": errors_page,
}
