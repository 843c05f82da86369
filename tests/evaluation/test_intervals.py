import numpy as np
import pytest

from ultralong_hf.evaluation.intervals import paired_interval, wilson_interval


@pytest.mark.parametrize(
    ("hits", "samples", "low", "high"),
    [
        # R. G. Newcombe 1998, Statistics in Medicine 17, table I, method 3 (score, no continuity correction).
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_agrees_with_newcombes_table(hits, samples, low, high):
    assert wilson_interval(hits, samples) == pytest.approx((low, high), abs=5e-5)


def test_all_hits_mirror_no_hits():
    low, high = wilson_interval(20, 20)
    assert (low, high) == (pytest.approx(1 - 0.1611, abs=5e-5), 1.0)


@pytest.mark.parametrize(("hits", "samples"), [(0, 0), (3, 2), (-1, 5)])
def test_refuses_what_is_no_share(hits, samples):
    with pytest.raises(ValueError, match="is no share"):
        wilson_interval(hits, samples)


def test_paired_interval_turns_with_the_models():
    low, high = paired_interval(36, 12, 2, 0)
    assert (low, high) == pytest.approx((0.0569, 0.3404), abs=5e-5)
    assert paired_interval(36, 2, 12, 0) == pytest.approx((-high, -low))


def test_paired_interval_covers_the_difference_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    shares = [0.55, 0.2, 0.1, 0.15]  # a difference of 0.1
    covered = 0
    for counts in rng.multinomial(40, shares, size=2000):
        low, high = paired_interval(*counts.tolist())
        covered += low <= 0.1 <= high
    assert 0.93 <= covered / 2000 <= 0.985


def test_paired_interval_of_prompts_that_all_agree_is_no_point():
    low, high = paired_interval(0, 0, 0, 6)
    assert low == pytest.approx(-high)
    assert high == pytest.approx(wilson_interval(0, 6)[1])
