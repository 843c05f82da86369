"""Run folders are read as they are, and refused where they are none."""

import json

import pytest
from run_folders import records_of, standard_entry, write_run

from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.reporting.models import read_models, score_of
from ultralong_hf.evaluation.reporting.runs import read_run


def test_reads_what_an_evaluation_really_writes(tmp_path):
    from evaluation_models import make_model, make_tokenizer

    from ultralong_hf import evaluate

    report = evaluate(
        (make_model(), make_tokenizer()),
        ["needle", "perplexity"],
        lengths=[256],
        depths=[0, 100],
        samples=2,
        haystack=["The harbour is old. " * 200],
        output_dir=tmp_path / "run",
        progress=False,
    )
    run = read_run(tmp_path / "run")
    assert run.finished
    assert run.tasks == ["needle", "perplexity"]
    assert sum(record["score"] for record in run.records) / 4 == report.recall("needle", 256)
    assert run.perplexity == report.perplexity
    assert run.window == report.window


def test_an_unfinished_run_is_read_and_said_to_be(tmp_path):
    records = records_of("needle", [4096], lambda task, length: 1.0, depths=(0,), samples=3)
    folder = write_run(tmp_path / "run", records, finished=False)
    with (folder / "prompts.jsonl").open("a") as file:
        file.write('{"task": "needle", "torn')
    [model] = read_models([folder])
    assert model.score("needle", 4096).samples == 3
    assert model.notes == [f"{folder} is not finished: 3 prompts so far. Run the same command again."]


def test_prompts_without_an_answer_are_counted_and_left_out_of_scores(tmp_path):
    records = records_of("ruler/vt", [4096], lambda task, length: 1.0, samples=4)
    records[1] = {**records[1], "failure": "the server dropped the connection", "score": 0.0}
    [model] = read_models([write_run(tmp_path / "run", records)])
    assert (model.score("ruler/vt", 4096).mean, model.score("ruler/vt", 4096).samples) == (1.0, 3)
    assert model.failures == {"ruler/vt": 1}
    assert model.notes == ["ruler/vt: 1 prompts got no answer and are left out of its score."]


def test_runs_of_one_model_are_joined_and_others_stand_apart(tmp_path):
    vt = records_of("ruler/vt", [4096], lambda task, length: 1.0)
    cwe = records_of("ruler/cwe", [4096], lambda task, length: 1.0)
    one = write_run(tmp_path / "one", vt)
    two = write_run(tmp_path / "two", cwe, standard=[standard_entry("mmlu", 0.5)])
    other = write_run(tmp_path / "three", vt, identity="retrained")
    joined, apart = read_models([one, two, other])
    assert joined.tasks_of("ruler") == ["ruler/vt", "ruler/cwe"]
    assert list(joined.standard) == ["mmlu"]
    assert apart.tasks_of("ruler") == ["ruler/vt"]
    assert (joined.name, apart.name) == ("models/base in one", "models/base in three")
    assert [m.name for m in read_models([one, two, other], ["a", "b"])] == ["a", "b"]


def test_a_share_of_hits_has_wilsons_interval_and_other_scores_a_bootstrapped_one():
    hits = score_of([1.0] * 20)
    assert (hits.mean, hits.high, hits.samples) == (1.0, 1.0, 20)
    assert hits.low == pytest.approx(0.839, abs=1e-3)
    partial = score_of([0.2, 0.4, 0.6, 0.8] * 25)
    assert partial.mean == pytest.approx(0.5)
    assert 0.43 < partial.low < 0.47 < 0.53 < partial.high < 0.57
    assert score_of([0.3]).low is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "is no folder: name what"),
        (lambda path: path.mkdir(), "holds no run: neither report.json nor run.json"),
        (lambda path: (path.mkdir(), (path / "report.json").write_text("{")), "report.json is damaged"),
        (lambda path: (path.mkdir(), (path / "report.json").write_text("[1]")), "holds a list, no report"),
        (
            lambda path: (path.mkdir(), (path / "report.json").write_text('{"recall": 1}')),
            "is no report of `ultralong eval`: it holds recall",
        ),
        (lambda path: write_run(path), "holds no result yet"),
    ],
)
def test_refuses_a_folder_that_is_no_run(tmp_path, make, message):
    make(tmp_path / "run")
    with pytest.raises(EvaluationError, match=message):
        read_models([tmp_path / "run"])


def test_refuses_a_damaged_line_by_its_number(tmp_path):
    folder = write_run(tmp_path / "run", records_of("needle", [4096], lambda task, length: 1.0, depths=(0,)))
    lines = (folder / "prompts.jsonl").read_text().splitlines()
    lines[3] = json.dumps({"task": "needle"})
    (folder / "prompts.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(EvaluationError, match="line 4, is damaged"):
        read_models([folder])


def test_refuses_a_task_measured_twice_and_names_that_do_not_match(tmp_path):
    vt = records_of("ruler/vt", [4096], lambda task, length: 1.0)
    one, two = write_run(tmp_path / "one", vt), write_run(tmp_path / "two", vt)
    with pytest.raises(EvaluationError, match=r"ruler/vt of base was measured in .*one and in .*two"):
        read_models([one, two])
    with pytest.raises(EvaluationError, match="2 names for 1 models"):
        read_models([one], ["a", "b"])
    with pytest.raises(EvaluationError, match="no run to report"):
        read_models([])
