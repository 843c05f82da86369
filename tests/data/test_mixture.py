from __future__ import annotations

import pytest

from ultralong_hf.data.mixture import LengthMixture, parse_mixture
from ultralong_hf.errors import DocumentError


def test_middle_documents_are_taken_once_and_bounds_belong_to_the_middle():
    mixture = LengthMixture(short_below=10, short_keep=0.0, long_above=20, long_repeat=3.0)
    lengths = (9, 10, 15, 20, 21)
    assert [mixture.copies(0, n, seed=0) for n in lengths] == [0, 1, 1, 1, 3]


def test_short_documents_are_kept_and_long_ones_repeated_at_the_given_rates():
    mixture = LengthMixture(short_below=10, short_keep=0.25, long_above=20, long_repeat=1.5)
    short = [mixture.copies(n, 5, seed=7) for n in range(10_000)]
    long = [mixture.copies(n, 50, seed=7) for n in range(10_000)]
    assert set(short) == {0, 1}
    assert set(long) == {1, 2}
    # five standard deviations of a mean of 10,000 draws
    assert sum(short) / 10_000 == pytest.approx(0.25, abs=5 * (0.25 * 0.75 / 10_000) ** 0.5)
    assert sum(long) / 10_000 == pytest.approx(1.5, abs=5 * 0.005)


def test_a_choice_depends_on_seed_and_index_alone():
    mixture = LengthMixture(short_keep=0.5)
    there = [mixture.copies(n, 5, seed=1) for n in range(100)]
    assert [mixture.copies(n, 5, seed=1) for n in reversed(range(100))] == there[::-1]
    assert [mixture.copies(n, 5, seed=2) for n in range(100)] != there


def test_refuses_numbers_that_make_no_sense_all_at_once():
    with pytest.raises(DocumentError) as caught:
        LengthMixture(short_keep=1.1, long_repeat=0.5, short_below=9000)
    assert len(caught.value.faults) == 3


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ({"short_kep": 0.1}, r"unknown keys \['short_kep'\]"),
        ({"short_keep": "0.1"}, "short_keep is '0.1'"),
        ("fuu", "'fuu'"),
        (3, "mixture is 3"),
    ],
)
def test_refuses_what_is_no_mixture(value, fault):
    with pytest.raises(DocumentError, match=fault):
        parse_mixture(value)


def test_reads_a_recipe_mapping():
    assert parse_mixture({"short_keep": 0.2}) == LengthMixture(short_keep=0.2)
    assert parse_mixture(None) is None
