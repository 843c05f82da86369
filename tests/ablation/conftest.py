import json
import random

import pytest
import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WINDOW, ROW, STEPS = 64, 256, 6
BOS, EOS = "<|begin|>", "<|end|>"


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory):
    """A random Llama that reads 64 bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE(vocab={token: number for number, token in enumerate([*alphabet, BOS, EOS])}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS)
    fast.model_max_length = WINDOW
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=WINDOW,
        bos_token_id=fast.bos_token_id,
        eos_token_id=fast.eos_token_id,
    )
    folder = tmp_path_factory.mktemp("base")
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.fixture
def recipe_file(tmp_path, base_folder):
    """A recipe of 6 steps of one row of 256 bytes each, measured by needles and loss."""
    rng = random.Random(0)
    words = ["sea", "harbour", "boat", "the", "of", "net", "gull", "a"]
    documents = tmp_path / "documents.jsonl"
    texts = [" ".join(rng.choices(words, k=rng.randrange(2, 60))) for _ in range(40)]
    documents.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    recipe = {
        "model": {"name_or_path": str(base_folder), "dtype": "float32"},
        "data": {"sources": [str(documents)], "target_length": ROW, "workers": 1},
        "cpt": {
            "max_steps": STEPS,
            "learning_rate": 1e-2,
            "per_device_train_batch_size": 1,
            "bf16": False,
            "use_cpu": True,
            "report_to": "none",
            "disable_tqdm": True,
            "save_strategy": "no",
            "logging_strategy": "no",
        },
        "evaluation": {"tasks": ["needle", "perplexity"], "lengths": [ROW], "depths": [0, 100], "samples": 1},
    }
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path
