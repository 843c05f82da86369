"""LV-Eval and InfiniteBench through `evaluate`: official files in, scores by level and task out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ultralong_hf import evaluate

LVEVAL_ROW = {
    "input": "Who keeps the code?",
    "context": "The harbour office keeps the code. " * 30,
    "answers": ["the harbour office"],
    "length": 180,
    "answer_keywords": "harbour office",
}
PASSKEY_ROW = {"id": 3, "context": "The pass key is 71432. " * 9, "input": "Pass key?", "answer": ["71432"]}


class Parrot:
    """Gives one answer to everything and keeps what it was asked."""

    window = 512

    def __init__(self, tokenizer: Any, answer: str) -> None:
        self.tokenizer, self._answer = tokenizer, answer
        self.asked: list[tuple[int, int]] = []

    def batch_size(self, prompt_tokens: int, max_new_tokens: int) -> int:
        return 4

    def generate(self, prompts: list[Any], max_new_tokens: int) -> list[list[int]]:
        self.asked += [(len(prompt), max_new_tokens) for prompt in prompts]
        return [self.tokenizer(self._answer)["input_ids"] for _ in prompts]

    def identity(self) -> dict[str, Any]:
        return {"engine": "parrot", "answer": self._answer}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for level in ("16k", "32k"):
        (folder / f"loogle_SD_mixup_{level}.jsonl").write_text((json.dumps(LVEVAL_ROW) + "\n") * 3)
    (folder / "passkey.jsonl").write_text((json.dumps(PASSKEY_ROW) + "\n") * 2)
    return folder


def test_both_benchmarks_in_one_run(tokenizer, data, tmp_path):
    engine = Parrot(tokenizer, "The harbour office, 71432.")
    report = evaluate(
        "parrot",
        ["lveval/loogle_SD_mixup", "infinitebench/passkey"],
        lengths=["16K", "32K"],
        engine=engine,
        data_dir=data,
        output_dir=tmp_path / "run",
        progress=False,
    )
    found = {(row["task"], row["length"]): (row["samples"], row["score"]) for row in report.scores}
    # harbour office 71432: P 2/3, R 1
    assert found == {
        ("lveval/loogle_SD_mixup", 16_384): (3, pytest.approx(0.8)),
        ("lveval/loogle_SD_mixup", 32_768): (3, pytest.approx(0.8)),
        ("infinitebench/passkey", 122_400): (2, 1.0),
    }
    records = [json.loads(line) for line in (tmp_path / "run" / "prompts.jsonl").read_text().splitlines()]
    assert [record["details"]["row"] for record in records] == [0, 1, 2, 0, 1, 2, 0, 1]
    assert records[-1]["details"]["id"] == 3
    assert engine.asked[0] == (512 - 64, 64)  # cut in its middle to the window, the answer's room left
    assert any("lveval/loogle_SD_mixup: 6 of 6 prompts: cut: " in note for note in report.notes)


def test_a_second_run_asks_nothing_again(tokenizer, data, tmp_path):
    options = {"data_dir": data, "output_dir": tmp_path / "run", "progress": False}
    evaluate("parrot", "infinitebench/passkey", engine=Parrot(tokenizer, "1"), **options)
    again = Parrot(tokenizer, "1")
    report = evaluate("parrot", "infinitebench/passkey", engine=again, **options)
    assert again.asked == []
    assert any("every score is zero" in note for note in report.notes)


def test_the_command_reads_a_data_folder(model_folder, data, capsys):
    from ultralong_hf.cli import main

    status = main(
        ["eval", "infinitebench/passkey", model_folder, "--data", str(data), "--samples", "1", "--json"]
    )
    assert status == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["scores"][0]["task"] == "infinitebench/passkey"


def test_the_command_names_a_missing_file(model_folder, tmp_path, capsys):
    from ultralong_hf.cli import main

    assert main(["eval", "infinitebench/code_run", model_folder, "--data", str(tmp_path)]) == 2
    assert "error: The data file code_run.jsonl is missing:" in capsys.readouterr().err
