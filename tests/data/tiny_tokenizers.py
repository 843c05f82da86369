"""Tokenizers made in the test: byte-level BPE, small enough for the head; and one of each known kind."""

from __future__ import annotations

import argparse
import functools
import inspect
import json
from collections.abc import Callable, Iterable

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

SPECIALS = ["</s>", "<bos>", "<|eot_id|>"]

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA_3_SPLIT = _WORDS + r"\p{N}{1,3}" + _REST
QWEN_2_SPLIT = _WORDS + r"\p{N}" + _REST


def byte_tokenizer(specials: list[str] = SPECIALS) -> PreTrainedTokenizerFast:
    """A token a byte and no merges: ids 0 to 255 in the order of the byte alphabet, then the specials."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    return _wrap(backend, specials)


def merging_tokenizer(corpus: list[str], vocabulary: int = 400) -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on the corpus."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(corpus, trainer)
    return _wrap(backend, SPECIALS)


def _wrap(backend: Tokenizer, specials: list[str]) -> PreTrainedTokenizerFast:
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=specials[0],
        bos_token=specials[1],
        extra_special_tokens=specials[2:],
    )
    bos = (specials[1], tokenizer.convert_tokens_to_ids(specials[1]))
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{specials[1]} $A", special_tokens=[bos]
    )
    return tokenizer


def ids_of(text: str, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The reference: transformers' own call, as plain text and without special tokens."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids


def _corpus() -> list[str]:
    foreign = "Grüße aus Zürich, çà et là. Привет, мир. 你好，世界。こんにちは 😀👍🏽 naïve café ½ ² — … €\n"
    return [inspect.getsource(argparse), foreign * 20]


def _byte_level(
    split: str | None = None,
    *,
    normalizer: normalizers.Normalizer | None = None,
    ignore_merges: bool = False,
    use_regex: bool = True,
    added: Iterable[AddedToken] = (),
) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer:
        backend.normalizer = normalizer
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex and split is None)
    backend.pre_tokenizer = byte_level
    if split:
        pieces = [pre_tokenizers.Split(Regex(split), "isolated", False), byte_level]
        backend.pre_tokenizer = pre_tokenizers.Sequence(pieces)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        _corpus(), trainers.BpeTrainer(vocab_size=1500, initial_alphabet=alphabet, show_progress=False)
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    backend.add_tokens(list(added))
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=SPECIALS[0])


def _sentencepiece(
    normalizer: normalizers.Normalizer, pre_tokenizer: pre_tokenizers.PreTokenizer | None = None
) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.normalizer = normalizer
    if pre_tokenizer:
        backend.pre_tokenizer = pre_tokenizer
    alphabet = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=["<unk>", "<s>", "</s>", *alphabet],
        max_token_length=12,
        show_progress=False,
    )
    backend.train_from_iterator([line for text in _corpus() for line in text.splitlines()], trainer)
    state = json.loads(backend.to_str())  # bytes are tokens of the model, not added ones
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] not in alphabet]
    backend = Tokenizer.from_str(json.dumps(state))
    backend.decoder = decoders.ByteFallback()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", bos_token="<s>")


def _unigram() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=600, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator(_corpus(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")


def _word_piece() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=800, special_tokens=["[UNK]", "[SEP]"], show_progress=False
    )
    backend.train_from_iterator(_corpus(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", sep_token="[SEP]")


_MARKS = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
KINDS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "GPT-2": _byte_level,
    "Llama 3": lambda: _byte_level(LLAMA_3_SPLIT, ignore_merges=True),
    "Qwen 2": lambda: _byte_level(QWEN_2_SPLIT, normalizer=normalizers.NFC(), added=[AddedToken("<tool>")]),
    "Llama 2": lambda: _sentencepiece(normalizers.Sequence(_MARKS)),
    "Mistral": lambda: _sentencepiece(
        normalizers.Sequence([]), pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    ),
    "Gemma": lambda: _sentencepiece(
        normalizers.Replace(" ", "▁"), pre_tokenizers.Split(" ", "merged_with_previous")
    ),
    "Unigram": _unigram,
    "WordPiece": _word_piece,
    "own regex": lambda: _byte_level(r"\p{L}+|\s+|[^\p{L}\s]+"),
    "lower case": lambda: _byte_level(normalizer=normalizers.Lowercase()),
    "no words": lambda: _byte_level(use_regex=False),
    "whole words": lambda: _byte_level(added=[AddedToken("bar", single_word=True)]),
}
"""Small tokenizers built as those of known models, and some that gigatoken does not know or gets wrong."""


@functools.cache
def tokenizer_of_kind(kind: str) -> PreTrainedTokenizerFast:
    """Made once a test run; not to be changed."""
    return KINDS[kind]()
