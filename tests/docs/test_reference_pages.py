"""The generated pages leave nothing out, and the hand-written ones say what the code says."""

import ast
import dataclasses
import re
from pathlib import Path

import pytest
import reference

import ultralong_hf
from ultralong_hf.cli import COMMANDS, NESTED
from ultralong_hf.recipes.schema import SECTIONS, TRL_SECTIONS
from ultralong_hf.recipes.trl_keys import trl_hints, why_not

ROOT = Path(__file__).parents[2]


def test_every_public_name_stands_on_the_python_page():
    page = reference.api_page()
    assert len(ultralong_hf.__all__) > 10
    assert [
        name for name in ultralong_hf.__all__ if not re.search(rf"^::: [\w.]+\.{name}$", page, re.M)
    ] == []


def test_every_name_of_the_python_page_can_be_imported():
    names = re.findall(r"^::: ([\w.]+)\.(\w+)$", reference.api_page(), re.M)
    assert len(names) > 20
    assert [name for module, name in names if not hasattr(__import__(module, fromlist=[name]), name)] == []


def test_every_subcommand_with_all_its_options_is_on_the_command_line_page():
    page = reference.cli_page()
    for name in COMMANDS:
        section = page.split(f"## ultralong {name}\n")[1]
        sub = reference._subparsers(reference.build_parser(name))[name]
        options = [option for action in sub._actions for option in action.option_strings]
        assert options
        assert [option for option in options if option not in section] == []
    for first, second in NESTED:
        assert f"usage: ultralong {first} {second}" in page


def _keys(prefix, cls):
    hints = reference.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        yield f"{prefix}.{field.name}"
        for inner in reference._dataclasses_in(hints[field.name]):
            yield from _keys(f"{prefix}.{field.name}", inner)


def test_every_key_of_a_recipe_is_on_its_page():
    page = reference.recipe_page()
    keys = [key for name, cls in SECTIONS.items() for key in _keys(name, cls)]
    assert len(keys) > 150
    assert [key for key in keys if f"| `{key}` |" not in page] == []


@pytest.mark.parametrize("section", TRL_SECTIONS)
def test_keys_of_trl_are_listed_and_the_refused_ones_with_their_reason(section):
    page = reference.recipe_page()
    keys = trl_hints(TRL_SECTIONS[section])
    listed = page.split(f"## Keys of trl.{TRL_SECTIONS[section]}\n")[1].split("\n## ")[0]
    assert [key for key in keys if f"| `{key}` |" not in listed] == []
    refused = [key for key in keys if why_not(section, key)]
    assert refused
    assert [key for key in refused if f"| `{section}.{key}` |" not in page] == []


def test_every_kind_of_error_is_listed_with_its_messages():
    page = reference.errors_page()
    kinds = reference.error_classes()
    assert [name for name in kinds if f"## {name}\n" not in page] == []
    assert page.count("\n- ") > 400


def _texts_of_the_code():
    """Every text in the package, `...` for what is filled in."""
    for path in reference.PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant | ast.JoinedStr) and (text := reference.template(node)):
                yield text


def test_messages_of_the_troubleshooting_page_are_those_of_the_code():
    page = (ROOT / "docs/howto/troubleshoot.md").read_text(encoding="utf-8")
    messages = re.findall(r"^\*\*`(.+)`\*\*$", page, re.M)
    assert len(messages) > 20
    known = list(_texts_of_the_code())
    unknown = []
    for message in messages:
        parts = [re.escape(part.strip()) for part in message.split("...") if part.strip(" .")]
        pattern = re.compile(".*".join(parts))
        if not any(pattern.search(text) for text in known):
            unknown.append(message)
    assert unknown == []


def test_every_page_of_the_nav_that_is_no_page_yet_is_one_of_those_being_written():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = set(re.findall(r"[\w/-]+\.md", text.split("\nnav:")[1]))
    missing = {name for name in named if name not in reference.PAGES and not (ROOT / "docs" / name).exists()}
    assert missing <= {"pipeline.md"}
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert len(pages & named) > 20


def test_files_that_the_pages_name_are_there():
    missing = []
    for page in [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")]:
        named = re.findall(
            r"`((?:tests|benchmarks|examples|docs|ultralong_hf)/[\w./-]+\w)`", page.read_text("utf-8")
        )
        missing += [
            f"{page.name}: {path}" for path in named if "NAME" not in path and not (ROOT / path).exists()
        ]
    assert missing == []
