from __future__ import annotations

import pytest
import torch
from tiny_tokenizers import byte_tokenizer, ids_of
from transformers import LlamaConfig, LlamaForCausalLM

from ultralong_hf.data.separators import (
    KINDS,
    Separator,
    add_token_embeddings,
    parse_separator,
    resolve_separator,
)
from ultralong_hf.errors import DocumentError


def test_a_plain_text_is_several_ordinary_tokens():
    tokenizer = byte_tokenizer()
    ids = resolve_separator(parse_separator("<s>"), tokenizer).ids
    assert list(ids) == ids_of("<s>", tokenizer)
    assert [tokenizer.decode([i]) for i in ids] == ["<", "s", ">"]


@pytest.mark.parametrize(
    ("spec", "tokens"),
    [
        ({"kind": "eos"}, ["</s>"]),
        ({"kind": "bos"}, ["<bos>"]),
        ({"kind": "special", "value": "<|eot_id|>"}, ["<|eot_id|>"]),
        ({"kind": "masked"}, ["</s>"]),
        ({"kind": "masked", "value": "<|eot_id|>"}, ["<|eot_id|>"]),
        ({"kind": "none"}, []),
        (None, []),
    ],
)
def test_each_kind_gives_its_tokens(spec, tokens):
    tokenizer = byte_tokenizer()
    ids = list(resolve_separator(parse_separator(spec), tokenizer).ids)
    assert tokenizer.convert_ids_to_tokens(ids) == tokens


def test_a_text_that_is_a_special_token_is_spelled_out_with_a_warning():
    tokenizer = byte_tokenizer(["</s>", "<s>"])
    with pytest.warns(UserWarning, match="special token"):
        ids = resolve_separator(parse_separator("<s>"), tokenizer).ids
    assert [tokenizer.decode([i]) for i in ids] == ["<", "s", ">"]
    special = resolve_separator(Separator("special", "<s>"), tokenizer).ids
    assert special == (tokenizer.convert_tokens_to_ids("<s>"),)


def test_a_new_token_goes_into_a_copy_of_the_tokenizer_once():
    tokenizer = byte_tokenizer()
    resolved = resolve_separator(Separator("new_token", "<doc>"), tokenizer)
    assert resolved.ids == (259,)
    assert resolved.is_new
    assert "<doc>" not in tokenizer.get_vocab()
    assert resolved.tokenizer.convert_tokens_to_ids("<doc>") == 259
    assert resolve_separator(Separator("new_token", "<doc>"), resolved.tokenizer).ids == (259,)


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ({"kind": "eof"}, "'eof' is not known"),
        ({"kind": "text"}, "needs a text"),
        ({"kind": "text", "value": ""}, "needs a text"),
        ({"kind": "eos", "value": "x"}, "takes no value"),
        ({"kind": "eos", "token": "x"}, "unknown keys"),
        (7, "separator is 7"),
        ("", "needs a text"),
    ],
)
def test_refuses_what_is_no_separator(spec, fault):
    with pytest.raises(DocumentError, match=fault):
        parse_separator(spec)


def test_refuses_tokens_that_the_tokenizer_lacks():
    tokenizer = byte_tokenizer()
    with pytest.raises(DocumentError, match=r"'<x>' is no token.*new_token"):
        resolve_separator(Separator("special", "<x>"), tokenizer)
    tokenizer.bos_token = None
    with pytest.raises(DocumentError, match="no bos_token"):
        resolve_separator(Separator("bos"), tokenizer)


def test_only_the_masked_kind_masks():
    masking = [
        kind for kind in KINDS if Separator(kind, "x" if kind in _WITH_VALUE else None).masks_documents
    ]
    assert masking == ["masked"]


_WITH_VALUE = ("text", "special", "new_token")


def _model(vocabulary: int, tied: bool) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=tied,
    )
    return LlamaForCausalLM(config)


@pytest.mark.parametrize("tied", [True, False])
def test_a_new_token_begins_as_the_mean_of_all_others(tied):
    model = _model(5, tied)
    before = [
        m.weight.detach().clone() for m in (model.get_input_embeddings(), model.get_output_embeddings())
    ]
    assert add_token_embeddings(model, [5]) is model
    tables = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    assert (tables[0].data_ptr() == tables[1].data_ptr()) == tied
    assert model.config.vocab_size == 6
    for table, old in zip(tables, before, strict=True):
        assert table.shape == (6, 8)
        torch.testing.assert_close(table[:5], old, rtol=0, atol=0)
        torch.testing.assert_close(table[5], old.mean(dim=0))
    assert model(torch.tensor([[5, 1]])).logits.shape == (1, 2, 6)


def test_padded_embeddings_keep_their_size_and_the_padding_is_not_averaged():
    model = _model(8, tied=False)
    mean = model.get_input_embeddings().weight[:5].mean(dim=0).detach()
    add_token_embeddings(model, [5])
    assert model.get_input_embeddings().weight.shape == (8, 8)
    torch.testing.assert_close(model.get_input_embeddings().weight[5], mean)
