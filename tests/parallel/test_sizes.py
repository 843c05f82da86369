import pytest
from hypothesis import given
from hypothesis import strategies as st

from ultralong_hf.errors import ParallelSizeError
from ultralong_hf.footprint import ModelShape, Setup
from ultralong_hf.parallel.global_batch import GlobalBatch
from ultralong_hf.parallel.sizes import choose_sizes, repeated_kv_heads, required_parts

LLAMA_8B = ModelShape(
    heads=32,
    kv_heads=8,
    head_size=128,
    layers=32,
    hidden_size=4096,
    intermediate_size=14336,
    vocab_size=128256,
)
K, M, GIB = 1024, 1024**2, 2**30
OFFLOADED = Setup(length=1, storage="host")


def chosen(length: int, world_size: int, **more) -> tuple[str, int, int, int]:
    """(backend, Ulysses, ring, dp_shard) for Llama-3.1-8B in nodes of 8 GPUs of 80 GiB, with offload."""
    arguments = {"gpus_per_node": 8, "gpu_memory": 80 * GIB, "setup": OFFLOADED, **more}
    sizes = choose_sizes(LLAMA_8B, length=length, world_size=world_size, **arguments)
    return sizes.backend, sizes.ulysses, sizes.ring, sizes.dp_shard


def test_the_target_lengths_on_8_to_64_gpus():
    assert chosen(64 * K, 8) == ("none", 1, 1, 8)
    assert chosen(1 * M, 8) == ("ulysses", 8, 1, 1)
    assert chosen(2 * M, 16) == ("ulysses", 16, 1, 1)
    assert chosen(4 * M, 32) == ("ulysses", 32, 1, 1)
    assert chosen(4 * M, 64) == ("ulysses", 32, 1, 2), "the least that fits; the rest makes a second group"


def test_degrees_above_the_heads_are_a_hybrid_with_ulysses_within_a_node():
    assert chosen(4 * M, 64, size=64) == ("hybrid", 8, 8, 1)
    assert chosen(4 * M, 64, size=64, gpus_per_node=4) == ("hybrid", 4, 16, 1)


def test_heads_that_share_no_factor_with_the_devices_leave_the_ring():
    five_heads = ModelShape(**{**vars(LLAMA_8B), "heads": 5, "kv_heads": 5})
    sizes = choose_sizes(five_heads, length=1 * M, world_size=8, size=8)
    assert (sizes.backend, sizes.ring) == ("ring", 8)


def test_some_heads_that_share_a_factor_with_the_devices_make_a_hybrid_within_one_node():
    twelve_heads = ModelShape(**{**vars(LLAMA_8B), "heads": 12, "kv_heads": 4})
    sizes = choose_sizes(twelve_heads, length=1 * M, world_size=8, size=8)
    assert (sizes.backend, sizes.ulysses, sizes.ring) == ("hybrid", 4, 2)


def test_what_is_asked_for_is_taken():
    assert chosen(1 * M, 8, size=4, backend="ring") == ("ring", 1, 4, 2)
    assert chosen(1 * M, 8, size=8, backend="hybrid", ulysses_size=2) == ("hybrid", 2, 4, 1)
    assert chosen(1 * M, 8, ulysses_size=2, ring_size=2) == ("hybrid", 2, 2, 2)
    assert chosen(1 * M, 8, size=8, backend="hybrid") == ("hybrid", 4, 2, 1)
    assert chosen(1 * M, 8, size=2, backend="hybrid") == ("ring", 1, 2, 4), "nothing is left for Ulysses"
    assert chosen(1 * M, 8, size=4, backend="deepspeed") == ("deepspeed", 4, 1, 2)
    assert chosen(1 * M, 8, size=2, dp_replicate=2) == ("ulysses", 2, 1, 2)
    assert chosen(1 * M, 8, size=1) == ("none", 1, 1, 8)


def test_reasons_say_what_was_chosen_and_why():
    arguments = {"gpus_per_node": 8, "gpu_memory": 80 * GIB, "setup": OFFLOADED}
    assert choose_sizes(LLAMA_8B, length=2 * M, world_size=16, **arguments).reasons == (
        "16 devices share a sequence: 2M tokens need about 44.1 GiB a device of the 72.0 GiB usable, and "
        "fewer devices would need more than there is.",
        "ulysses: 16 devices divide the 32 attention heads, so that each runs any exact attention on whole "
        "sequences; the 8 KV heads are repeated to 16.",
    )
    assert choose_sizes(LLAMA_8B, length=2 * M, world_size=64, gpus_per_node=8).reasons == (
        "64 devices share a sequence, the most there can be: the memory of a device is not known.",
        "hybrid: Ulysses over 8 devices within a node, a ring over 8 such groups: 64 devices do not divide "
        "the 32 attention heads.",
    )
    too_much = choose_sizes(LLAMA_8B, length=4 * M, world_size=8, **arguments).reasons[0]
    assert too_much == (
        "8 devices share a sequence, the most there can be. 4M tokens need about 155.5 GiB each, but only "
        "72.0 GiB are usable: it will most likely not fit. Use more devices."
    )


@pytest.mark.parametrize("rows", [2, 6, 128])
@pytest.mark.parametrize("devices", [2, 8, 12, 32, 256])
@pytest.mark.parametrize("at_once", [1, 2])
def test_a_global_batch_is_made_of_whole_passes_on_any_number_of_devices(rows, devices, at_once):
    batch = GlobalBatch(stage="cpt", rows=rows, at_once=at_once)
    sizes = choose_sizes(
        LLAMA_8B, length=768 * K, world_size=devices, gpus_per_node=8, gpu_memory=10**15, batch=batch
    )
    groups = devices // sizes.degree
    assert batch.accumulation(groups) * groups * at_once == rows
    fewer = [d for d in range(1, sizes.degree) if devices % d == 0]
    assert not any(batch.divides_over(devices // d) for d in fewer), "the least number of devices a row"


def test_a_global_batch_that_cannot_be_made_is_named():
    batch = GlobalBatch(stage="cpt", rows=2, at_once=1)
    assert chosen(1 * M, 8, size=8, batch=batch) == ("ulysses", 8, 1, 1)
    for wish in ({"size": 2}, {"batch": GlobalBatch(stage="cpt", rows=2, at_once=4)}):
        with pytest.raises(ParallelSizeError, match=r"parallel.global_batch.cpt is 2 rows a step, but [14]"):
            chosen(1 * M, 8, **{"batch": batch, **wish})


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (
            {"size": 3},
            "3 devices cannot share a sequence: that does not divide the 8 processes. Use one of 1, 2, 4, 8, "
            "or another number of processes.",
        ),
        (
            {"size": 64, "world_size": 64, "backend": "ulysses"},
            "ulysses spreads the 32 attention heads over 64 devices, which does not divide them. Use 1, 2, "
            "4, 8, 16, 32 devices, or backend hybrid or ring.",
        ),
        (
            {"size": 8, "length": 1_000_001},
            "rows of 1,000,001 tokens do not split into 8 parts. Use 1,000,000 or 1,000,008 tokens, or "
            "another size.",
        ),
        (
            {"size": 8, "length": 12, "backend": "ring"},
            "rows of 12 tokens do not split into 16 parts (2 x 8 of the ring). Use 16 tokens, or another "
            "size.",
        ),
        (
            {"size": 8, "length": 24, "backend": "hybrid"},
            "rows of 24 tokens do not split into 16 parts (2 x 2 of the ring x 4 of Ulysses). Use 16 or 32 "
            "tokens, or another size.",
        ),
        (
            {"size": 8, "ulysses_size": 3},
            "ulysses_size 3 x ring_size 2 is not 8, the devices that share a sequence. Give one of the two, "
            "or other sizes.",
        ),
        (
            {"size": 8, "ulysses_size": 4, "backend": "ring"},
            "ulysses_size and ring_size belong to backend hybrid, not to ring. Give size alone.",
        ),
        (
            {"backend": "megatron"},
            "'megatron' is no backend. Use one of auto, ulysses, ring, hybrid, deepspeed.",
        ),
        (
            {"size": 2, "dp_replicate": 3},
            "dp_replicate 3 does not divide the 4 groups that 8 processes make of 2 each. Use one of 1, 2, 4."
            "",
        ),
        (
            {"size": 2, "dp_replicate": 4},
            "dp_replicate 4 leaves no dp_shard: accelerate refuses replicas beside devices that share a "
            "sequence unless the weights are sharded over more than one group. Use dp_replicate 1.",
        ),
    ],
)
def test_sizes_that_do_not_divide_are_refused_with_those_that_do(wish, message):
    with pytest.raises(ParallelSizeError) as caught:
        choose_sizes(LLAMA_8B, **{"length": 1 * M, "world_size": 8, **wish})
    assert caught.value.faults == (message,)


def test_all_that_does_not_divide_is_told_together():
    with pytest.raises(ParallelSizeError) as caught:
        choose_sizes(LLAMA_8B, length=1_000_001, world_size=64, size=64, backend="ulysses")
    assert len(caught.value.faults) == 2


def test_experts_are_counted_for_the_size_of_a_mixture_of_them():
    experts = ModelShape(**{**vars(LLAMA_8B), "experts": 8, "experts_per_token": 2, "expert_size": 14336})
    sizes = choose_sizes(experts, length=128 * K, world_size=64, gpus_per_node=8, gpu_memory=80 * GIB)
    assert sizes.degree == 2
    assert choose_sizes(LLAMA_8B, length=128 * K, world_size=64, gpu_memory=80 * GIB).degree == 1


def test_kv_heads_are_repeated_to_the_least_count_that_divides():
    assert [repeated_kv_heads(8, u) for u in (1, 2, 8, 16, 32)] == [8, 8, 8, 16, 32]
    assert repeated_kv_heads(1, 4) == 4
    assert repeated_kv_heads(2, 3) == 6


@given(
    heads=st.integers(1, 64),
    nodes=st.integers(1, 8),
    per_node=st.integers(1, 8),
    blocks=st.integers(1, 8),
    memory=st.none() | st.integers(1, 200),
    backend=st.sampled_from(["auto", "ulysses", "ring", "hybrid"]),
)
def test_whatever_is_chosen_divides(heads, nodes, per_node, blocks, memory, backend):
    world, length = nodes * per_node, blocks * 2 * nodes * per_node
    shape = ModelShape(**{**vars(LLAMA_8B), "heads": heads, "kv_heads": heads})
    sizes = choose_sizes(
        shape,
        length=length,
        world_size=world,
        gpus_per_node=per_node,
        gpu_memory=memory and memory * GIB,
        backend=backend,
    )
    assert sizes.ulysses * sizes.ring * sizes.dp_shard * sizes.dp_replicate == world
    assert heads % sizes.ulysses == 0
    assert length % required_parts(sizes.ulysses, sizes.ring) == 0
    assert (sizes.backend == "none") == (sizes.degree == 1)
    assert (sizes.backend == "hybrid") == (sizes.ulysses > 1 and sizes.ring > 1)
