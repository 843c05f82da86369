"""docs/data.md shows what works."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ultralong_hf import prepare_dataset
from ultralong_hf.commands.prepare import configure
from ultralong_hf.data.filtering.filters import parse_filters
from ultralong_hf.data.mixture import parse_mixture
from ultralong_hf.recipes import load_recipe

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/data.md").read_text(encoding="utf-8")
LAB = ROOT / "ultralong_hf/lab/base"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page") / "store"
    texts = [f"Document {n} is about the number {n * n}. " * 20 for n in range(20)]
    rows = prepare_dataset(texts, tokenizer=str(LAB), target_length=128, output_dir=folder, rows_per_shard=4)
    assert len(rows) > 12
    return folder


def test_the_recipe_can_be_read(tmp_path):
    (recipe,) = blocks("yaml")
    path = tmp_path / "corpus.yaml"
    path.write_text(recipe)
    data = load_recipe(str(path)).data
    assert parse_filters(data.filters) is not None
    assert parse_mixture(data.mixture) is not None
    assert data.token_budget == 6_000_000


def test_the_options_of_its_commands_are_there():
    commands = re.findall(r"ultralong prepare [^`\n]*", PAGE.replace("\\\n", " "))
    shown = {option for command in commands for option in re.findall(r" (--[a-z-]+)", command)}
    assert {"--shard", "--merge", "--recipe"} <= shown
    parser = argparse.ArgumentParser()
    configure(parser)
    assert [option for option in shown if option not in parser.format_help()] == []


@pytest.mark.parametrize("number", [0, 1])
def test_its_training_scripts_run(store, tmp_path, number):
    """The second begins at row 5, in the second file: the first file is not even there."""
    script = blocks("python")[number]
    path = tmp_path / "script.py"
    path.write_text(script)
    arguments = [str(LAB), str(store)]
    if number == 1:
        (store / "data-00000.arrow").rename(tmp_path / "away.arrow")
        arguments.append("5")
    done = subprocess.run(
        [sys.executable, str(path), *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "train_loss" in done.stdout
