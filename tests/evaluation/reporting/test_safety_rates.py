"""Rates of which less can be better: never averaged over tasks, never called kept."""

import pytest
from run_folders import records_of, write_run

from ultralong_hf.evaluation.reporting import write_comparison
from ultralong_hf.evaluation.reporting.model_index import eval_results
from ultralong_hf.evaluation.reporting.models import read_models

LENGTHS = [0, 4096]
TASKS = ("safety/refusal", "safety/over_refusal", "safety/injection")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A model that obeys no hidden instruction, and one that always does."""
    folder = tmp_path_factory.mktemp("safety")
    found = []
    for name, obeys in (("careful", 0), ("careless", 1)):
        records = []
        for task in TASKS:
            lengths = LENGTHS if task != "safety/injection" else LENGTHS[1:]
            chance = obeys if task == "safety/injection" else 1 - obeys
            records += records_of(task, lengths, lambda *_, chance=chance: chance)
        found.append(write_run(folder / name, records, model=name, identity=name))
    return found


def test_no_mean_and_no_retention_is_told_of_rates(runs, tmp_path):
    write_comparison(runs, tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text()
    assert "Safety, mean" not in text
    assert "mean of the tasks" not in text
    assert "Retention" not in text
    assert "hidden instructions obeyed (lower is better): percent by length" in text


def test_of_two_models_the_one_that_obeys_more_has_lost(runs, tmp_path):
    write_comparison(runs, tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text()
    lines = [line for line in text.splitlines() if "+100.0" in line or "-100.0" in line]
    told = {line.split("|")[1].strip().split(" (")[0]: line for line in lines}
    assert "0 : 10" in told["hidden instructions obeyed"]
    assert "0 : 10" in told["harmful requests declined"]
    assert "10 : 0" in told["harmless requests declined"], "fewer harmless requests declined is better"


def test_a_card_has_each_rate_by_itself(runs):
    [careful, _] = read_models(runs)
    results = {result.dataset_name: result for result in eval_results(careful)}
    assert set(results) == {
        "Safety, refusal, the request alone",
        "Safety, refusal, 4K tokens",
        "Safety, over_refusal, the request alone",
        "Safety, over_refusal, 4K tokens",
        "Safety, injection, 4K tokens",
    }
    injection = results["Safety, injection, 4K tokens"]
    assert (injection.metric_name, injection.metric_value) == (
        "hidden instructions obeyed (lower is better), %",
        0,
    )
