"""The report's files, and what the command says."""

import json
import re

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from run_folders import records_of, write_run

from ultralong_hf.cli import main
from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.pages import Table
from ultralong_hf.evaluation.reporting import write_comparison
from ultralong_hf.evaluation.reporting.markdown import markdown_table
from ultralong_hf.evaluation.reporting.model_index import model_index, update_card
from ultralong_hf.evaluation.reporting.models import read_models


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The folder that the fixture `written` fills."""
    return tmp_path_factory.mktemp("comparison") / "report"


@pytest.fixture(scope="module")
def written(two_models, report):
    return write_comparison(two_models, report, names=["original", "extended"])


def test_page_and_markdown_hold_the_same_sections(written, report):
    text = (report / "report.md").read_text()
    page = (report / "report.html").read_text()
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings == [heading.replace("&#x27;", "'") for heading in re.findall(r"<h2>(.+?)</h2>", page)]
    assert headings[:3] == ["Read this first", "At a glance", "Beside the paper"]
    assert "extended against original, prompt by prompt" in headings
    assert "Retention: what extended keeps of original" in headings
    for told in ("a note on base.", "a note on long.", "11 of 13 tasks were not measured"):
        assert told in page
        assert told in text.replace("\\", "")


def test_every_picture_that_markdown_names_is_there(written, report):
    text = (report / "report.md").read_text()
    named = re.findall(r"\]\((pictures/[^)]+)\)", text)
    assert len(named) >= 4
    for name in named:
        assert (report / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_page_needs_nothing_else(written, report):
    page = (report / "report.html").read_text()
    without_library = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert re.findall(r'(?:src|href)="([^"]+)"', without_library) == []


def test_json_holds_the_numbers(written, report):
    assert json.loads((report / "comparison.json").read_text()) == json.loads(json.dumps(written))
    original, extended = written["models"]
    assert (original["name"], original["window"], extended["window"]) == ("original", 8192, 32768)
    assert original["ruler"]["missing_tasks"] == 11
    [against] = written["against"]
    by_place = {(p["task"], p["length"]): p for p in against["paired"]}
    assert by_place["needle", 32768]["base"] == 0.0
    assert by_place["needle", 32768]["difference"]["low"] > 0.5
    kept = {r["task"]: r for r in against["retention"]}
    assert kept["mmlu"]["ratio"] == pytest.approx(0.62 / 0.61)
    assert original["paper_columns"] == {"MMLU": 61.0}


def test_model_index_is_what_the_hub_reads(two_models):
    model = read_models(two_models)[1]
    name, results = model_index_to_eval_results(yaml.safe_load(yaml.safe_dump(model_index(model))))
    assert name == "long"
    values = {r.dataset_name: (r.metric_type, r.metric_value) for r in results}
    assert values["Needle at 4K tokens"] == ("recall", round(100 * model.score("needle", 4096).mean, 2))
    assert values["MMLU"] == ("acc", 62.0)
    ruler = next(r for r in results if r.dataset_name == "RULER at 32K tokens")
    assert ruler.metric_args["tasks_not_measured"] == 11
    assert ruler.metric_args["prompts"] == 20
    assert "RULER, effective length" not in values  # of 2 tasks it would be none


def test_a_card_keeps_what_it_holds_and_its_results_are_replaced_not_doubled(two_models, tmp_path):
    card = tmp_path / "README.md"
    card.write_text("---\nlicense: apache-2.0\ntags:\n- long-context\n---\n\n# Mine\n\nText.\n")
    base, long = read_models(two_models)
    update_card(card, base)
    first = len(ModelCard.load(card).data.eval_results)
    update_card(card, long)
    loaded = ModelCard.load(card)
    assert loaded.text.strip() == "# Mine\n\nText."
    assert (loaded.data.license, loaded.data.tags) == ("apache-2.0", ["long-context"])
    assert len(loaded.data.eval_results) == first > 4
    mmlu = [r for r in loaded.data.eval_results if r.dataset_name == "MMLU"]
    assert [r.metric_value for r in mmlu] == [62.0]


def test_a_card_with_broken_front_matter_is_left_alone(two_models, tmp_path):
    card = tmp_path / "README.md"
    card.write_text("---\nmodel-index: [{name: 3}]\nlicense: x\n---\n# Mine\n")
    before = card.read_text()
    with pytest.raises(EvaluationError, match="front matter cannot be read"):
        update_card(card, read_models(two_models)[0])
    assert card.read_text() == before


def test_markdown_tables_mean_what_they_show():
    table = Table(("task", "n"), [("a_b|c", 12_345)], caption="of *all*")
    assert markdown_table(table) == "*of \\*all\\**\n\n| task | n |\n| --- | --- |\n| a\\_b\\|c | 12,345 |"


def test_the_command_writes_prints_and_fills_the_card(two_models, tmp_path, capsys):
    folders = [str(folder) for folder in two_models]
    card = tmp_path / "card"
    card.mkdir()
    status = main(
        ["eval", "report", *folders, "--names", "a,b", "--output", str(tmp_path / "out"), "--card", str(card)]
    )
    captured = capsys.readouterr()
    assert status == 0
    assert captured.out.startswith("# a and b: long-context evaluation")
    assert len(ModelCard.load(card / "README.md").data.eval_results) > 4
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "comparison.json",
        "model-index-a.yaml",
        "model-index-b.yaml",
        "pictures",
        "report.html",
        "report.md",
    ]


def test_the_command_tells_bad_input_in_a_line_and_writes_nothing(tmp_path, capsys):
    assert main(["eval", "report", str(tmp_path / "none"), "--output", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'none'} is no folder")
    assert not (tmp_path / "out").exists()


def test_one_model_alone_has_no_comparison(tmp_path):
    records = records_of("needle", [4096], lambda task, length: 1.0, depths=(0, 100), samples=2)
    content = write_comparison([write_run(tmp_path / "run", records)], tmp_path / "report")
    assert content["against"] == []
    assert "against" not in (tmp_path / "report" / "report.md").read_text()
    assert (tmp_path / "report" / "model-index.yaml").exists()
