"""Tiny models of the families, and folders of them, for the tests of RoPE."""

from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Olmo3Config,
    OlmoConfig,
    Phi3Config,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
)

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LAYER_TYPES = ["sliding_attention", "full_attention"]


def tiny_configs():
    """A config a family, by model_type; windows of 256 tokens."""
    return {
        "llama": LlamaConfig(**SIZES, rope_parameters={"rope_type": "default", "rope_theta": 10_000.0}),
        "mistral": MistralConfig(**SIZES, sliding_window=None),
        "qwen2": Qwen2Config(**SIZES),
        "qwen3": Qwen3Config(**SIZES, head_dim=24),
        "phi": PhiConfig(**SIZES),
        "phi3": Phi3Config(**SIZES, original_max_position_embeddings=256),
        "gemma3_text": Gemma3TextConfig(**SIZES, head_dim=16, sliding_window=32, layer_types=LAYER_TYPES),
        "granite": GraniteConfig(**SIZES),
        "olmo": OlmoConfig(**SIZES),
        "olmo2": Olmo2Config(**SIZES),
        "olmo3": Olmo3Config(**SIZES, sliding_window=32, layer_types=LAYER_TYPES),
    }


def tiny_model(config):
    """An untrained model in evaluation mode, the same for the same config."""
    import torch

    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def llama_31_config(**changes):
    """Llama-3.1-8B's config, as far as RoPE reads it."""
    parameters = {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    return LlamaConfig(
        **{
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "vocab_size": 128_256,
            "max_position_embeddings": 131_072,
            "rope_parameters": parameters,
            **changes,
        }
    )
