"""Attention mass: the sums of eager attention's own weights, and the passages that they name."""

import numpy as np
import pytest
import torch
from chat_models import BOOK, NOTES, ask, make_engine, make_model, question

from ultralong_hf.chat import attention
from ultralong_hf.chat.attention import attention_mass, strongest_passages
from ultralong_hf.chat.documents import Document


def _held(engine):
    return next(held for held in engine.pool._held)


def _by_eager(model, ids, answer):
    """Mean over layers, heads and the rows that chose the answer's tokens."""
    whole = torch.from_numpy(np.concatenate([ids, np.asarray(answer[:-1])]).astype(np.int64))[None]
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            weights = model(whole, output_attentions=True).attentions
    finally:
        model.set_attn_implementation(before)
    rows = torch.stack([layer[0, :, len(ids) - 1 :, : len(ids)] for layer in weights])
    return rows.double().mean(dim=(0, 1, 2)).numpy()


@pytest.mark.parametrize("row_bytes", [1, 40_000, attention.ROW_BYTES])
@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_mass_is_that_of_eager_attention_however_rows_are_split(monkeypatch, row_bytes, key_heads):
    monkeypatch.setattr(attention, "ROW_BYTES", row_bytes)
    engine = make_engine(make_model(num_key_value_heads=key_heads))
    reply = ask(engine)[1]
    prompt = engine.write(question())
    mass = attention_mass(engine.model, _held(engine), prompt, reply.ids)
    np.testing.assert_allclose(mass, _by_eager(engine.model, prompt.ids, reply.ids), atol=1e-6)


def test_watching_leaves_model_and_cache_as_they_were():
    engine = make_engine()
    plain = ask(engine, max_new_tokens=8)[1]
    attention_before = engine.model.config._attn_implementation
    watched = ask(engine, max_new_tokens=8, passages=3)[1]
    assert watched.passages
    assert engine.model.config._attn_implementation == attention_before
    assert watched.ids == plain.ids
    assert _held(engine).length == watched.prompt_tokens + len(watched.ids) - 1
    again = ask(engine, max_new_tokens=8)[1]
    assert again.ids == plain.ids
    assert again.reused_tokens == again.prompt_tokens - 1


def test_a_model_that_keeps_no_keys_gives_no_passages():
    engine = make_engine(make_model(sliding_window=64))
    assert ask(engine, passages=3)[1].passages == ()


def test_the_strongest_passage_is_where_the_mass_is():
    engine = make_engine()
    documents = (BOOK, NOTES)
    prompt = engine.write(question(documents=documents))
    encoded = [engine.encode("mine", document) for document in documents]
    _, first, last = prompt.spans[1]
    mass = np.full(len(prompt.ids), 1e-4)
    middle = (first + last) // 2
    mass[middle : middle + 5] = 0.1
    passages = strongest_passages(mass, engine.tokenizer, prompt, encoded, count=2)
    assert passages[0].document == 1
    start, end = encoded[1].characters(engine.tokenizer, middle - first, middle - first + 5)
    assert passages[0].start <= start < end <= passages[0].end
    assert 0.8 < passages[0].share <= 1
    assert len(passages) == 1, "nothing else stands out"


def test_passages_are_whole_lines_and_none_lies_over_another():
    engine = make_engine()
    text = "".join(f"Line {number} of this document says something.\n" for number in range(60))
    document = Document("lines.txt", text, "text")
    passages = ask(engine, question(documents=(document,)), passages=3)[1].passages
    assert len(passages) == 3
    for passage in passages:
        assert passage.start == 0 or text[passage.start - 1] == "\n"
        assert text[passage.end] == "\n"
    assert [passage.share for passage in passages] == sorted((p.share for p in passages), reverse=True)


def test_without_documents_there_are_no_passages():
    assert ask(make_engine(), question(documents=()), passages=3)[1].passages == ()
