"""The middle goes, both ends stay, and the answer has its room."""

from __future__ import annotations

import pytest

from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.prompts import Frame
from ultralong_hf.evaluation.truncation import cut_middle, fit_prompt

FRAME = Frame(head=(-1, -2), tail=(-3,))


def test_keeps_what_fits():
    assert cut_middle(range(5), 5) == [0, 1, 2, 3, 4]


def test_keeps_equal_halves_of_an_even_room():
    assert cut_middle(range(10), 4) == [0, 1, 8, 9]


def test_keeps_equal_halves_of_an_odd_room_and_leaves_one_token_free():
    assert cut_middle(range(10), 5) == [0, 1, 8, 9]


def test_keeps_nothing_where_there_is_no_room():
    assert cut_middle(range(10), 1) == []


def test_fills_the_window_with_prompt_and_answer_budget():
    ids, budget, notes = fit_prompt(FRAME, range(100), window=17, max_new_tokens=4)
    assert ids.tolist() == [-1, -2, 0, 1, 2, 3, 4, 95, 96, 97, 98, 99, -3]
    assert (budget, notes) == (4, ("cut: 90 of 100 tokens from the middle",))
    assert len(ids) + budget == 17


def test_leaves_a_prompt_that_fits_as_it_is():
    ids, budget, notes = fit_prompt(FRAME, range(3), window=10, max_new_tokens=4)
    assert (ids.tolist(), budget, notes) == ([-1, -2, 0, 1, 2, -3], 4, ())


def test_cuts_nothing_where_the_window_is_unknown():
    ids, budget, notes = fit_prompt(FRAME, range(1000), window=None, max_new_tokens=30_000)
    assert (len(ids), budget, notes) == (1003, 30_000, ())


def test_lowers_a_budget_of_more_than_half_the_window_and_says_so():
    ids, budget, notes = fit_prompt(FRAME, range(100), window=40, max_new_tokens=30_000)
    assert (len(ids), budget) == (19, 20)
    assert notes == (
        "answer budget: 20 tokens instead of 30,000",
        "cut: 84 of 100 tokens from the middle",
    )


def test_refuses_a_window_that_the_template_fills():
    with pytest.raises(EvaluationError, match="A window of 8 tokens holds no prompt: 3 go to the chat"):
        fit_prompt(FRAME, range(100), window=8, max_new_tokens=4)
