"""Exact angles: right at any position, like the stock ones near the start, however a model is changed."""

import math
import time

import numpy as np
import pytest
import torch
from rope_models import SIZES, tiny_configs, tiny_model
from transformers import AutoModelForCausalLM, BloomConfig, LlamaConfig

from ultralong_hf import extend_context
from ultralong_hf.errors import RopeError
from ultralong_hf.rope.exact import (
    ExactRotaryEmbedding,
    exact_angles,
    install_exact_angles,
    remove_exact_angles,
    turn_phases,
    wants_exact_angles,
)

INPUT_IDS = torch.arange(3, 51)[None]
TOLD_OF_READERS = "ignore::ultralong_hf.rope.extend.RopeWarning"
LLAMA_31 = torch.tensor(500_000.0) ** (-torch.arange(64) / 64)
FAR = torch.tensor([[0, 1, 131_071, 1_048_575, 2_097_151, 4_194_303, 2**24 - 1]])


def off_by(angles, inv_freq, positions):
    """Radians between float32 angles and Python's own arithmetic on whole numbers and float64."""
    worst = 0.0
    for row, position in zip(angles[0].tolist(), positions[0].tolist(), strict=True):
        for angle, frequency in zip(row, inv_freq.tolist(), strict=True):
            worst = max(worst, abs(math.remainder(angle - position * frequency, 2 * math.pi)))
    return worst


def test_angles_are_exact_at_every_position():
    angles = exact_angles(FAR, turn_phases(LLAMA_31))
    assert angles.dtype == torch.float32
    assert angles.shape == (1, 7, 64)
    # 3e-9 of it is float64's own rounding of products near 1.7e7.
    assert off_by(angles, LLAMA_31, FAR) < 5e-7
    assert float(angles.abs().max()) <= math.pi + 1e-6


def test_stock_angles_are_off_by_an_eighth_of_a_radian_at_4m_tokens():
    positions = torch.arange(4_194_304 - 1024, 4_194_304)[None]
    stock = positions[..., None].float() * LLAMA_31
    assert off_by(stock, LLAMA_31, positions) == pytest.approx(0.125, rel=0.02)


def test_relative_positions_rotate_alike_wherever_they_stand():
    """cos of an angle difference depends on the distance alone; stock angles lose that at 4M."""
    phase = turn_phases(LLAMA_31)
    near, far = (exact_angles(torch.tensor([[p, p + 1000]]), phase)[0] for p in (0, 4_000_000))
    np.testing.assert_allclose((near[1] - near[0]).cos(), (far[1] - far[0]).cos(), atol=2e-6)


@pytest.mark.filterwarnings(TOLD_OF_READERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", sorted(tiny_configs()))
def test_near_the_start_exact_rotations_equal_the_stock_ones(name, dtype):
    """Same shapes, dtypes and temperature, in every family."""
    stock = extend_context(tiny_model(tiny_configs()[name]), 4096)
    exact = extend_context(tiny_model(tiny_configs()[name]), 4096, exact_angles=True)
    layer_types = [["full_attention"], ["sliding_attention"]] if name in ("gemma3_text", "olmo3") else [[]]
    x, positions = torch.zeros(1, dtype=dtype), torch.arange(64)[None]
    modules = [(rotary(stock), rotary(exact))]
    for theirs, ours in modules:
        assert isinstance(ours, ExactRotaryEmbedding)
        for layer_type in layer_types:
            for a, b in zip(theirs(x, positions, *layer_type), ours(x, positions, *layer_type), strict=True):
                assert (a.dtype, a.shape) == (b.dtype, b.shape)
                torch.testing.assert_close(a, b, atol=1e-5 if a.dtype == torch.float32 else 1e-2, rtol=0)


def rotary(model):
    return model.model.rotary_emb


@pytest.mark.filterwarnings(TOLD_OF_READERS)
@pytest.mark.parametrize("name", ["llama", "gemma3_text"])
def test_logits_are_the_stock_ones_to_float32_at_short_lengths(name):
    model = extend_context(tiny_model(tiny_configs()[name]), 4096)
    with torch.no_grad():
        stock = model(INPUT_IDS).logits
        install_exact_angles(model)
        exact = model(INPUT_IDS).logits
        remove_exact_angles(model)
        again = model(INPUT_IDS).logits
    torch.testing.assert_close(exact, stock, atol=1e-5, rtol=0)
    assert torch.equal(again, stock)


def test_at_4m_tokens_exact_logits_equal_those_of_a_float64_model():
    """The positions of a prompt of 48 tokens moved to 4M; the stock model is 100 times further off."""
    positions = torch.arange(4_194_000, 4_194_048)[None]

    def logits(model, dtype=torch.float32):
        with torch.no_grad():
            return model.to(dtype)(INPUT_IDS, position_ids=positions).logits.double()

    stock, exact = (
        extend_context(tiny_model(tiny_configs()["llama"]), "4M", exact_angles=e) for e in (False, True)
    )
    reference = extend_context(tiny_model(tiny_configs()["llama"]), "4M")
    inv_freq = reference.model.rotary_emb.inv_freq.double()

    def float64_rotation(x, position_ids):
        angles = position_ids[..., None].double() * inv_freq
        angles = torch.cat((angles, angles), dim=-1)
        scaling = reference.model.rotary_emb.attention_scaling
        return angles.cos() * scaling, angles.sin() * scaling

    reference.model.rotary_emb.forward = float64_rotation
    truth = logits(reference, torch.float64)
    off_exact, off_stock = (float((logits(m) - truth).abs().max()) for m in (exact, stock))
    assert off_exact < 1e-5
    assert off_stock > 100 * off_exact


def test_it_is_off_by_default():
    model = extend_context(tiny_model(tiny_configs()["llama"]), 4096)
    assert not isinstance(rotary(model), ExactRotaryEmbedding)
    assert not wants_exact_angles(model.config)


def test_the_config_records_the_wish_and_loading_plus_installing_gives_the_same_logits(tmp_path):
    model = extend_context(
        tiny_model(tiny_configs()["llama"]), 4096, exact_angles=True, output_dir=tmp_path / "out"
    )
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert wants_exact_angles(loaded.config)
    assert not isinstance(rotary(loaded), ExactRotaryEmbedding)  # a plain load knows nothing of it
    install_exact_angles(loaded)
    with torch.no_grad():
        assert torch.equal(loaded(INPUT_IDS).logits, model(INPUT_IDS).logits)


def test_installing_twice_is_installing_once():
    model = extend_context(tiny_model(tiny_configs()["llama"]), 4096, exact_angles=True)
    installed = rotary(model)
    install_exact_angles(model)
    assert rotary(model) is installed


@pytest.mark.filterwarnings(TOLD_OF_READERS)
@pytest.mark.parametrize("exact", [False, True])
def test_extending_again_follows_the_new_choice(exact):
    model = extend_context(tiny_model(tiny_configs()["llama"]), 1024, exact_angles=True)
    extend_context(model, 4096, exact_angles=exact)
    assert isinstance(rotary(model), ExactRotaryEmbedding) == exact
    once = extend_context(tiny_model(tiny_configs()["llama"]), 4096, exact_angles=exact)
    with torch.no_grad():
        assert torch.equal(model(INPUT_IDS).logits, once(INPUT_IDS).logits)


def test_casting_a_model_to_bfloat16_leaves_exact_angles_exact():
    model = extend_context(tiny_model(tiny_configs()["llama"]), 4096, exact_angles=True)
    before = rotary(model).phase.clone()
    model.to(torch.bfloat16)
    assert torch.equal(rotary(model).phase, before)


def test_a_state_dict_is_as_without():
    plain, exact = (
        extend_context(tiny_model(tiny_configs()["llama"]), 4096, exact_angles=e) for e in (False, True)
    )
    assert exact.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.filterwarnings(TOLD_OF_READERS)
def test_gradients_and_generation_run_through_it():
    model = extend_context(tiny_model(tiny_configs()["llama"]), 4096, exact_angles=True)
    model(INPUT_IDS, labels=INPUT_IDS).loss.backward()
    assert float(model.model.layers[0].self_attn.q_proj.weight.grad.abs().sum()) > 0
    assert model.generate(INPUT_IDS, max_new_tokens=3, do_sample=False).shape[1] > 48


def test_it_adds_less_than_a_percent_to_a_step():
    """Measured at 0.02 % of a step of the lab's model, and less than the stock embedding takes."""
    model = extend_context(
        tiny_model(LlamaConfig(**{**SIZES, "hidden_size": 128, "intermediate_size": 384})), 4096
    )
    ids, positions = torch.full((1, 1024), 3), torch.arange(1024)[None]
    exact = ExactRotaryEmbedding(rotary(model), float32_rotation=False)

    def seconds(call):
        call()
        started = time.perf_counter()
        call()
        return time.perf_counter() - started

    step = min(seconds(lambda: model(ids, labels=ids).loss.backward()) for _ in range(3))
    assert min(seconds(lambda: exact(torch.zeros(1), positions)) for _ in range(9)) < 0.01 * step


def test_frequencies_that_change_with_the_length_are_refused():
    config = tiny_configs()["llama"].to_dict() | {
        "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    }
    with pytest.raises(RopeError, match="'dynamic' change with the length read"):
        install_exact_angles(tiny_model(LlamaConfig(**config)))


def test_a_model_without_rope_is_refused():
    model = tiny_model(BloomConfig(hidden_size=32, n_layer=1, n_head=2, vocab_size=64))
    with pytest.raises(RopeError, match="ALiBi"):
        install_exact_angles(model)
