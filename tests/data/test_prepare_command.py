from __future__ import annotations

import json

import pytest
from tiny_tokenizers import byte_tokenizer

from ultralong_hf import load_packed
from ultralong_hf.cli import main
from ultralong_hf.data.store import read_manifest

RECIPE = """
model: {{name_or_path: {folder}/tokenizer}}
data:
  sources: [{folder}/in]
  target_length: 4
  separator: "|"
  output_dir: {folder}/out
"""


@pytest.fixture
def folder(tmp_path):
    byte_tokenizer().save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "in").mkdir()
    for name, text in (("a.txt", "aaa"), ("b.txt", "bb"), ("c.txt", "cc")):
        (tmp_path / "in" / name).write_text(text)
    (tmp_path / "my.yaml").write_text(RECIPE.format(folder=tmp_path))
    return tmp_path


def plain(folder, *more):
    return [
        "prepare",
        str(folder / "in"),
        "--tokenizer",
        str(folder / "tokenizer"),
        "--output",
        str(folder / "out"),
        *more,
    ]


def decoded(folder):
    return [byte_tokenizer().decode(row["input_ids"]) for row in load_packed(folder / "out")]


def test_makes_a_store_and_tells_its_counts(folder, capsys):
    assert main(plain(folder, "--target-length", "4", "--separator", "|")) == 0
    assert decoded(folder) == ["aaa|", "bb|c"]
    out = capsys.readouterr().out
    assert "2 rows of 4 tokens" in out
    assert "9 read = 6 packed + 2 of separators + 1 dropped" in out


def test_prints_the_store_as_json(folder, capsys):
    assert main(plain(folder, "--target-length", "4", "--json")) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["rows"] == read_manifest(folder / "out")["rows"] == 3
    assert printed["separator"]["value"] == "<s>"


def test_takes_the_kind_of_the_separator(folder):
    assert main(plain(folder, "--target-length", "4", "--separator-kind", "eos")) == 0
    assert decoded(folder) == ["aaa</s>", "bb</s>c"]


def test_takes_sources_and_settings_from_a_recipe(folder):
    assert main(["prepare", "--recipe", str(folder / "my.yaml")]) == 0
    assert decoded(folder) == ["aaa|", "bb|c"]


def test_options_override_the_recipe(folder):
    command = ["prepare", "--recipe", str(folder / "my.yaml"), "--target-length", "3", "--separator", "+"]
    assert main(command) == 0
    assert decoded(folder) == ["aaa", "+bb", "+cc"]


def test_each_option_reaches_the_store(folder, capsys):
    options = ["--order", "shuffled", "--drop-tails", "--min-length", "2", "--token-budget", "1K"]
    options += ["--epochs", "2", "--on-error", "stop", "--max-bad-share", "0.1", "--engine", "tokenizers"]
    options += ["--seed", "3", "--workers", "1", "--target-length", "2"]
    assert main(plain(folder, *options)) == 0
    settings = read_manifest(folder / "out")["settings"]
    assert (settings["order"], settings["keep_tail"], settings["min_document_length"]) == (
        "shuffled",
        False,
        2,
    )
    assert (settings["token_budget"], settings["epochs"], settings["seed"]) == (1000, 2.0, 3)
    printed = capsys.readouterr().out
    assert "engine: tokenizers" in printed
    assert "notice: token_budget is 1,000, but the documents give 14 tokens" in printed


def test_a_recipe_has_the_same_keys(folder, capsys):
    more = """
  order: shuffled
  keep_tail: false
  min_document_length: 2
  token_budget: 1K
  epochs: 2
  on_error: stop
  max_bad_share: 0.1
  engine: tokenizers
  filters: {exact_duplicates: true}
  mixture: {kind: cut, length: 3}
"""
    path = folder / "my.yaml"
    path.write_text(path.read_text() + more)
    assert main(["prepare", "--recipe", str(path), "--order", "source"]) == 0
    settings = read_manifest(folder / "out")["settings"]
    assert (settings["order"], settings["keep_tail"], settings["min_document_length"]) == ("source", False, 2)
    assert (settings["token_budget"], settings["epochs"]) == (1000, 2.0)
    assert settings["mixture"] == {"kind": "cut", "length": 3}
    assert settings["filters"] == {"exact_duplicates": True}


def test_names_bad_records_and_where_they_are_listed(folder, capsys):
    (folder / "in" / "d.jsonl").write_text('{"text": "dddd"}\n' * 30 + "{broken\n")
    assert main(plain(folder, "--target-length", "4")) == 0
    assert "bad records of in, left out: 1 not JSON" in capsys.readouterr().out
    assert "d.jsonl, line 31" in (folder / "out" / "bad_records.jsonl").read_text()


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        (["prepare", "in"], "--tokenizer, --target-length, --output missing"),
        (["prepare", "in", "--recipe", "my.yaml"], "'in' and --recipe"),
        (["prepare", "--recipe", "no-such-recipe"], "no-such-recipe is no recipe"),
    ],
)
def test_bad_input_is_one_line_and_status_2(folder, monkeypatch, capsys, command, fault):
    monkeypatch.chdir(folder)
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert fault in error


def test_a_source_that_is_not_there_is_status_2(folder, capsys):
    command = plain(folder, "--target-length", "4")
    command[1] = str(folder / "missing.jsonl")
    assert main(command) == 2
    assert "no file is there" in capsys.readouterr().err


def test_a_tokenizer_that_is_not_there_is_one_line_too(folder, capsys):
    command = plain(folder, "--target-length", "4")
    command[3] = str(folder / "in")
    assert main(command) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1
    assert error[0].startswith("error: ")
    assert "no tokenizer can be loaded" in error[0]


def test_the_help_ends_with_an_example(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["prepare", "--help"])
    assert ended.value.code == 0
    assert "ultralong prepare books/ articles.jsonl.gz" in capsys.readouterr().out
