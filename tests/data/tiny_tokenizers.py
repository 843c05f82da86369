"""Tokenizers made in the test: byte-level BPE, small enough for the head."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIALS = ["</s>", "<bos>", "<|eot_id|>"]


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
