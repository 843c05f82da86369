"""describe_rope: figures of Llama 3.1 that a pocket calculator gives, and buffers of transformers' models."""

import json
import math
import warnings

import numpy as np
import pytest
from transformers import AutoModelForCausalLM, Gemma3TextConfig, GPT2Config, LlamaConfig, Phi3Config

from ultralong_hf import describe_rope, extend_context
from ultralong_hf.errors import LengthError, ModelError, RopeError
from ultralong_hf.rope import RopeWarning

LLAMA_31 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "original_max_position_embeddings": 8192,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "rope_theta": 500_000.0,
}


@pytest.fixture
def llama_31():
    """The shape of Llama-3.1-8B as far as RoPE goes: 64 pairs, theta 500,000, 8 x 8,192."""
    return LlamaConfig(
        hidden_size=4096, num_attention_heads=32, max_position_embeddings=131_072, rope_parameters=LLAMA_31
    )


@pytest.fixture
def small():
    """16 pairs, theta 10,000, a window of 256."""
    return LlamaConfig(
        vocab_size=32,
        hidden_size=128,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=256,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
    )


def states(rope):
    return [pair.state for pair in rope.pairs]


def test_the_own_rope_of_llama_31_is_told_pair_by_pair(llama_31):
    description = describe_rope(llama_31)
    (own,) = description.own
    assert (description.window, description.target_length, description.methods) == (131_072, None, ())
    assert (own.rope_type, own.theta, own.scale, own.temperature) == ("llama3", 500_000.0, 8.0, 1.0)
    assert (own.original_length, own.length) == (8192, 131_072)
    assert states(own) == ["kept"] * 29 + ["ramp"] * 6 + ["interpolated"] * 29

    fastest, slowest = own.pairs[0], own.pairs[-1]
    assert fastest.wavelength == pytest.approx(2 * math.pi)
    assert fastest.turns_original == pytest.approx(8192 / (2 * math.pi))
    assert fastest.turns_target == pytest.approx(131_072 / (2 * math.pi))
    assert fastest.slower == 1.0
    plain = 2 * math.pi * 500_000 ** (126 / 128)
    assert slowest.wavelength == pytest.approx(8 * plain)
    assert slowest.turns_original == pytest.approx(8192 / plain)
    assert slowest.turns_target == pytest.approx(131_072 / (8 * plain))
    assert slowest.slower == pytest.approx(8)


def test_the_methods_stand_side_by_side_from_the_length_before_the_models_own_scaling(llama_31):
    description = describe_rope(llama_31, "1M")
    assert description.target_length == 2**20
    assert [rope.name for rope in description.methods] == ["yarn", "llama3", "ntk", "linear"]
    for rope in description.methods:
        assert (rope.scale, rope.original_length, rope.length) == (128.0, 8192, 2**20)
    yarn, llama3, ntk, linear = description.methods
    assert states(yarn) == states(llama3) == ["kept"] * 29 + ["ramp"] * 6 + ["interpolated"] * 29
    assert states(ntk) == ["kept"] + ["ramp"] * 62 + ["interpolated"]
    assert states(linear) == ["interpolated"] * 64
    assert [round(rope.temperature, 4) for rope in description.methods] == [1.4852, 1.0, 1.0, 1.0]
    # yarn's ramp is linear in the index, from pair 28, kept, to pair 35; llama3's in the turns.
    interpolated = np.arange(8) / 7
    expected = 1 / (1 - interpolated + interpolated / 128)
    np.testing.assert_allclose([pair.slower for pair in yarn.pairs[28:36]], expected, rtol=1e-12)
    turns = np.array([pair.turns_original for pair in llama3.pairs[29:35]])
    keep = (turns - 1) / 3
    expected = 1 / (keep + (1 - keep) / 128)
    np.testing.assert_allclose([pair.slower for pair in llama3.pairs[29:35]], expected, rtol=1e-12)


@pytest.mark.parametrize("method", ["yarn", "llama3", "ntk", "linear"])
def test_what_is_shown_is_what_extend_context_makes(small, method):
    promised = describe_rope(small, "4K", methods=(method,)).methods[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RopeWarning)  # of linear, which servers read otherwise
        extended = extend_context(small, "4K", method=method)
    (made,) = describe_rope(extended).own
    np.testing.assert_allclose(made.inv_freq, promised.inv_freq, rtol=1e-12)
    assert (made.rope_type, made.theta, made.scale) == (method, 10_000.0, 16.0)
    assert (made.original_length, made.length) == (256, 4096)
    assert (made.temperature, states(made)) == (promised.temperature, states(promised))


def test_a_loaded_model_is_described_by_the_buffers_it_computes_with(small):
    model = extend_context(AutoModelForCausalLM.from_config(small), "4K", method="yarn")
    (own,) = describe_rope(model).own
    rotary = model.model.rotary_emb
    np.testing.assert_allclose(own.inv_freq, rotary.inv_freq.numpy(), rtol=5e-7)
    assert own.temperature == pytest.approx(rotary.attention_scaling)


def test_the_angle_error_is_half_a_float32_step_and_exact_angles_have_next_to_none(llama_31):
    # At 4M tokens the fastest angle is nearly 2^22 rad, where float32 steps by 0.25; at 1M it is 2^20.
    for target, half_step in (("4M", 0.125), ("1M", 0.03125)):
        (rope,) = describe_rope(llama_31, target, methods=("llama3",)).methods
        assert half_step * 0.9 < rope.angle_error_float32 <= half_step
        assert 0 < rope.angle_error_exact < 5e-7


def test_gemma_3_is_described_by_layer_type():
    parameters = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    config = Gemma3TextConfig(
        num_hidden_layers=6, head_dim=16, max_position_embeddings=131_072, rope_parameters=parameters
    )
    full, sliding = describe_rope(config).own
    assert (full.name, full.theta, full.scale, full.original_length) == (
        "own, full_attention",
        1e6,
        8.0,
        32_768,
    )
    assert (sliding.name, sliding.theta, sliding.scale) == ("own, sliding_attention", 1e4, 1.0)
    assert states(full) == ["interpolated"] * 8
    assert states(sliding) == ["kept"] * 8

    with pytest.warns(RopeWarning, match="extended before, to 128K"):
        extended = extend_context(config, "1M", method="llama3")
    full, sliding = describe_rope(extended).own
    assert (full.rope_type, full.theta, full.scale, full.original_length) == ("llama3", 1e6, 32.0, 32_768)
    assert (sliding.rope_type, sliding.theta, sliding.scale) == ("default", 1e4, 1.0)


def test_extending_again_is_noted_to_start_from_the_first_length(small):
    extended = extend_context(small, "1K", method="llama3")
    (note,) = describe_rope(extended, "4K").notes
    assert "extended before, to 1K tokens" in note
    assert describe_rope(extended, "4K").methods[0].original_length == 256


def test_the_table_has_a_line_a_pair_and_a_column_a_method(small):
    description = describe_rope(small, "4K")
    lines = description.table().splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("pair"))
    assert lines[first - 1].split() == ["plain", "plain", "turns", "yarn", "llama3", "ntk", "linear"]
    pairs = [line.split() for line in lines[first + 1 : first + 17]]
    assert [int(cells[0]) for cells in pairs] == list(range(16))
    # 2 pi tokens a turn: 40.7 turns in 256, 652 in 4,096, of which linear leaves 40.7.
    assert pairs[0] == ["0", "6.28", "40.7", "652", "kept", "652", "kept", "652", "kept", "40.7", "intp"]
    errors = [line for line in lines if line.startswith("angle error at 4K")]
    assert len(errors) == 4
    assert all("with exact angles" in line for line in errors)


def test_the_table_of_one_rope_tells_wavelengths_and_states(small):
    lines = describe_rope(small, "4K", methods=("llama3",)).table().splitlines()
    last = [line for line in lines if line.startswith("  15")]
    wavelength = 2 * math.pi * 10_000 ** (30 / 32)
    assert last == ["  15      35,333      0.00725     565,327  0.00725   16.0x  interpolated"]
    assert round(wavelength) == 35_333


def test_to_dict_is_plain_json_with_every_pair(small):
    values = json.loads(json.dumps(describe_rope(small, "4K").to_dict()))
    assert values["target_length"] == 4096
    assert [len(rope["pairs"]) for rope in values["own"] + values["methods"]] == [16] * 5
    assert values["methods"][0]["pairs"][15]["state"] == "interpolated"
    assert set(values["own"][0]) >= {"theta", "temperature", "angle_error_float32", "angle_error_exact"}


def test_a_folder_is_described_like_its_config(small, tmp_path):
    small.save_pretrained(tmp_path)
    assert describe_rope(tmp_path).own[0].pairs == describe_rope(small).own[0].pairs
    assert describe_rope(str(tmp_path)).model == str(tmp_path)


def test_what_cannot_be_described_is_refused_with_the_reason(small, tmp_path):
    with pytest.raises(RopeError, match="learned"):
        describe_rope(GPT2Config())
    with pytest.raises(RopeError, match="below the present window"):
        describe_rope(small, 128)
    with pytest.raises(LengthError, match="'1Q' is no length"):
        describe_rope(small, "1Q")
    with pytest.raises(RopeError, match=r"'yran' is none of .* Nearest: yarn"):
        describe_rope(small, "4K", methods=("yran",))
    with pytest.raises(ModelError, match=r"has no config\.json"):
        describe_rope(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json is no config that transformers can read"):
        describe_rope(tmp_path)
    with pytest.raises(ModelError, match="int is no model"):
        describe_rope(3)
    dynamic = LlamaConfig(rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4})
    with pytest.raises(RopeError, match="'dynamic' has angles that change"):
        describe_rope(dynamic)


def test_longrope_can_be_described_but_not_stretched():
    factors = [1.0 + i for i in range(16)]
    config = Phi3Config(
        hidden_size=128,
        num_attention_heads=4,
        max_position_embeddings=131_072,
        original_max_position_embeddings=4096,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 1e4,
            "short_factor": [1.0] * 16,
            "long_factor": factors,
            "factor": 32.0,
        },
    )
    (own,) = describe_rope(config).own
    assert [pair.slower for pair in own.pairs] == pytest.approx(factors)
    with pytest.raises(RopeError, match="already has longrope"):
        describe_rope(config, "1M")
