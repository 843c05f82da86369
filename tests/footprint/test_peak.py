"""Bytes of a step, as properties and against published runs. Against measurement: tests/planning."""

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ultralong_hf.footprint import Setup, footprint, step_work
from ultralong_hf.footprint.peak import PARTS
from ultralong_hf.planning.shapes import KNOWN

LLAMA_8B = KNOWN["meta-llama/Llama-3.1-8B"]
M = 1024**2
SETUPS = st.builds(
    Setup,
    length=st.sampled_from([2**12, 2**16, 2**20]),
    rows=st.integers(1, 3),
    ulysses=st.sampled_from([1, 2, 8]),
    ring=st.sampled_from([1, 2, 4]),
    weight_shards=st.sampled_from([1, 8]),
    sharding=st.sampled_from(["none", "ddp", "fsdp"]),
    device=st.sampled_from(["gpu", "cpu"]),
    accumulates=st.booleans(),
    liger=st.booleans(),
    tile=st.sampled_from([None, 4096]),
    checkpoint_every=st.integers(0, 4),
    storage=st.sampled_from(["device", "host", "disk"]),
    keeps_attention=st.booleans(),
    offload_optimizer=st.booleans(),
    offload_parameters=st.booleans(),
)


@settings(deadline=None)
@given(setup=SETUPS)
def test_parts_are_whole_and_add_up_to_the_fullest_moment(setup):
    found = footprint(LLAMA_8B, setup)
    assert tuple(found.parts) == PARTS
    assert all(size >= 0 for size in found.parts.values())
    assert found.total == pytest.approx(max(found.moments.values()), abs=len(PARTS))
    assert all(found.most[part] >= size for part, size in found.parts.items())


@settings(deadline=None)
@given(setup=SETUPS)
def test_longer_rows_never_need_less(setup):
    longer = replace(setup, length=2 * setup.length)
    assume(bool(longer.tiled) == bool(setup.tiled))  # tiles begin at some length, and save from there
    assert footprint(LLAMA_8B, longer).total >= footprint(LLAMA_8B, setup).total


@pytest.mark.parametrize(
    "change",
    [
        {"tile": 4096},
        {"storage": "host"},
        {"offload_optimizer": True},
        {"offload_parameters": True},
        {"liger": True},
        {"state_bytes": 2.03},
        {"ulysses": 8},
        {"weight_shards": 16},
    ],
)
def test_each_option_saves_at_some_length_and_never_costs(change):
    saved = []
    for length in (2**13, 2**17, 2**20):
        plain = Setup(length=length, weight_shards=8)
        changed = replace(plain, **change)
        saved.append(footprint(LLAMA_8B, plain).total - footprint(LLAMA_8B, changed).total)
    assert max(saved) > 0
    # of a short row the buffers of an exchange, or checkpoints in flight, may be more than what is saved
    assert saved[-1] >= 0


def test_a_smaller_tile_of_the_lm_head_makes_the_loss_smaller():
    loss = [
        footprint(LLAMA_8B, Setup(length=2**16, weight_shards=8, lm_head_tile=tile)).most["loss"]
        for tile in (4096, 512)
    ]
    assert loss[0] - loss[1] == (4096 - 512) * 32768 * 2


def test_what_leaves_the_device_is_found_elsewhere():
    on_device = footprint(LLAMA_8B, Setup(length=M, ulysses=8, weight_shards=8))
    on_host = footprint(LLAMA_8B, Setup(length=M, ulysses=8, weight_shards=8, storage="host"))
    one = M // 8 * LLAMA_8B.hidden_size * 2
    assert on_host.host == {"checkpoints": 32 * one}
    assert on_device.most["checkpoints"] - on_host.most["checkpoints"] == 30 * one
    assert footprint(LLAMA_8B, Setup(length=M, ulysses=8, weight_shards=8, storage="disk")).disk == 32 * one


def test_training_state_is_16_bytes_a_weight_over_all_devices():
    parts = footprint(LLAMA_8B, Setup(length=1024, weight_shards=8)).most
    state = parts["parameters"] + parts["gradients"] + parts["optimizer"]
    assert state == pytest.approx(16 * LLAMA_8B.parameters / 8, rel=1e-6)
    adapters = Setup(length=1024, trained=10**7, frozen=LLAMA_8B.parameters)
    assert footprint(LLAMA_8B, adapters).most["parameters"] == 4 * 10**7 + 2 * LLAMA_8B.parameters


def test_the_estimate_is_near_the_memory_that_trl_reports_for_1m_tokens():
    """TRL 1.16, docs/source/long_context_training.md: Qwen3-8B on 8 GPUs with offload, 56.2 GB a GPU."""
    setup = Setup(length=M, ring=8, weight_shards=8, storage="host")
    assert footprint(KNOWN["Qwen/Qwen3-8B"], setup).total / 1e9 == pytest.approx(56.2, rel=0.1)


def test_work_is_that_of_the_formulas():
    """Six operations for each weight and token, and attention's half square, forward and backward."""
    work = step_work(LLAMA_8B, Setup(length=M), rows=2)
    weights = LLAMA_8B.parameters - LLAMA_8B.embedding_parameters - 65 * 4096
    attention = 2 * 3 * 32 * 2 * M * M * 4096
    assert work.model == pytest.approx(6 * weights * 2 * M + attention, rel=1e-9)
    assert work.attention_share == pytest.approx(attention / work.model)


def test_recomputation_is_counted_and_selective_recomputation_leaves_attention_out():
    full = step_work(LLAMA_8B, Setup(length=M), rows=1)
    selective = step_work(LLAMA_8B, Setup(length=M, keeps_attention=True), rows=1)
    none = step_work(LLAMA_8B, Setup(length=M, checkpoint_every=0), rows=1)
    half = step_work(LLAMA_8B, Setup(length=M, checkpoint_every=2), rows=1)
    assert full.model == selective.model == none.model
    assert full.hardware - selective.hardware == pytest.approx(full.attention)
    head = 2 * LLAMA_8B.embedding_parameters * M
    assert full.hardware - none.hardware == pytest.approx(full.forward - head)
    assert half.hardware == pytest.approx((full.hardware + none.hardware) / 2)
