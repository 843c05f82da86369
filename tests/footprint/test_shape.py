"""The shape of a config, and its weights, against the model class."""

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from ultralong_hf.footprint import model_shape

SMALL = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
FAMILIES = {
    "Llama": {"head_dim": 24},
    "Mistral": {"sliding_window": 16},
    "Qwen2": {},
    "Qwen3": {"head_dim": 32, "tie_word_embeddings": True},
    "Mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "Qwen2Moe": {**EXPERTS, "shared_expert_intermediate_size": 80, "decoder_sparse_step": 2},
    "Qwen3Moe": {**EXPERTS, "head_dim": 16, "mlp_only_layers": [1]},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_those_of_the_model_class(family):
    config = getattr(transformers, f"{family}Config")(**SMALL, **FAMILIES[family])
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert model_shape(config).parameters == pytest.approx(count, rel=0.002)
    if family not in ("Mixtral", "Qwen2Moe", "Qwen3Moe"):
        assert model_shape(config).parameters == count


def test_a_token_is_multiplied_with_its_own_experts_alone():
    config = transformers.Qwen3MoeConfig(**SMALL, **FAMILIES["Qwen3Moe"])
    shape = model_shape(config)
    assert (shape.experts, shape.dense_layers, shape.mlp_width) == (8, 1, 96)
    attention = 4 * 2 * 64 * (4 * 16 + 2 * 16)
    experts = 3 * (2 * 3 * 64 * 48 + 64 * 8)
    assert shape.multiplied_parameters == attention + experts + 3 * 64 * 96 + 320 * 64


def test_windows_cut_the_pairs_of_tokens_that_see_each_other():
    full = model_shape(transformers.LlamaConfig(**SMALL))
    windowed = model_shape(transformers.MistralConfig(**SMALL, sliding_window=16))
    assert full.attended(100) == 4 * 100 * 100 / 2
    assert windowed.attended(100) == 4 * (16 * 100 - 16 * 16 / 2)
    assert windowed.attended(16) == full.attended(16)


def test_gemmas_layers_are_windowed_but_for_each_sixth():
    config = transformers.Gemma3TextConfig(**{**SMALL, "num_hidden_layers": 6}, sliding_window=16)
    assert model_shape(config).windows == (16, 16, 16, 16, 16, None)
