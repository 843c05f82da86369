"""Which families can be stretched, and what is read off their configs."""

import pytest
from rope_models import llama_31_config, tiny_configs
from transformers import (
    BloomConfig,
    FalconConfig,
    Gemma3Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    MptConfig,
    OPTConfig,
    Phi3Config,
    Qwen2Config,
    Qwen2VLConfig,
)

from ultralong_hf.errors import RopeError
from ultralong_hf.rope.families import FAMILIES, REFUSED, find_family, read_rope, sliding_window_of


def test_every_family_of_the_table_but_the_multimodal_one_is_built_in_these_tests():
    assert set(tiny_configs()) | {"gemma3"} == set(FAMILIES)
    assert not set(FAMILIES) & set(REFUSED)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (BloomConfig(), "'bloom' has no RoPE: its attention falls off with distance"),
        (MptConfig(), "ALiBi"),
        (FalconConfig(alibi=True), "'falcon' has no RoPE: .*ALiBi"),
        (FalconConfig(), "'falcon' is not among the families"),
        (GPT2Config(), "one vector a position"),
        (OPTConfig(), "one vector a position"),
        (Qwen2VLConfig(vision_config={}, text_config={}), "m-rope"),
        (
            Qwen2Config(
                rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
            ),
            "m-rope",
        ),
        (
            Phi3Config(
                max_position_embeddings=131_072,
                rope_parameters={
                    "rope_type": "longrope",
                    "rope_theta": 1e4,
                    "short_factor": [1.0] * 48,
                    "long_factor": [2.0] * 48,
                    "factor": 32.0,
                },
            ),
            "already has longrope: .* Extend the model it was made from",
        ),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_a_family_that_cannot_be_stretched_is_refused_with_the_reason(config, reason):
    with pytest.raises(RopeError, match=reason):
        read_rope(config)


def test_an_unknown_family_is_told_which_are_known():
    with pytest.raises(RopeError, match=r"model_type 'nope' is not among .*llama, mistral, qwen2"):
        find_family({"model_type": "nope"})
    with pytest.raises(RopeError, match="model_type None"):
        find_family({})


def test_llama_3_1_was_8192_tokens_long_before_its_own_scaling():
    rope = read_rope(llama_31_config())
    assert (rope.theta, rope.rotary_dim, rope.window, rope.original_length) == (5e5, 128, 131_072, 8192)
    assert not rope.extended


def test_a_plain_window_is_its_own_original_length():
    for name, config in tiny_configs().items():
        rope = read_rope(config)
        assert (rope.window, rope.original_length, rope.extended) == (256, 256, False), name


@pytest.mark.parametrize(
    ("name", "rotary_dim"), [("llama", 16), ("qwen3", 24), ("phi", 8), ("phi3", 16), ("gemma3_text", 16)]
)
def test_rotary_dim_is_the_turned_part_of_a_head(name, rotary_dim):
    """Phi turns half of a head; Qwen 3 and Gemma 3 have heads of their own size."""
    assert read_rope(tiny_configs()[name]).rotary_dim == rotary_dim


def test_a_multimodal_gemma_is_read_through_its_language_model():
    text = Gemma3TextConfig(
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        }
    )
    rope = read_rope(Gemma3Config(text_config=text.to_dict(), vision_config={}))
    assert (rope.theta, rope.window, rope.original_length) == (1e6, 131_072, 32_768)


def test_linear_scaling_alone_does_not_tell_the_original_length():
    parameters = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}
    assert read_rope(LlamaConfig(rope_parameters=parameters)).original_length is None


@pytest.mark.parametrize(
    ("config", "window"),
    [
        (MistralConfig(), 4096),
        (MistralConfig(sliding_window=None), None),
        (Qwen2Config(), None),
        (Qwen2Config(use_sliding_window=True, sliding_window=4096), 4096),
        (Gemma3TextConfig(), None),
    ],
)
def test_a_sliding_window_counts_where_it_hides_tokens_from_stretched_layers(config, window):
    assert sliding_window_of(config, FAMILIES[config.model_type]) == window
