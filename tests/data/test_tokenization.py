from __future__ import annotations

import random

import numpy as np
import pytest
from tiny_tokenizers import KINDS, byte_tokenizer, ids_of, merging_tokenizer, tokenizer_of_kind
from tokenizers import Tokenizer, decoders, models, normalizers, trainers
from transformers import PreTrainedTokenizerFast

from ultralong_hf.data.tokenization import (
    PlainTextEncoder,
    load_tokenizer,
    tokenizer_digest,
)
from ultralong_hf.errors import ModelError

TEXT = "Grüße aus Zürich,\n\n  def f(x): return x+1  # 你好 \t 😀 <|eot_id|></s> the end\r\n"


def _metaspace_tokenizer() -> PreTrainedTokenizerFast:
    """As Llama 2: no words, a normalizer that puts a mark in front of the text and in place of spaces."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    alphabet = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=["<unk>", *alphabet], show_progress=False)
    backend.train_from_iterator([TEXT * 3], trainer)
    backend.decoder = decoders.ByteFallback()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


@pytest.mark.parametrize("make", [byte_tokenizer, lambda: merging_tokenizer([TEXT]), _metaspace_tokenizer])
def test_ids_are_those_of_transformers_for_plain_text(make):
    tokenizer = make()
    assert PlainTextEncoder(tokenizer).encode(TEXT).tolist() == ids_of(TEXT, tokenizer)


def test_special_tokens_in_a_document_are_spelled_out():
    tokenizer = byte_tokenizer()
    special = {tokenizer.convert_tokens_to_ids(t) for t in ("<|eot_id|>", "</s>", "<bos>")}
    assert special <= set(tokenizer(TEXT).input_ids)  # by default they are taken for the tokens
    ids = PlainTextEncoder(tokenizer).encode(TEXT)
    assert not special & set(ids.tolist())
    assert tokenizer.decode(ids) == TEXT


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_for_plain_text_has_all_the_tokens_of_the_callers(kind):
    own = tokenizer_of_kind(kind).backend_tokenizer
    own.encode_special_tokens = False  # a call with split_special_tokens leaves it on
    before = own.to_str()
    backend = PlainTextEncoder(tokenizer_of_kind(kind))._backend
    assert backend.get_vocab() == own.get_vocab()
    assert repr(backend.get_added_tokens_decoder()) == repr(own.get_added_tokens_decoder())
    assert (backend.encode_special_tokens, own.encode_special_tokens) == (True, False)
    assert own.to_str() == before


def test_many_short_texts_at_once_have_the_ids_of_each():
    encoder = PlainTextEncoder(tokenizer_of_kind("Llama 3"))
    texts = ["", TEXT, "a", "<|eot_id|> b"]
    assert [ids.tolist() for ids in encoder.encode_short(texts)] == [
        encoder.encode(t).tolist() for t in texts
    ]


def test_truncation_and_padding_of_a_tokenizer_do_not_cut_a_document():
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=500)
    assert len(PlainTextEncoder(tokenizer).encode("abcdefgh")) == 8
    assert tokenizer.backend_tokenizer.truncation is not None  # the caller's own is left as it was


@pytest.mark.parametrize("make", [byte_tokenizer, lambda: merging_tokenizer([TEXT]), _metaspace_tokenizer])
def test_windows_of_a_long_document_give_the_ids_of_the_whole(make, monkeypatch):
    tokenizer = make()
    rng = random.Random(0)
    pieces = [TEXT, "word ", "  \n", "a" * 40, "😀", "naïve ", "12345"]
    text = "".join(rng.choice(pieces) for _ in range(6000))
    encoder = PlainTextEncoder(tokenizer)
    whole = encoder._backend.encode(text, add_special_tokens=False).ids
    sizes = []
    encode_places = encoder._encode_places
    monkeypatch.setattr(
        encoder, "_encode_places", lambda t, start, size: sizes.append(size) or encode_places(t, start, size)
    )
    assert encoder._encode_windows(text, 4000, 1000).tolist() == whole
    assert encoder._encode_windows(text, 4003, 1501).tolist() == whole
    assert len(sizes) > 10
    assert set(sizes) == {4000, 4003}  # neighbours agreed at once, so that none had to grow


@pytest.mark.parametrize("text", ["a" * 50_001, " " * 50_001, "ab" * 20_000 + "\n" + "c" * 9_999])
def test_one_endless_word_gives_the_ids_of_the_whole(text):
    encoder = PlainTextEncoder(merging_tokenizer(["aaa ab abab    ", "aaaaaaa"], vocabulary=262))
    whole = encoder._backend.encode(text, add_special_tokens=False).ids
    assert encoder._encode_windows(text, 4001, 1000).tolist() == whole


def test_ids_take_two_bytes_where_they_fit():
    assert PlainTextEncoder(byte_tokenizer()).dtype == np.uint16
    vocabulary = {f"t{n}": n for n in range(2**16 + 1)}
    large = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocab=vocabulary, merges=[])))
    assert PlainTextEncoder(large).dtype == np.uint32


def test_the_digest_follows_what_decides_ids_and_nothing_else():
    tokenizer = byte_tokenizer()
    digest = tokenizer_digest(tokenizer)
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    assert tokenizer_digest(tokenizer) == digest
    tokenizer.add_tokens(["abc"])
    assert tokenizer_digest(tokenizer) != digest
    assert tokenizer_digest(merging_tokenizer([TEXT])) != digest


def test_refuses_a_tokenizer_that_is_not_there(tmp_path):
    with pytest.raises(ModelError, match="no tokenizer can be loaded"):
        load_tokenizer(tmp_path)


def test_loads_a_tokenizer_from_a_folder(tmp_path):
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    assert tokenizer_digest(load_tokenizer(tmp_path)) == tokenizer_digest(tokenizer)


def test_refuses_a_tokenizer_that_is_not_of_the_tokenizers_library():
    with pytest.raises(ModelError, match="is_fast is False"):
        load_tokenizer(object())
