import json
import random

import pytest
import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIALS = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
ROW = 128


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A byte is a token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*alphabet, *SPECIALS])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        additional_special_tokens=SPECIALS[2:],
        chat_template=TEMPLATE,
        model_max_length=32,
    )


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory):
    """A random Llama of two layers that reads 32 tokens."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def documents(tmp_path_factory):
    rng = random.Random(0)
    words = ["sea", "harbour", "boat", "the", "of", "net", "gull", "a"]
    path = tmp_path_factory.mktemp("documents") / "documents.jsonl"
    texts = [" ".join(rng.choices(words, k=rng.randrange(2, 20))) for _ in range(80)]
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return path


@pytest.fixture
def recipe_file(tmp_path, base_folder, documents):
    """A recipe of 6 steps of one row of 128 tokens each, 4 times the base's window."""
    chat = tmp_path / "chat.jsonl"
    rows = [{"prompt": f"how many nets {n}?", "completion": f"{n} nets"} for n in range(12)]
    chat.write_text("\n".join(map(json.dumps, [*rows, {"prompt": "long " * 50, "completion": "yes"}])))
    common = {
        "learning_rate": 1e-2,
        "per_device_train_batch_size": 1,
        "logging_steps": 1,
        "bf16": False,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
    }
    recipe = {
        "model": {"name_or_path": str(base_folder), "dtype": "float32"},
        "data": {
            "sources": [str(documents)],
            "target_length": ROW,
            "output_dir": str(tmp_path / "store"),
            "eval_rows": 3,
        },
        "cpt": {**common, "output_dir": str(tmp_path / "cpt"), "max_steps": 6, "save_steps": 2},
        "instruct": {"sources": [str(chat)], "max_length": 64},
        "sft": {**common, "output_dir": str(tmp_path / "sft"), "max_steps": 2, "save_strategy": "no"},
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path
