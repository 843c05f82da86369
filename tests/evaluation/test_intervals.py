import pytest

from ultralong_hf.evaluation.intervals import wilson_interval


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
