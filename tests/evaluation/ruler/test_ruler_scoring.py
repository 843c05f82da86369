"""Scores and means, against values worked out by hand from NVIDIA's rules."""

from __future__ import annotations

import pytest

from ultralong_hf.evaluation.ruler.aggregates import (
    effective_length,
    summarize,
    summary_text,
    weighted_averages,
)
from ultralong_hf.evaluation.ruler.scoring import clean_answer, match_all, match_any


@pytest.mark.parametrize(
    ("answer", "references", "every", "one"),
    [
        ("1234567", ["1234567"], 1.0, 1.0),
        ("the numbers are 11, 22 and 33", ["11", "22", "33", "44"], 0.75, 1.0),
        ("nothing", ["11", "22"], 0.0, 0.0),
        ("", ["11"], 0.0, 0.0),
        ("PARIS", ["Paris", "paris, france"], 0.5, 1.0),  # upper and lower case alike
        ("x12345678x", ["1234567"], 1.0, 1.0),  # anywhere in the answer
        ("a b", ["a b", "a b"], 1.0, 1.0),  # the same reference twice counts twice
        ("a\tb", ["a b"], 0.0, 0.0),  # a tab is no blank: it becomes a line end
        ("a\tb", ["a\nb"], 1.0, 1.0),
        ("Straße", ["STRASSE"], 0.0, 0.0),  # lower(), not casefold()
    ],
)
def test_scores_are_nvidias(answer, references, every, one):
    assert match_all(answer, references) == every
    assert match_any(answer, references) == one


def test_control_characters_become_line_ends_and_blanks_around_go():
    assert clean_answer("\x00 7\x1f8\r\n9 \t") == "7\n8\n\n9"


@pytest.mark.parametrize(
    ("scores", "increasing", "decreasing"),
    [  # rows of the table in NVIDIA/RULER's README: 4K to 128K, wAvg. (inc), wAvg. (dec)
        ([96.7, 95.8, 96.0, 95.9, 95.9, 94.4], 95.5, 96.1),
        ([96.6, 96.3, 95.2, 93.2, 87.0, 81.2], 89.0, 94.1),
        ([92.8, 90.3, 85.7, 79.9, 76.3, 69.5], 78.5, 86.3),
        ([93.6, 91.2, 87.2, 75.4, 49.0, 13.8], 55.6, 81.2),
    ],
)
def test_weighted_averages_are_those_of_rulers_table(scores, increasing, decreasing):
    assert weighted_averages(scores) == pytest.approx((increasing, decreasing), abs=0.06)


def test_effective_length_is_the_longest_above_the_threshold():
    assert effective_length({4096: 95.0, 8192: 85.6, 16_384: 85.7, 32_768: 60.0}) == 16_384
    assert effective_length({4096: 85.6}) is None


def test_summary_takes_means_of_samples_then_of_tasks():
    cells = {("vt", 1024): [1.0, 0.5], ("cwe", 1024): [0.9], ("vt", 2048): [0.2], ("cwe", 2048): [0.4, 0.0]}
    records = [
        {"task": f"ruler/{task}", "length": length, "score": score}
        for (task, length), scores in cells.items()
        for score in scores
    ]
    other = {"task": "needle", "length": 1024, "score": 0.0}
    summary = summarize([*records, other])
    assert summary is not None
    assert summary.by_task == {"vt": {1024: 75.0, 2048: 20.0}, "cwe": {1024: 90.0, 2048: 20.0}}
    assert summary.by_length == {1024: 82.5, 2048: 20.0}
    assert summary.average == 51.25
    assert summary.average_increasing == pytest.approx((82.5 + 2 * 20) / 3)
    assert summary.average_decreasing == pytest.approx((2 * 82.5 + 20) / 3)
    assert summary.effective_length is None
    assert summary.incomplete == {}
    assert summarize([other]) is None


def test_summary_names_lengths_at_which_tasks_are_missing():
    records = [
        {"task": "ruler/vt", "length": 1024, "score": 1.0},
        {"task": "ruler/cwe", "length": 2048, "score": 1.0},
        {"task": "ruler/vt", "length": 2048, "score": 1.0},
    ]
    summary = summarize(records)
    assert summary is not None
    assert summary.incomplete == {1024: ["cwe"]}
    assert summary.to_dict()["effective_length"] == 2048


def test_summary_text_has_a_column_a_length_and_names_what_is_missing():
    records = [
        {"task": "ruler/vt", "length": 4096, "score": 0.9},
        {"task": "ruler/vt", "length": 1_048_576, "score": 0.5},
        {"task": "ruler/cwe", "length": 4096, "score": 0.88},
    ]
    summary = summarize(records)
    assert summary is not None
    assert summary_text(summary) == (
        "RULER                          4,096   1,048,576\n"
        "mean of 2 of 13 tasks, %        89.0        50.0\n"
        "mean 69.5, weighted (inc) 63.0, weighted (dec) 76.0; effective length (above 85.6 %): 4,096\n"
        "without cwe at 1,048,576: not to be compared with the other lengths"
    )
