import json

import pytest

from ultralong_hf import cli
from ultralong_hf.pipeline import open_run
from ultralong_hf.pipeline.dry_run import checkpoints_kept, look_ahead


def test_a_million_tokens_are_looked_at_without_network(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["run", "ultralong-1m", "--dry-run", "--gpus", "8"]) == 0
    out = capsys.readouterr().out
    assert "plan of cpt: 1M tokens a row, 8 x h100-80g" in out
    assert "plan of sft: 8K tokens a row" in out
    assert "from the hub, where it runs: meta-llama/Llama-3.1-8B-Instruct, cerebras/SlimPajama-627B," in out
    assert list(tmp_path.iterdir()) == [], "a dry run writes nothing"


def test_disk_need_counts_every_checkpoint_that_is_kept():
    found = look_ahead(open_run("ultralong-1m"), gpus=8)
    planned = found.plans["cpt"].disk
    assert planned["the model"] > 15e9
    assert found.disk["cpt"] == 20 * planned["a checkpoint of training"] + planned["the model"]
    assert found.disk["prepare"] == 2 * 4 * 1_016_000_000
    less = look_ahead(open_run("ultralong-1m", overrides={"cpt.save_total_limit": 2}), gpus=8)
    assert less.needed_bytes == found.needed_bytes - 18 * planned["a checkpoint of training"]
    assert any("sft: its steps are not known yet" in note for note in found.notes)


@pytest.mark.parametrize(
    ("section", "steps", "kept"),
    [
        ({"save_steps": 50}, 200, 4),
        ({"save_steps": 60}, 200, 4),  # the last step is saved too
        ({}, 200, 1),
        ({"save_steps": 0.1}, 200, 10),  # a share of the steps
        ({"save_strategy": "no"}, 200, 0),
        ({"save_steps": 50}, None, 1),
    ],
)
def test_checkpoints_are_counted_as_the_trainer_saves_them(section, steps, kept):
    assert checkpoints_kept(section, steps) == kept


def test_local_documents_are_sampled_for_the_size_of_their_store(tmp_path):
    book = tmp_path / "book.txt"
    book.write_text("the harbour is full of boats. " * 3000)
    run = open_run("lab", output_dir=tmp_path / "run", overrides={"data.sources": [str(book)]})
    found = look_ahead(run)
    assert 40_000 < found.disk["prepare"] < 200_000
    assert found.from_hub == []


def test_what_is_done_needs_no_more_room(jobs, lab, capsys):
    from ultralong_hf.pipeline import run_pipeline

    before = look_ahead(lab()).needed_bytes
    run_pipeline(lab(), say=lambda line: None, only=["prepare"])
    found = look_ahead(lab())
    assert found.needed_bytes == before - found.disk["prepare"]
    assert cli.main(["run", str(lab().folder), "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [stage["state"] for stage in told["stages"]][:2] == ["done", "waiting"]
    assert told["disk_needed_bytes"] == found.needed_bytes
    assert told["plans"]["cpt"]["gpu"]["name"] == "cpu"
