import numpy as np
import pytest

from ultralong_hf.evaluation.engines.prefixes import common_prefix, longest_shared


@pytest.mark.parametrize("shared", [0, 1, 65_535, 65_536, 65_537, 200_000])
def test_finds_where_two_prompts_begin_to_differ(shared):
    first = np.arange(200_001)
    second = first.copy()
    second[shared] = -1
    assert common_prefix(first, second) == shared
    assert common_prefix(second, first) == shared


def test_a_prompt_within_another_is_shared_whole():
    assert common_prefix(np.arange(5), np.arange(9)) == 5
    assert common_prefix(np.arange(0), np.arange(9)) == 0


def test_the_row_that_shares_most_is_found():
    held = [np.array([1, 2, 9]), None, np.array([1, 2, 3, 9]), np.array([7])]
    assert longest_shared(np.array([1, 2, 3, 4]), held) == (2, 3)
    assert longest_shared(np.array([8]), held) == (0, 0)
