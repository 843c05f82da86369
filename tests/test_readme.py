"""README, and the pages of files and commands, name what is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_file_tree_names_every_module():
    tree = (ROOT / "docs/files.md").read_text(encoding="utf-8")
    modules = [path for path in (ROOT / "ultralong_hf").rglob("*.py") if path.name != "__init__.py"]
    assert len(modules) > 50
    assert [path.name for path in modules if path.name not in tree] == []


def test_every_named_file_and_picture_is_there():
    named = re.findall(r"\]\(([^)#:]+)\)|`((?:docs|examples|benchmarks)/[\w./]+)`", README)
    paths = [first or second for first, second in named]
    assert len(paths) >= 2
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_python_blocks_parse_and_import_public_names(block):
    compile(block, "README.md", "exec")
    imported = re.search(r"from ultralong_hf import (.+)", block)
    assert imported is not None
    import ultralong_hf

    assert all(hasattr(ultralong_hf, name.strip()) for name in imported.group(1).split(","))


def test_every_subcommand_is_named():
    from ultralong_hf.cli import COMMANDS

    page = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f"ultralong {name}" not in page] == []
