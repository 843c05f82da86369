"""Headlines, and what of ours the paper's tables compare with."""

import pytest
from run_folders import records_of, standard_entry, write_run

from ultralong_hf.evaluation.lveval import SELECTORS as LVEVAL
from ultralong_hf.evaluation.published import COLUMNS, RESULTS, Column, published_value
from ultralong_hf.evaluation.reporting.models import FAMILY_SIZES, read_models
from ultralong_hf.evaluation.reporting.standing import comparable, paper_table, ruler_standing
from ultralong_hf.evaluation.ruler import SELECTORS as RULER

K = 1024


def ruler_model(tmp_path, lengths, tasks=RULER, skill=lambda task, length: 1.0, **options):
    records = [r for task in tasks for r in records_of(f"ruler/{task}", lengths, skill, samples=2)]
    [model] = read_models([write_run(tmp_path / "run", records, **options)])
    return model


def test_benchmarks_have_as_many_tasks_as_their_modules_name():
    assert len(RULER) == FAMILY_SIZES["ruler"]
    assert len(LVEVAL) == FAMILY_SIZES["lveval"]


def test_effective_length_is_the_longest_above_the_threshold(tmp_path):
    model = ruler_model(tmp_path, [4 * K, 8 * K, 16 * K], skill=lambda task, length: float(length <= 8 * K))
    standing = ruler_standing(model)
    assert standing.effective == "8K"
    assert standing.by_length == {4 * K: 1.0, 8 * K: 1.0, 16 * K: 0.0}
    assert standing.average == pytest.approx(2 / 3)
    assert standing.increasing == pytest.approx((1 + 2) / 6)
    assert standing.decreasing == pytest.approx((3 + 2) / 6)


def test_a_model_below_the_threshold_everywhere_has_no_effective_length(tmp_path):
    standing = ruler_standing(ruler_model(tmp_path, [4 * K], skill=lambda task, length: 0.0))
    assert (standing.effective_length, standing.effective) == (None, "below 4K")


def test_an_effective_length_names_the_lengths_before_it_that_fail(tmp_path):
    model = ruler_model(tmp_path, [4 * K, 8 * K, 16 * K], skill=lambda task, length: float(length != 8 * K))
    assert ruler_standing(model).effective == "16K (but not at 8K)"


def test_ruler_compares_with_all_tasks_and_the_bound_itself_alone(tmp_path):
    bound = Column("RULER", 128 * K)

    def skill(task, length):
        return float(length <= 128 * K)

    whole = ruler_model(tmp_path, [64 * K, 128 * K, 256 * K], skill=skill)
    assert comparable(whole, bound) == 100.0
    assert comparable(whole, Column("RULER", 512 * K)) is None  # 512K was not measured
    assert comparable(whole, Column("LV-Eval", 128 * K)) is None
    part = ruler_model(tmp_path / "part", [64 * K, 128 * K], tasks=RULER[:12])
    assert comparable(part, bound) is None


def test_a_standard_benchmark_cut_to_its_first_rows_does_not_compare(tmp_path):
    whole, cut = standard_entry("mmlu", 0.65), standard_entry("gsm8k", 0.8)
    cut["settings"] = {**cut["settings"], "limit": 100}
    [model] = read_models([write_run(tmp_path / "run", standard=[whole, cut])])
    assert comparable(model, Column("MMLU", settings="5-shot")) == 65.0
    assert comparable(model, Column("GSM8K", settings="8-shot")) is None
    table = paper_table([model])
    assert list(table.columns) == ["model", "figures", "MMLU"]
    assert table.rows[0] == ["base", "ours", "65.00"]
    assert table.rows[1] == ["Llama-3.1-8B-Instruct", "published", "64.83"]
    assert "not measured here" in table.caption


def test_without_anything_comparable_there_is_no_table(tmp_path):
    assert paper_table([ruler_model(tmp_path, [4 * K])]) is None


def test_the_papers_figures_are_those_of_its_table():
    """Row means over the five standard benchmarks, as the paper prints them."""
    means = {
        "Llama-3.1-8B-Instruct": 61.45,
        "Gradient-1048k": 37.36,
        "ProLong-512k": 40.81,
        "UltraLong-1M": 62.47,
        "UltraLong-2M": 61.06,
        "UltraLong-4M": 60.95,
    }
    assert list(RESULTS) == list(means)
    for name, figures in RESULTS.items():
        assert len(figures) == len(COLUMNS)
        assert sum(figures[6:]) / 5 == pytest.approx(means[name], abs=0.015)
    assert published_value("UltraLong-2M", "LV-Eval", 256 * K) == 28.90
    assert published_value("UltraLong-2M", "RULER", 256 * K) is None
