"""Retention = extended / original, with the error of a ratio; never over results asked in different ways."""

from __future__ import annotations

import json
import random
import sqlite3
import statistics
from contextlib import closing
from typing import Any

import pytest

from ultralong_hf import evaluate
from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.standard import retention
from ultralong_hf.evaluation.standard.measure import read_entries
from ultralong_hf.evaluation.standard.results import entries_text

SETTINGS = {"harness": "x", "tasks": ["t"], "num_fewshot": 5, "chat_template": False, "limit": None}


def entry(task: str, value: float, stderr: float | None, **settings: Any) -> dict[str, Any]:
    return {
        "task": task,
        "metric": "acc",
        "value": value,
        "stderr": stderr,
        "samples": 10,
        "settings": {**SETTINGS, **settings},
    }


def test_the_papers_own_numbers():
    """MMLU and HumanEval of UltraLong-1M over Llama-3.1-8B-Instruct."""
    found = retention(
        [entry("mmlu", 66.99, None), entry("humaneval", 68.29, None)],
        [entry("humaneval", 69.51, None), entry("mmlu", 64.83, None)],
    )
    assert [(one.task, round(one.value, 4), one.stderr) for one in found] == [
        ("mmlu", 1.0333, None),
        ("humaneval", 0.9824, None),
    ]


def test_the_error_is_that_of_drawn_ratios():
    [found] = retention([entry("t", 0.6, 0.01)], [entry("t", 0.8, 0.02)])
    # sqrt((0.01 / 0.8)^2 + (0.6 * 0.02 / 0.64)^2)
    assert found.stderr == pytest.approx(0.022535, abs=1e-6)
    rng = random.Random(0)
    drawn = [rng.gauss(0.6, 0.01) / rng.gauss(0.8, 0.02) for _ in range(20_000)]
    assert statistics.stdev(drawn) == pytest.approx(found.stderr, rel=0.03)


def test_an_original_at_zero_has_no_retention():
    [found] = retention([entry("t", 0.5, 0.1)], [entry("t", 0.0, 0.0)])
    assert (found.value, found.stderr) == (None, None)


def test_tasks_of_one_side_alone_are_left_out():
    found = retention([entry("a", 0.5, 0.1), entry("b", 0.5, 0.1)], [entry("b", 0.5, 0.1)])
    assert [(one.task, one.value) for one in found] == [("b", 1.0)]
    with pytest.raises(EvaluationError, match="has none of these tasks; it has b"):
        retention([entry("a", 0.5, 0.1)], [entry("b", 0.5, 0.1)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"limit": 10}, "asked in another way of the baseline: limit None against 10"),
        ({"num_fewshot": 0}, "num_fewshot 5 against 0"),
        ({"chat_template": True}, "chat_template False against True"),
    ],
)
def test_results_asked_in_other_ways_are_not_compared(change, message):
    with pytest.raises(EvaluationError, match=message):
        retention([entry("t", 0.5, 0.1)], [entry("t", 0.5, 0.1, **change)])


def test_a_baseline_model_is_measured_in_the_same_run(model, tokenizer, task_folder, tmp_path):
    """The extended model against itself: all is retained."""
    report = evaluate(
        (model, tokenizer),
        "standard/tiny_choice",
        include_path=task_folder,
        baseline=(model, tokenizer),
        output_dir=tmp_path,
        progress=False,
    )
    [found] = report.standard
    assert found["retention"]["value"] == 1.0
    assert found["retention"]["stderr"] == pytest.approx(found["stderr"] / found["value"] * 2**0.5)
    assert found["baseline"]["value"] == found["value"]
    assert read_entries(tmp_path) == [found]
    [folder] = tmp_path.glob("baseline-*")
    assert [one["task"] for one in read_entries(folder)] == ["tiny_choice"]


def test_another_baseline_in_the_same_folder_is_measured_anew(model, tokenizer, task_folder, tmp_path):
    import torch
    from evaluation_models import make_model

    other = make_model()
    with torch.no_grad():
        other.lm_head.weight.neg_()
    options = {"include_path": task_folder, "output_dir": tmp_path, "progress": False}
    found = [
        evaluate((model, tokenizer), "standard/tiny_choice", baseline=baseline, **options).standard[0]
        for baseline in ((model, tokenizer), (other, tokenizer), None)
    ]
    assert found[0]["retention"]["value"] == 1.0
    assert "retention" not in found[2]
    answers = []
    for folder in tmp_path.glob("baseline-*"):
        with closing(sqlite3.connect(folder / "standard_answers.sqlite")) as database:
            answers.append(dict(database.execute("select key, value from unnamed")))
    first, second = answers
    assert first.keys() == second.keys()
    assert all(first[request] != second[request] for request in first)


def test_a_finished_run_is_the_baseline_too(model, tokenizer, task_folder, tmp_path):
    options = {"include_path": task_folder, "progress": False}
    evaluate((model, tokenizer), "standard/tiny_choice", output_dir=tmp_path / "original", **options)
    stored = json.loads((tmp_path / "original" / "standard.json").read_text())
    stored["tasks"][0]["value"] *= 2
    (tmp_path / "original" / "standard.json").write_text(json.dumps(stored))
    [found] = evaluate(
        (model, tokenizer), "standard/tiny_choice", baseline=tmp_path / "original", **options
    ).standard
    assert found["retention"]["value"] == 0.5
    assert found["baseline"]["model"] == str(tmp_path / "original")


def test_a_folder_that_is_neither_is_refused(model, tokenizer, task_folder, tmp_path):
    with pytest.raises(EvaluationError, match=r"is neither a model nor a run with standard.json"):
        evaluate(
            (model, tokenizer),
            "standard/tiny_choice",
            include_path=task_folder,
            baseline=tmp_path,
            progress=False,
        )


def test_damaged_results_are_refused(tmp_path):
    (tmp_path / "standard.json").write_text('{"tasks": [{"task": "t"}]}')
    with pytest.raises(EvaluationError, match=r"standard.json is damaged"):
        read_entries(tmp_path)


def test_the_command_prints_standard_results(model_folder, task_folder, capsys):
    from ultralong_hf.cli import main

    arguments = ["eval", "standard/tiny_choice", model_folder, "--include-path", str(task_folder)]
    assert main([*arguments, "--samples", "2", "--baseline", model_folder, "--json"]) == 0
    [found] = json.loads(capsys.readouterr().out)["standard"]
    assert found["retention"]["value"] == 1.0


def test_entries_are_printed_with_what_is_retained():
    held = {**entry("gsm8k", 0.7953, 0.011), "filter": "flexible-extract", "notes": ["cut: twice"]}
    held |= {"baseline": {"value": 0.8134, "stderr": 0.011}, "retention": {"value": 0.9777, "stderr": 0.02}}
    assert entries_text([held, {**entry("mmlu", 0.6699, None), "filter": "none"}]).splitlines() == [
        "standard task   score %   +- %   rows                 metric   original %   retained %",
        "        gsm8k     79.53   1.10     10   acc,flexible-extract        81.34        97.77",
        "         mmlu     66.99      -     10                    acc            -            -",
        "",
        "note: standard/gsm8k: cut: twice",
    ]
    assert entries_text([entry("mmlu", 0.6699, None)]).splitlines() == [
        "standard task   score %   +- %   rows   metric",
        "         mmlu     66.99      -     10      acc",
    ]
