"""The probe answers as one prompt a question would."""

import random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ultralong_hf.ablation.probe import answered, build_text, recall_by_text
from ultralong_hf.evaluation.haystack import build_haystack
from ultralong_hf.lab.base import base_model_path
from ultralong_hf.lab.corpus import held_out_documents


@pytest.fixture(scope="module")
def lab():
    model = AutoModelForCausalLM.from_pretrained(base_model_path()).eval()
    tokenizer = AutoTokenizer.from_pretrained(base_model_path())
    return model, tokenizer, build_haystack(held_out_documents(), tokenizer, 20_000)


def texts(lab, count, length=240, facts=5):
    _, tokenizer, haystack = lab
    return [
        build_text(tokenizer, haystack, length=length, facts=facts, rng=random.Random(number))
        for number in range(count)
    ]


def greedy_hits(model, text):
    """One prompt a question, token by token."""
    hits = []
    for question in text.questions:
        ids = [*text.ids, *question.asked]
        for _ in question.answer:
            with torch.inference_mode():
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        hits.append(ids[-len(question.answer) :] == list(question.answer))
    return hits


def test_answers_are_those_of_greedy_decoding_a_prompt_a_question(lab):
    model = lab[0]
    checked = []
    for text in texts(lab, 8):
        expected = greedy_hits(model, text)
        assert answered(model, text) == expected
        checked += expected
    assert 0 < sum(checked) < len(checked)  # both answers occur, so both were compared


def test_a_text_holds_every_fact_and_fits_its_length(lab):
    tokenizer = lab[1]
    for text in texts(lab, 5):
        decoded = tokenizer.decode(text.ids)
        longest = max(len(q.asked) + len(q.answer) for q in text.questions)
        assert len(text.ids) + longest <= 240
        assert len(text.ids) > 200
        for question in text.questions:
            asked = tokenizer.decode(question.asked).strip()
            statement = asked.split("? ")[1] + tokenizer.decode(question.answer)
            assert statement in decoded
    depths = [q.depth for q in texts(lab, 1)[0].questions]
    assert depths == sorted(depths)


def test_texts_hang_on_seed_and_length_alone(lab):
    model, tokenizer, haystack = lab
    options = {"length": 200, "facts": 4, "texts": 3}
    first = recall_by_text(model, tokenizer, haystack, seed=1, **options)
    assert first == recall_by_text(model, tokenizer, haystack, seed=1, **options)
    fewer = recall_by_text(model, tokenizer, haystack, seed=1, **{**options, "texts": 2})
    assert first[:2] == fewer
    assert sum(text["hits"] for text in first) > 0
