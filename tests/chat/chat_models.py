"""A small tokenizer with a chat template, small random models, and engines over them."""

import threading

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
)

from ultralong_hf.chat.documents import Document
from ultralong_hf.chat.engine import Options, Question
from ultralong_hf.chat.engine_local import LocalEngine
from ultralong_hf.evaluation.engines import TransformersEngine

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
LINES = "The harbour office keeps the code. The room number of the old mill is 12345.\n"
BOOK = Document("book.txt", LINES * 20, "text")
NOTES = Document("notes.md", "Grass is green, there and back again.\n" * 10, "Markdown")
SHAPE = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "initializer_range": 0.3,
    "bos_token_id": 0,
    "eos_token_id": 1,
}


def make_tokenizer(template=TEMPLATE):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|bos|>", "<|end|>", "<|user|>", "<|assistant|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([LINES * 3], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|bos|>", eos_token="<|end|>", chat_template=template
    )


def make_model(seed=0, *, sliding_window=None, **shape):
    torch.manual_seed(seed)
    if sliding_window is None:
        return LlamaForCausalLM(LlamaConfig(**(SHAPE | shape))).eval()
    return MistralForCausalLM(MistralConfig(**(SHAPE | shape), sliding_window=sliding_window)).eval()


def make_engine(model=None, tokenizer=None, **options):
    base = TransformersEngine(model or make_model(), tokenizer or make_tokenizer())
    return LocalEngine(base, name="small", **({"cache_bytes": 10**8, "chunk": 128} | options))


def question(text="What is it?", *, session="mine", documents=(BOOK,), turns=()):
    return Question(session, tuple(documents), text, tuple(turns))


def ask(engine, asked=None, *, stop=None, **options):
    """(all events, the reply)."""
    options = Options(**({"max_new_tokens": 12, "passages": 0} | options))
    events = list(engine.ask(asked or question(), options, stop or threading.Event()))
    return events, events[-1]
