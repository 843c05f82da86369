import pytest

from ultralong_hf.data.tokenization import load_tokenizer
from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.distractors import distractors_tasks, taken_value
from ultralong_hf.evaluation.tasks import TaskContext
from ultralong_hf.lab.base import base_model_path

TEXT = "\n".join(f"line {n}: the boats of the harbour lie at the quay until the tide" for n in range(300))


@pytest.fixture(scope="module")
def task():
    context = TaskContext(
        tokenizer=load_tokenizer(str(base_model_path())), style="chat", lengths=[300, 600], haystack=[TEXT]
    )
    return distractors_tasks(None, context)[0]


def test_prompts_fill_their_length_and_hold_the_fact_among_its_distractors(task):
    keys = list(task.keys([300, 600], 3))
    assert len(keys) == 6
    for key in keys:
        sample = task.build(key)
        assert key[1] - 60 < len(sample.ids) + sample.max_new_tokens <= key[1]
        text = task.context.tokenizer.decode(sample.ids)
        assert all(value in text for value in (*sample.references, *sample.details["distractors"]))
        assert len(set(sample.details["distractors"])) == 6
        assert text.endswith(" is")
    again = task.build(keys[0])
    assert again.ids.tolist() == task.build(keys[0]).ids.tolist()
    with pytest.raises(EvaluationError, match="60 tokens are too few for the task 'distractors'"):
        task.build(("distractors", 60, None, 0))


@pytest.mark.parametrize(
    ("answer", "taken", "score"),
    [
        (" 11111.", "11111", 1.0),
        ("It is 22222, not 11111.", "22222", 0.0),
        ("11111 or 22222", "11111", 1.0),
        ("99999", None, 0.0),
        ("", None, 0.0),
    ],
)
def test_the_first_value_of_the_answer_counts(task, answer, taken, score):
    record = {"references": ["11111"], "details": {"distractors": ["22222", "33333"]}}
    assert taken_value(record, answer) == taken
    assert task.score(record, answer) == score


def test_what_wrong_answers_held_is_told(task):
    record = {"references": ["11111"], "details": {"distractors": ["22222"]}}
    answers = ["11111", "22222", "22222", "none"]
    records = [{**record, "answer": text, "score": task.score(record, text)} for text in answers]
    assert task.notes(records) == [
        "distractors: of 4 answers 3 were wrong: 2 a distractor's value; 1 none of the text's values."
    ]
    assert task.notes(records[:1]) == task.notes([]) == []
