"""Each reader's rule against that reader's own figures: live for transformers 5, recorded for the others.

The figures of transformers 4 were printed by transformers 4.57.6 (LlamaConfig, ROPE_INIT_FUNCTIONS). vLLM's
temperature of 1.2772588722239782 for a factor of 16 is the one that vLLM issue 48621 reports.
"""

import math

import numpy as np
import pytest

from ultralong_hf.errors import RopeError
from ultralong_hf.rope.readers import READERS, compare_readers, read_as, with_class_defaults

YARN = {
    "rope_type": "yarn",
    "factor": 16.0,
    "original_max_position_embeddings": 8192,
    "beta_fast": 4.0,
    "beta_slow": 1.0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 16.0,
    "original_max_position_embeddings": 8192,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
SHAPE = {
    "model_type": "llama",
    "hidden_size": 512,
    "num_attention_heads": 32,
    "num_hidden_layers": 2,
    "max_position_embeddings": 131072,
}
LONGROPE = {
    "rope_type": "longrope",
    "long_factor": [1.0 + i for i in range(8)],
    "short_factor": [1.0] * 8,
}
PHI3 = {"model_type": "phi3", "pad_token_id": 0, "original_max_position_embeddings": 4096}
GEMMA3 = SHAPE | {"model_type": "gemma3_text", "head_dim": 16, "num_hidden_layers": 6}

# theta 500,000, 16 dimensions a head: eight pairs.
YARN_FREQUENCIES = [
    1.0,
    0.1939228,
    0.03760603,
    0.007292665,
    7.513009e-4,
    1.714051e-5,
    3.323935e-6,
    6.445866e-7,
]
LLAMA3_FREQUENCIES = [*YARN_FREQUENCIES[:4], 0.0004613198, *YARN_FREQUENCIES[5:]]
UNTRUNCATED_FREQUENCIES = [*YARN_FREQUENCIES[:4], 0.0006735542, *YARN_FREQUENCIES[5:]]
DEFAULT_BETA_FREQUENCIES = [*YARN_FREQUENCIES[:3], 0.005013707, 0.00053033, *YARN_FREQUENCIES[5:]]


def older(rope=None):
    """A config.json with the keys of transformers 4."""
    return SHAPE | {"rope_theta": 5e5, "rope_scaling": rope}


def newer(rope=None):
    """A config.json with the keys of transformers 5."""
    return SHAPE | {"rope_parameters": {"rope_type": "default"} | (rope or {}) | {"rope_theta": 5e5}}


def both(rope):
    return older(rope) | newer(rope)


def warnings_of(config, reader, **files):
    (comparison,) = [c for c in compare_readers(config, **files) if c.reader == reader]
    return " ".join(comparison.warnings)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("rope", "frequencies", "temperature"),
    [
        (YARN, YARN_FREQUENCIES, 1.2772588722239782),
        (LLAMA3, LLAMA3_FREQUENCIES, 1.0),
        (YARN | {"truncate": False}, UNTRUNCATED_FREQUENCIES, 1.2772588722239782),
        ({k: v for k, v in YARN.items() if "beta" not in k}, DEFAULT_BETA_FREQUENCIES, 1.2772588722239782),
    ],
    ids=["yarn", "llama3", "yarn without rounding", "yarn without betas"],
)
def test_every_reader_reads_a_config_of_both_key_generations_alike(reader, rope, frequencies, temperature):
    view = read_as(reader, both(rope))
    np.testing.assert_allclose(view.inv_freq, frequencies, rtol=5e-7)
    assert (view.theta, view.factor, view.original_length) == (5e5, 16.0, 8192)
    assert view.window == 131072
    assert view.temperature == pytest.approx(temperature, rel=1e-12)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("config", [older(), older() | newer()])
def test_every_reader_reads_plain_rope(reader, config):
    view = read_as(reader, config)
    assert (view.rope_type, view.theta, view.factor, view.temperature) == ("default", 5e5, 1.0, 1.0)
    assert (view.original_length, view.window) == (None, 131072)
    np.testing.assert_allclose(view.inv_freq, 5e5 ** (-np.arange(8) / 8), rtol=1e-12)


@pytest.mark.parametrize("reader", ["transformers-5", "vllm", "sglang"])
@pytest.mark.parametrize("config", [older(YARN), newer(YARN)])
def test_one_key_generation_is_enough_for_transformers_5_and_the_servers(reader, config):
    np.testing.assert_allclose(read_as(reader, config).inv_freq, YARN_FREQUENCIES, rtol=5e-7)


def test_transformers_4_sees_plain_rope_of_theta_10000_in_the_newer_keys_alone():
    view = read_as("transformers-4", newer(YARN))
    assert (view.rope_type, view.theta, view.window) == ("default", 10_000.0, 131072)
    told = warnings_of(newer(YARN), "transformers-4")
    assert "does not know rope_parameters" in told
    assert "takes its default, 10,000" in told
    assert "multiplies cos and sin by 1.0000, transformers 5 by 1.2773" in told


@pytest.mark.parametrize(
    ("family", "rope", "complaint"),
    [
        ("olmo2", YARN, "for olmo2 it allows a rope_scaling of type linear or dynamic alone"),
        ("phi3", LLAMA3, "for phi3 it allows a rope_scaling of type longrope alone"),
        ("mistral", YARN, "its RoPE needs the key 'head_dim'"),
    ],
)
def test_transformers_4_refuses_what_a_familys_own_check_refuses(family, rope, complaint):
    config = both(rope) | {"model_type": family}
    with pytest.raises(RopeError, match=complaint):
        read_as("transformers-4", config)
    (comparison,) = [c for c in compare_readers(config) if c.reader == "transformers-4"]
    assert comparison.view is None
    assert complaint in comparison.warnings[0]
    assert comparison.to_dict()["loads"] is False


@pytest.mark.parametrize(
    ("reader", "temperature", "told"),
    [
        ("transformers-4", 1.0, ""),
        ("transformers-5", 1.0, ""),
        ("vllm", 1.0, "dropped attention_factor 1 until 0.29"),
        ("sglang", 1.2772588722239782, "drops attention_factor 1"),
    ],
)
def test_sglang_drops_an_explicit_attention_factor(reader, temperature, told):
    config = both(YARN | {"attention_factor": 1.0})
    assert read_as(reader, config).temperature == pytest.approx(temperature, rel=1e-12)
    warnings = warnings_of(config, reader)
    assert told in warnings
    assert ("multiplies cos and sin by 1.2773, transformers 5 by 1.0000" in warnings) == (temperature != 1.0)


def test_mscale_gets_through_and_vllm_says_since_when():
    config = both(YARN | {"mscale": 1.0, "mscale_all_dim": 1.0})
    assert {reader: read_as(reader, config).temperature for reader in READERS} == dict.fromkeys(READERS, 1.0)
    assert "dropped mscale 1 until 0.29" in warnings_of(config, "vllm")


def test_the_servers_multiply_the_window_of_linear_scaling_by_its_factor():
    config = both({"rope_type": "linear", "factor": 8.0})
    windows = {reader: read_as(reader, config).window for reader in READERS}
    assert windows == {
        "transformers-4": 131072,
        "transformers-5": 131072,
        "vllm": 8 * 131072,
        "sglang": 8 * 131072,
    }
    assert "takes a window of 1,048,576 tokens, transformers 5 of 131,072" in warnings_of(config, "vllm")


def test_vllm_reads_past_the_angles_of_yarn_where_the_window_is_longer_than_the_factor_reaches():
    config = both(YARN) | {"max_position_embeddings": 200_000}
    assert read_as("vllm", config).window == 200_000
    assert read_as("sglang", config).window == 200_000
    told = warnings_of(config, "vllm")
    assert "makes cos and sin for 131,072 tokens alone" in told
    assert "took 131,072 tokens for its window until 0.29" in told
    shorter = warnings_of(both(YARN) | {"max_position_embeddings": 100_000}, "vllm")
    assert "alone" not in shorter
    assert "took 131,072 tokens for its window until 0.29" in shorter


def test_vllm_takes_the_tokenizers_length_as_a_bound():
    tokenizer = {"model_max_length": 8192}
    assert read_as("vllm", both(LLAMA3), tokenizer_config=tokenizer).window == 8192
    assert read_as("vllm", both(YARN), tokenizer_config=tokenizer).window == 8192
    assert "takes a window of 8,192 tokens" in warnings_of(both(LLAMA3), "vllm", tokenizer_config=tokenizer)
    assert not warnings_of(both(LLAMA3), "sglang", tokenizer_config=tokenizer)


def test_a_changed_theta_shows_as_different_angles():
    config = older() | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
    assert "frequencies up to 83.40% off" in warnings_of(config, "transformers-4")  # 2^(7/8) - 1


def test_another_number_of_turning_pairs_is_told():
    config = newer() | {"rope_theta": 5e5}
    config["rope_parameters"]["partial_rotary_factor"] = 0.5
    (comparison, *_) = compare_readers(config)
    assert comparison.difference == math.inf
    assert comparison.to_dict()["max_relative_difference"] is None  # JSON has no infinity
    assert "turns another number of pairs" in " ".join(comparison.warnings)


def test_keys_that_a_file_leaves_to_its_config_class_are_filled_in_but_those_of_rope():
    written = {"model_type": "gemma3", "text_config": {"hidden_size": 512}}
    loaded = {"text_config": {"hidden_size": 1, "head_dim": 256, "rope_theta": 1e6, "rope_parameters": {}}}
    assert with_class_defaults(written, loaded) == {
        "model_type": "gemma3",
        "text_config": {"hidden_size": 512, "head_dim": 256},
    }


@pytest.mark.parametrize("reader", READERS)
def test_gemma_3_is_read_by_its_full_attention_layers(reader):
    config = GEMMA3 | {
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "rope_scaling": YARN,
        "rope_parameters": {
            "full_attention": YARN | {"rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    }
    view = read_as(reader, {"model_type": "gemma3", "text_config": config})
    assert (view.rope_type, view.theta, view.factor, view.window) == ("yarn", 1e6, 16.0, 131072)


def test_a_type_whose_angles_change_with_the_length_is_not_compared():
    (comparison, *_) = compare_readers(both({"rope_type": "dynamic", "factor": 4.0}))
    assert comparison.difference is None
    assert "not compared" in comparison.warnings[0]


def test_longrope_is_read_beyond_its_original_length():
    config = older({("type" if k == "rope_type" else k): v for k, v in LONGROPE.items()}) | PHI3
    long_factor = LONGROPE["long_factor"]
    expected = math.sqrt(1 + math.log(32) / math.log(4096))
    windows = {}
    for reader in READERS:
        view = read_as(reader, config)
        np.testing.assert_allclose(view.inv_freq, 5e5 ** (-np.arange(8) / 8) / long_factor, rtol=1e-12)
        assert (view.factor, view.original_length) == (32.0, 4096)
        assert view.temperature == pytest.approx(expected)
        windows[reader] = view.window
    assert windows == {"transformers-4": 131072, "transformers-5": 131072, "vllm": 4096, "sglang": 131072}


def test_what_a_reader_cannot_do_without_is_named():
    with pytest.raises(RopeError, match=r"transformers-5 does not load this config: .* 'low_freq_factor'"):
        read_as("transformers-5", newer({k: v for k, v in LLAMA3.items() if k != "low_freq_factor"}))
    with pytest.raises(RopeError, match="vllm does not load this config: type 'linear', rope_type 'yarn'"):
        read_as("vllm", newer(YARN | {"type": "linear"}))
    with pytest.raises(RopeError, match=r"'llama\.cpp' is none of transformers-4"):
        read_as("llama.cpp", newer())


CONFIGS = {
    "plain": older(),
    "yarn, older keys": older(YARN),
    "yarn, newer keys": newer(YARN),
    "the older keys win over the newer": older(YARN) | newer(LLAMA3),
    "yarn, attention_factor": newer(YARN | {"attention_factor": 1.5}),
    "yarn, mscale": newer(YARN | {"mscale": 1.0, "mscale_all_dim": 0.5}),
    "yarn, not rounded": newer(YARN | {"truncate": False}),
    "yarn, nothing but a factor": older({"rope_type": "yarn", "factor": 4.0}),
    "llama3": newer(LLAMA3),
    "linear": older({"type": "linear", "factor": 8.0}),
    "part of the head": older(YARN) | {"partial_rotary_factor": 0.5},
    "qwen 3": older(YARN) | {"model_type": "qwen3", "head_dim": 64},
    "mistral": older(LLAMA3) | {"model_type": "mistral"},
    "granite": newer(YARN) | {"model_type": "granite"},
    "phi": newer(YARN) | {"model_type": "phi"},
    "phi 3, which calls longrope yarn": newer(LONGROPE | {"rope_type": "yarn"}) | PHI3,
    "phi 3, attention_factor": newer(LONGROPE | {"attention_factor": 1.5, "factor": 8.0}) | PHI3,
    "gemma 3, no keys": GEMMA3,
    "gemma 3, older keys": GEMMA3
    | {"rope_theta": 1e6, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_view_of_transformers_5_is_what_transformers_5_computes(config):
    import copy

    from transformers import AutoConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    theirs = AutoConfig.for_model(**copy.deepcopy(config))
    nested = "full_attention" in theirs.rope_parameters
    parameters = theirs.rope_parameters["full_attention"] if nested else theirs.rope_parameters
    view = read_as("transformers-5", config)
    assert view.rope_type == parameters["rope_type"]
    assert view.theta == parameters["rope_theta"]
    assert view.window == theirs.max_position_embeddings
    if view.rope_type == "default":
        return
    layer = {"layer_type": "full_attention"} if nested else {}
    inv_freq, temperature = ROPE_INIT_FUNCTIONS[view.rope_type](theirs, "cpu", seq_len=view.window, **layer)
    assert view.temperature == pytest.approx(temperature, rel=1e-12)
    np.testing.assert_allclose(view.inv_freq, inv_freq.numpy(), rtol=1e-6)
