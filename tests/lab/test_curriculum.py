import random
from itertools import islice

import pytest

from ultralong_hf.lab.base import base_model_path
from ultralong_hf.lab.curriculum import (
    IGNORED,
    OTHER_LABELS,
    STAGES,
    copy_row,
    encode_with_answers,
    training_rows,
)


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base_model_path())


def test_copy_row_repeats_its_segment_and_learns_only_the_repeats():
    row = copy_row(random.Random(0), 64, range(10, 500))
    ids, labels = row["input_ids"], row["labels"]
    segment = labels.count(IGNORED)
    assert 8 <= segment <= 32
    assert labels[segment:] == ids[segment:]
    assert all(ids[i] == ids[i - segment] for i in range(segment, 64))


def test_answers_are_the_values_that_stood_before(tokenizer):
    text = "The badge number of the old inn is 12345. It is 67890? The badge number is 12345."
    ids, is_answer = encode_with_answers(text, tokenizer)
    answered = tokenizer.decode([i for i, answer in zip(ids, is_answer, strict=True) if answer])
    assert answered == " 12345"


def test_rows_of_every_stage_have_their_length(tokenizer):
    for stage in STAGES:
        for row in islice(training_rows(stage, tokenizer, 0), 30):
            assert len(row["input_ids"]) == len(row["labels"]) == stage.length
            pairs = zip(row["input_ids"], row["labels"], strict=True)
            assert all(label in (token, IGNORED) for token, label in pairs)


def test_recall_rows_learn_answers_and_a_share_of_the_rest(tokenizer):
    stage = next(stage for stage in STAGES if stage.name == "recall")
    rows = list(islice(training_rows(stage, tokenizer, 0), 200))
    learned = sum(label != IGNORED for row in rows for label in row["labels"]) / (200 * stage.length)
    assert OTHER_LABELS < learned < 0.6


def test_rows_depend_on_stage_and_seed(tokenizer):
    stage = STAGES[0]
    first, same, other = (next(training_rows(stage, tokenizer, seed)) for seed in (0, 0, 1))
    assert first == same
    assert first != other
