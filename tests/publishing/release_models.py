"""Model folders with what training leaves beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast, set_seed

LEFT_BEHIND = (
    "training_args.bin",
    "optimizer.pt",
    "optimizer.safetensors",
    "adapter_model.safetensors",
    "trainer_state.json",
    "modeling_own.py",
)


def make_model(folder: Path, *, seed: int = 0, shards: bool = False, **changes: Any) -> Path:
    """A Llama with 2 layers whose RoPE is stretched to 512 tokens, and a trainer's files."""
    rope = {
        "rope_type": "llama3",
        "rope_theta": 10_000.0,
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 128,
    }
    keys = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "rope_parameters": rope,
    }
    set_seed(seed)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**(keys | changes)))
    model.config.use_cache = False  # as a trainer leaves it
    model.save_pretrained(folder, **({"max_shard_size": "16KB"} if shards else {}))
    save_tokenizer(folder)
    for name in LEFT_BEHIND:
        (folder / name).write_bytes(b"x")
    (folder / "README.md").write_text("a trainer's card")
    (folder / "checkpoint-5").mkdir()
    (folder / "checkpoint-5" / "model.safetensors").write_bytes(b"x")
    return folder


def save_tokenizer(folder: Path) -> None:
    """Words of one letter, a chat template, and a limit that training never raised."""
    vocabulary = {"[PAD]": 0, "<s>": 1, "</s>": 2, "?": 3, "a": 4, "b": 5}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(vocabulary, unk_token="?")),
        unk_token="?",
        eos_token="</s>",
        model_max_length=128,
    )
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    tokenizer.save_pretrained(folder)


def write_json(path: Path, keys: dict[str, Any]) -> None:
    path.write_text(json.dumps(keys))


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def make_base(folder: Path, card: str, **files: str) -> Path:
    """A base model's folder with a card whose metadata are `card`, and files such as LICENSE."""
    folder.mkdir(parents=True)
    write_json(folder / "config.json", {"model_type": "llama"})
    (folder / "README.md").write_text(f"---\n{card}\n---\n# base\n")
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder
