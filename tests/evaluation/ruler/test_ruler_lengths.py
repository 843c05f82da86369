"""Prompts fill their length, the answer's budget counted in, and depend on seed and place alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruler_prompts import budget_of, make_prompt, make_task, shared_task

from ultralong_hf.evaluation.ruler.building import TooShortError
from ultralong_hf.evaluation.ruler.definitions import TASKS

LONGEST_UNIT = {
    "niah_single_1": 60,
    "niah_multikey_2": 60,
    "niah_multikey_3": 120,
    "vt": 60,
    "cwe": 80,
    "fwe": 60,  # one more of all words puts several of them in
    "qa_1": 600,
    "qa_2": 600,
}
"""Tokens of the small tokenizer, generously; essays are filled word by word."""


@settings(max_examples=12, deadline=None)
@given(length=st.integers(5500, 20_000), sample=st.integers(0, 10_000))
@pytest.mark.parametrize("name", TASKS)
def test_prompt_and_answer_fill_the_length_to_less_than_a_unit(name, length, sample):
    prompt = shared_task(name).maker.make(length, sample)
    slack = length - len(prompt.ids) - budget_of(name)
    assert 0 <= slack < LONGEST_UNIT.get(name, 20)
    assert prompt.ids.dtype == np.int32


@pytest.mark.parametrize("name", TASKS)
def test_length_too_short_for_a_prompt_says_which_would_do(name):
    maker = shared_task(name).maker
    with pytest.raises(
        TooShortError, match=r"200 tokens are too few for the task .* Use a length of"
    ) as caught:
        maker.make(200, 0)
    prompt = maker.make(int(caught.value.shortest * 1.1) + 20, 0)
    assert len(prompt.ids) > 100


@pytest.mark.parametrize("name", TASKS)
def test_same_seed_gives_the_same_prompt_whatever_was_made_before(name):
    first = make_prompt(name, 6000, 3)
    fresh = make_task(name, lengths=(6000, 40_000))
    fresh.maker.make(40_000, 1)
    again = fresh.maker.make(6000, 3)
    assert again.ids.tolist() == first.ids.tolist()
    assert again.references == first.references
    assert again.details == first.details


@pytest.mark.parametrize("name", TASKS)
def test_samples_lengths_and_seeds_give_different_prompts(name):
    answers = {make_prompt(name, 6000, 0).references, make_prompt(name, 6000, 1).references}
    ids = [make_prompt(name, 6000, 0).ids, make_task(name, seed=9).maker.make(6000, 0).ids]
    assert len(answers) == 2
    assert not np.array_equal(*ids)


def test_chat_template_is_the_tokenizers_and_the_answer_prefix_follows_it():
    from evaluation_models import make_tokenizer

    from ultralong_hf.evaluation.ruler import ruler_tasks
    from ultralong_hf.evaluation.tasks import TaskContext

    tokenizer = make_tokenizer(chat=True)
    context = TaskContext(tokenizer=tokenizer, style="chat", lengths=[6000])
    for task in ruler_tasks(None, context)[-3:]:
        prompt = task.maker.make(6000, 0)
        text = tokenizer.decode(prompt.ids)
        assert text.startswith("<|bos|><|user|>")
        assert text.endswith(f"<|end|><|assistant|>{prompt.frame.answer_prefix}")
        assert text.count("<|bos|>") == 1
        assert len(prompt.ids) + budget_of(task.selector) <= 6000
