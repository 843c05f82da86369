import pytest

from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.tasks import (
    FAMILIES,
    Measure,
    Task,
    TaskContext,
    check_names,
    fill_lengths,
    make_tasks,
)
from ultralong_hf.recipes.schema import TASK_FAMILIES


def test_recipes_know_the_names_of_all_families():
    assert set(TASK_FAMILIES) == set(FAMILIES)


def test_names_are_kept_once_in_their_order():
    assert check_names(["perplexity", "needle", "perplexity"]) == ["perplexity", "needle"]
    assert check_names("ruler/vt") == ["ruler/vt"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rular", "'rular' is no task. Nearest: 'ruler'; there are needle, passkey, distractors, ruler"),
        ("ruler/niah_singel_1", "Nearest: 'ruler/niah_single_1'"),
        ("needle/x", "'needle/x' is no task. Nearest: 'needle'"),
        ("ruler/", "'ruler/' is no task"),
    ],
)
def test_an_unknown_name_lists_the_nearest(name, message):
    with pytest.raises(EvaluationError) as caught:
        check_names(["needle", name])
    assert message in str(caught.value)


def test_only_some_tasks_need_lengths():
    assert fill_lengths(["lveval", "ruler/vt"])
    assert not fill_lengths(["lveval", "infinitebench/passkey", "standard"])


def test_a_family_and_one_of_its_tasks_make_each_task_once(tokenizer, documents):
    context = TaskContext(tokenizer=tokenizer, style="plain", lengths=[500], depths=[50], haystack=documents)
    tasks = make_tasks(["needle", "ruler/vt", "ruler/fwe", "ruler/vt", "perplexity"], context)
    assert [task.name for task in tasks] == ["needle", "ruler/vt", "ruler/fwe", "perplexity"]
    assert [isinstance(task, Task) for task in tasks] == [True, True, True, False]
    assert [isinstance(task, Measure) for task in tasks] == [False, False, False, True]
