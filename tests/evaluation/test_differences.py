"""Paired bootstrap: exact where it must be, and of the right coverage where it is random."""

import math
from statistics import NormalDist

import numpy as np
import pytest

from ultralong_hf.evaluation.differences import expanded_tail, mean_interval, paired_difference


def test_equal_arms_differ_by_nothing():
    scores = [[0.0, 1.0, 0.5], [1.0, 1.0, 0.0]]
    found = paired_difference(scores, scores)
    assert (found.value, found.low, found.high, found.above, found.below) == (0, 0, 0, 0, 0)
    assert not found.is_clear


def test_a_constant_difference_has_an_interval_of_no_width():
    """Seeds and prompts may vary as they like: what they share is taken out."""
    base = [[0.1, 0.7], [0.3, 0.2], [0.9, 0.4]]
    arm = [[score + 0.25 for score in units] for units in base]
    found = paired_difference(arm, base)
    assert [found.value, found.low, found.high] == pytest.approx([0.25, 0.25, 0.25])
    assert (found.above, found.below) == (3, 0)
    assert found.is_clear


def test_weights_count_questions_not_texts():
    found = paired_difference([[1.0, 0.0]], [[0.0, 0.0]], weights=[[30, 10]])
    assert found.value == pytest.approx(0.75)


@pytest.mark.parametrize("seeds", [5, 12])
def test_interval_covers_the_truth_about_as_often_as_it_says(seeds):
    rng = np.random.default_rng(0)
    trials, covered = 100, 0
    for _ in range(trials):
        difference = rng.normal(0.1, 0.05, size=(seeds, 1)) + rng.normal(0, 0.1, size=(seeds, 20))
        found = paired_difference(difference.tolist(), [[0.0] * 20] * seeds, resamples=1500)
        covered += found.low <= 0.1 <= found.high
    assert 0.9 <= covered / trials <= 1


def test_tails_are_those_of_the_t_interval():
    assert expanded_tail(5) == pytest.approx(0.00096, abs=1e-5)
    assert expanded_tail(11) == pytest.approx(NormalDist().cdf(-2.228 * (11 / 10) ** 0.5), rel=1e-6)
    assert expanded_tail(12) == pytest.approx(NormalDist().cdf(-2.201 * (12 / 11) ** 0.5), rel=0.02)
    assert expanded_tail(100_000) == pytest.approx(0.025, rel=1e-3)


def test_one_number_of_one_seed_has_no_bounds():
    found = paired_difference([[0.7]], [[0.5]])
    assert (found.value, found.low, found.high) == (pytest.approx(0.2), -math.inf, math.inf)
    assert not found.is_clear


def test_mean_interval_is_the_difference_from_zero():
    found = mean_interval([[0.2, 0.4], [0.6, 0.8]])
    assert found.value == pytest.approx(0.5)
    assert 0.2 <= found.low < 0.5 < found.high <= 0.8


def test_refuses_arms_of_other_seeds_or_prompts():
    with pytest.raises(ValueError, match="same seeds and units"):
        paired_difference([[1.0]], [[1.0], [1.0]])
    with pytest.raises(ValueError, match="same seeds and units"):
        paired_difference([[1.0, 0.0]], [[1.0]])
