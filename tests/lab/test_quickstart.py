import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from ultralong_hf.errors import ModelError
from ultralong_hf.lab import report as reporting
from ultralong_hf.lab.quickstart import run_quickstart

QUICK = {
    "data.target_length": 512,
    "cpt.max_steps": 2,
    "cpt.eval_strategy": "no",
    "data.eval_rows": 0,
    "sft.max_steps": 1,
    "evaluation.lengths": [128, 512],
    "evaluation.depths": [0, 100],
    "evaluation.samples": 2,
}
SIDES = ("before", "after")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quick") / "out"
    said: list[str] = []
    return folder, run_quickstart(folder, overrides=QUICK, say=said.append), said


def test_report_has_the_contracts_keys(finished):
    folder, report, _ = finished
    assert json.loads((folder / "report.json").read_text()) == report
    assert set(report) == {"recall", "perplexity", "seconds", "peak_rss_bytes", "model", "seeds"}
    for side in SIDES:
        cells = report["recall"][side]
        assert [(cell["length"], cell["depth"]) for cell in cells] == [
            (128, 0),
            (128, 100),
            (512, 0),
            (512, 100),
        ]
        assert all(0 <= cell["hits"] <= cell["samples"] == 2 for cell in cells)
        buckets = report["perplexity"][side]
        assert buckets[0]["from"] == 0
        assert buckets[-1]["to"] == 512
        assert all(bucket["value"] > 1 for bucket in buckets)
    assert report["seeds"] == [0]
    assert report["peak_rss_bytes"] > 100 * 2**20
    assert list(report["seconds"]) == [
        "prepare",
        "blend",
        "extend",
        "evaluate-base",
        "cpt",
        "sft",
        "evaluate-final",
        "publish",
    ]


def test_every_prompt_is_kept_with_both_answers(finished):
    folder, report, _ = finished
    lines = [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()]
    assert len(lines) == 8
    for side in SIDES:
        assert sum(line[f"hit_{side}"] for line in lines) == sum(c["hits"] for c in report["recall"][side])
        assert all(line[f"hit_{side}"] == (line["expected"] in line[side]) for line in lines)
    assert all(line["expected"] in line["prompt"] for line in lines)


def test_model_loads_in_plain_transformers_and_reads_the_target(finished):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _, report, _ = finished
    model = AutoModelForCausalLM.from_pretrained(report["model"])
    assert model.config.max_position_embeddings == 512
    assert model.config.use_cache
    assert [file.name for file in Path(report["model"]).glob("*.bin")] == []
    assert AutoTokenizer.from_pretrained(report["model"]).model_max_length == 512


def test_a_checked_release_folder_is_left(finished):
    folder, report, _ = finished
    release = json.loads((folder / "release" / "release.json").read_text())
    assert release["window"] == 512
    weights = (folder / "release" / "model.safetensors").read_bytes()
    assert weights == (Path(report["model"]) / "model.safetensors").read_bytes()
    assert "Needle at 512 tokens" in (folder / "release" / "README.md").read_text()


def test_pictures_and_page_are_there(finished):
    folder, _, _ = finished
    assert (folder / "heatmap.png").read_bytes().startswith(b"\x89PNG")
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Facts found, by depth and length" in page
    assert "src=" not in page.split("<body>")[0]  # nothing is fetched


def test_finished_run_is_replaced_and_an_interrupted_one_goes_on(finished):
    folder, report, said = finished
    assert "seed 0: cpt" in "\n".join(said)
    (folder / "report.json").unlink()
    weights = (folder / "model" / "model.safetensors").stat().st_mtime_ns
    again = run_quickstart(folder, overrides=QUICK, say=lambda line: None)
    assert again["recall"] == report["recall"]
    assert (folder / "model" / "model.safetensors").stat().st_mtime_ns == weights
    assert again["seconds"] == report["seconds"], "every stage was found done"


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(ModelError, match="holds no quickstart"):
        run_quickstart(tmp_path, overrides=QUICK)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_seeds_are_pooled_by_adding_hits():
    first = [{"length": 8, "depth": 0.0, "hits": 1, "samples": 2, "low": 0.0, "high": 1.0}]
    second = [{**first[0], "hits": 2}]
    pooled = reporting.pool_cells([first, second])
    assert [(cell["hits"], cell["samples"]) for cell in pooled] == [(3, 4)]
    assert 0 < pooled[0]["low"] < 0.75 < pooled[0]["high"] < 1
    assert reporting.recall_by_length(pooled) == {8: 0.75}


def test_perplexities_are_pooled_by_tokens():
    low = [{"from": 0, "to": 4, "loss": 1.0, "value": 2.7, "tokens": 3}]
    high = [{"from": 0, "to": 4, "loss": 2.0, "value": 7.4, "tokens": 1}]
    (pooled,) = reporting.pool_perplexity([low, high])
    assert pooled["loss"] == pytest.approx(1.25)
    assert pooled["tokens"] == 4
    assert reporting.perplexity_beyond([pooled], 0) == pytest.approx(3.4903, abs=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_quickstart_of_three_seeds_turns_the_map_green(tmp_path):
    """The targets of the quickstart, at full size, over three seeds that nobody chose."""
    folder = tmp_path / "quickstart"
    command = [
        sys.executable,
        "-m",
        "ultralong_hf.cli",
        "lab",
        "quickstart",
        "--seeds",
        "3",
        "--output",
        str(folder),
    ]
    subprocess.run(command, check=True)
    report = json.loads((folder / "report.json").read_text())
    before, after = (reporting.recall_by_length(report["recall"][side]) for side in SIDES)
    for length in (2048, 4096):
        assert before[length] <= 0.2
        assert after[length] >= 0.95
    for length in (128, 256):
        assert after[length] >= 0.97
    assert all(cell["samples"] >= 60 for cell in report["recall"]["after"])
    ppl_before, ppl_after = (reporting.perplexity_beyond(report["perplexity"][side], 256) for side in SIDES)
    assert ppl_before >= 2 * ppl_after
    for seed in range(3):
        with (folder / f"seed-{seed}" / "evaluation" / "final" / "cells.csv").open() as file:
            cells = [
                {
                    **row,
                    "length": int(row["length"]),
                    "hits": int(row["hits"]),
                    "samples": int(row["samples"]),
                }
                for row in csv.DictReader(file)
            ]
        recall = reporting.recall_by_length(cells)
        assert recall[2048] >= 0.95, seed
        assert recall[4096] >= 0.95, seed
        assert min(recall[128], recall[256]) >= 0.97, seed
