"""Two models are compared prompt by prompt, and only where both were asked the same."""

import pytest
from run_folders import records_of, standard_entry, write_run

from ultralong_hf.evaluation.reporting.models import read_models
from ultralong_hf.evaluation.reporting.pairing import (
    pair,
    retention,
    setting_differences,
    standard_retention,
)


def models_of(tmp_path, base, other, **settings):
    return read_models(
        [
            write_run(tmp_path / "base", base, model="m/base", identity="a"),
            write_run(tmp_path / "other", other, model="m/other", identity="b", settings=settings),
        ]
    )


def with_scores(records, scores):
    return [{**record, "score": score} for record, score in zip(records, scores, strict=True)]


def test_a_pairing_counts_prompts_won_and_lost(tmp_path):
    records = records_of("ruler/vt", [4096], lambda task, length: 1.0, samples=5)
    base, other = models_of(
        tmp_path, with_scores(records, [1, 1, 0, 0, 0.5]), with_scores(records, [1, 0, 1, 1, 0.5])
    )
    found = pair(base, other, ["ruler/vt"], 4096)
    assert (found.base, found.other) == (0.5, pytest.approx(0.7))
    assert (found.won, found.lost, found.prompts) == (2, 1, 5)
    assert found.difference.value == pytest.approx(0.2)
    assert found.difference.low < 0 < found.difference.high


def test_prompts_that_all_agree_still_leave_room_for_a_difference(tmp_path):
    records = records_of("ruler/vt", [4096], lambda task, length: 1.0, samples=6)
    base, other = models_of(tmp_path, with_scores(records, [0] * 6), with_scores(records, [0] * 6))
    found = pair(base, other, ["ruler/vt"], 4096).difference
    assert (found.value, found.low, found.high) == (
        0,
        pytest.approx(-0.39, abs=0.01),
        pytest.approx(0.39, abs=0.01),
    )


def test_tasks_taken_together_weigh_the_same_however_many_prompts_they_have(tmp_path):
    few = records_of("ruler/vt", [4096], lambda task, length: 1.0, samples=2)
    many = records_of("ruler/cwe", [4096], lambda task, length: 1.0, samples=8)
    base, other = models_of(
        tmp_path,
        [*with_scores(few, [0, 0]), *with_scores(many, [1] * 8)],
        [*with_scores(few, [1, 1]), *with_scores(many, [1] * 8)],
    )
    found = pair(base, other, ["ruler/vt", "ruler/cwe"], 4096, name="RULER")
    assert (found.base, found.other, found.difference.value) == (0.5, 1.0, pytest.approx(0.5))


def test_other_prompts_under_the_same_places_are_not_paired_but_named(tmp_path):
    base = records_of("ruler/vt", [4096], lambda task, length: 1.0, seed=0)
    other = records_of("ruler/vt", [4096], lambda task, length: 1.0, seed=1)
    first, second = models_of(tmp_path, base, other, seed=1)
    assert pair(first, second, ["ruler/vt"], 4096) is None
    assert retention(first, second, "ruler/vt") is None
    assert setting_differences(first, second) == [
        "ruler/vt: base and other were asked different prompts (seed 0 against 1): their scores stand side "
        "by side, no paired difference is taken."
    ]


def test_lengths_without_any_in_common_are_named(tmp_path):
    base = records_of("ruler/vt", [4096], lambda task, length: 1.0)
    other = records_of("ruler/vt", [8192], lambda task, length: 1.0)
    [note] = setting_differences(*models_of(tmp_path, base, other))
    assert note == "ruler/vt: base and other have no length in common; nothing is compared."


def test_retention_is_the_ratio_over_the_lengths_that_both_have(tmp_path):
    records = records_of("ruler/vt", [4096, 8192], lambda task, length: 1.0, samples=4)
    longer = records_of("ruler/vt", [16384], lambda task, length: 1.0, samples=4)
    base, other = models_of(
        tmp_path,
        with_scores(records, [1, 1, 1, 0, 1, 1, 1, 1]),
        [*with_scores(records, [1, 1, 0, 0, 1, 1, 1, 0]), *longer],
    )
    kept = retention(base, other, "ruler/vt")
    assert (kept.original, kept.extended) == (0.875, 0.625)
    assert kept.ratio == pytest.approx(0.625 / 0.875)
    assert kept.low < kept.ratio < kept.high <= 1.0 + 1e-9  # no prompt was won


def test_an_original_at_zero_has_no_ratio(tmp_path):
    records = records_of("ruler/vt", [4096], lambda task, length: 1.0, samples=3)
    kept = retention(*models_of(tmp_path, with_scores(records, [0, 0, 0]), records), "ruler/vt")
    assert (kept.original, kept.extended, kept.ratio) == (0.0, 1.0, None)


def test_standard_benchmarks_keep_a_share_with_the_error_of_a_ratio(tmp_path):
    folders = [
        write_run(tmp_path / name, standard=[standard_entry("mmlu", value)], model=name, identity=name)
        for name, value in (("base", 0.64), ("long", 0.66))
    ]
    kept = standard_retention(*read_models(folders), "mmlu")
    assert kept.ratio == pytest.approx(0.66 / 0.64)
    half = 1.96 * ((0.004 / 0.64) ** 2 + (0.66 * 0.004 / 0.64**2) ** 2) ** 0.5
    assert (kept.low, kept.high) == (pytest.approx(kept.ratio - half), pytest.approx(kept.ratio + half))


def test_a_standard_benchmark_asked_in_two_ways_is_named(tmp_path):
    zero_shot = standard_entry("mmlu", 0.66)
    zero_shot["settings"] = {**zero_shot["settings"], "num_fewshot": 0}
    folders = [
        write_run(tmp_path / "a", standard=[standard_entry("mmlu", 0.64)], model="a", identity="a"),
        write_run(tmp_path / "b", standard=[zero_shot], model="b", identity="b"),
    ]
    first, second = read_models(folders)
    assert setting_differences(first, second) == [
        "mmlu: asked of a and b in different ways (num_fewshot 5 against 0)."
    ]
    assert standard_retention(first, second, "mmlu") is None
