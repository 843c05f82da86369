import json
import subprocess
import sys

import pytest

import ultralong_hf
from ultralong_hf import cli
from ultralong_hf.errors import InputError, MachineError, RecipeError, UltraLongError
from ultralong_hf.lengths import format_length, parse_length


def test_public_names_are_those_of_the_contract_and_all_resolve():
    assert ultralong_hf.__all__ == [
        "LongContextCollator",
        "Recipe",
        "SequenceParallelPlugin",
        "UltraLongError",
        "cpt_trainer",
        "describe_rope",
        "evaluate",
        "extend_context",
        "grpo_trainer",
        "load_packed",
        "load_recipe",
        "orpo_trainer",
        "plan",
        "preference_trainer",
        "prepare_dataset",
        "sft_trainer",
    ]
    for name in ultralong_hf.__all__:
        assert getattr(ultralong_hf, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        ultralong_hf.nothing  # noqa: B018


@pytest.mark.parametrize(
    "module",
    [
        "ultralong_hf",
        "ultralong_hf.cli",
        "ultralong_hf.recipes",
        "ultralong_hf.data",
        "ultralong_hf.pipeline",
    ],
)
def test_import_loads_no_torch(module):
    code = f"import sys, {module}; print('torch' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_of_every_command_ends_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([command, "--help"])
    assert stopped.value.code == 0
    assert f"ultralong {command}" in capsys.readouterr().out.split("example")[-1]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RecipeError("one is wrong", "two is wrong"), 2),
        (MachineError("no such thing here"), 1),
        (KeyboardInterrupt(), 1),
    ],
)
def test_errors_become_lines_and_a_status(error, status, capsys, monkeypatch):
    from ultralong_hf.commands import lab

    def fail(args):
        raise error

    monkeypatch.setattr(lab, "run", fail)
    assert cli.main(["lab", "train", "--output", "x"]) == status
    lines = capsys.readouterr().err.splitlines()
    if isinstance(error, UltraLongError):
        assert lines == [f"error: {fault}" for fault in error.faults]
    else:
        assert lines == ["stopped; run the same command again to go on."]


def test_unknown_command_ends_with_status_2(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["extnd"])
    assert stopped.value.code == 2
    assert "extnd" in capsys.readouterr().err


def test_every_input_error_is_a_value_error():
    assert issubclass(InputError, ValueError)
    assert not issubclass(MachineError, ValueError)
    assert RecipeError("a", "b").faults == ("a", "b")
    assert str(RecipeError("a", "b")) == "a\nb"


def test_lab_corpus_writes_json_lines(tmp_path, capsys):
    assert (
        cli.main(["lab", "corpus", "--output", str(tmp_path / "docs.jsonl"), "--target-length", "128"]) == 0
    )
    lines = (tmp_path / "docs.jsonl").read_text(encoding="utf-8").splitlines()
    assert f"{len(lines):,} documents" in capsys.readouterr().out
    assert all(json.loads(line)["text"] for line in lines)
    assert [path.name for path in tmp_path.iterdir()] == ["docs.jsonl"]


@pytest.mark.parametrize(
    ("text", "tokens"), [("1M", 1_048_576), ("128K", 131_072), ("1.5k", 1536), (" 4,096 ", 4096), (7, 7)]
)
def test_reads_a_length(text, tokens):
    assert parse_length(text) == tokens


@pytest.mark.parametrize("text", ["1Q", "", "K", "-1", 0, -5, "0.3K", "1e6", True, None, 1.5])
def test_rejects_what_is_no_length(text):
    with pytest.raises(ValueError, match="length"):
        parse_length(text)


@pytest.mark.parametrize(
    ("tokens", "text"), [(1_048_576, "1M"), (131_072, "128K"), (5000, "5,000"), (1, "1")]
)
def test_writes_the_shortest_exact_length(tokens, text):
    assert format_length(tokens) == text
    assert parse_length(text) == tokens
