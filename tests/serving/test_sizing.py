"""KV cache and placement, by hand."""

import pytest

from ultralong_hf.errors import ReleaseError
from ultralong_hf.footprint.shape import ModelShape
from ultralong_hf.planning.gpus import GPUS
from ultralong_hf.planning.shapes import KNOWN
from ultralong_hf.serving.sizing import best_fit, chunk_bytes, kv_bytes, kv_bytes_per_token

LLAMA = KNOWN["meta-llama/Llama-3.1-8B-Instruct"]
H100 = GPUS["h100-80g"]
GIB = 2**30
M = 2**20


def fit(shape=LLAMA, length=M, gpu=H100, **options):
    defaults = {
        "gpus": None,
        "chunk": 16384,
        "weight_bytes": 2 * shape.parameters,
        "kv_types": ("bf16", "fp8"),
    }
    return best_fit(shape, gpu, length, **(defaults | options))


def test_llama_31_8b_keeps_128_kib_a_token():
    assert kv_bytes_per_token(LLAMA) == 2 * 8 * 128 * 32 * 2 == 128 * 1024
    assert kv_bytes(LLAMA, M) == 128 * GIB
    assert kv_bytes(LLAMA, M, 1.0) == 64 * GIB


def test_a_layer_with_a_window_keeps_no_more():
    shape = ModelShape(
        heads=4,
        kv_heads=2,
        head_size=8,
        layers=3,
        hidden_size=32,
        intermediate_size=64,
        vocab_size=64,
        windows=(100, None, 100),
    )
    assert kv_bytes(shape, 1000) == 2 * 16 * (100 + 1000 + 100) * 2
    assert kv_bytes(shape, 50) == 2 * 16 * 150 * 2


def test_the_wider_type_on_one_node_comes_before_a_narrower_one():
    found = fit()
    assert (found.gpus, found.tensor_parallel, found.kv_type) == (4, 4, "bf16")
    assert found.cache == 32 * GIB
    assert found.weights == -(-2 * LLAMA.parameters // 4)
    assert found.budget == int(H100.memory * 0.92) - 2 * GIB - found.weights - found.chunk
    assert found.sequences == found.budget // found.cache == 2


def test_given_gpus_decide_and_the_type_follows():
    found = fit(gpus=2)
    assert (found.tensor_parallel, found.kv_type, found.fits) == (2, "fp8", True)
    assert found.cache == 32 * GIB
    short = fit(length=128 * 1024, gpus=1)
    assert (short.kv_type, short.sequences) == ("bf16", 3)


def test_what_does_not_fit_says_so():
    found = fit(gpus=1)
    assert not found.fits
    assert found.sequences == 0
    assert found.kv_type == "fp8"  # which comes nearest


def test_beyond_its_kv_heads_a_cache_is_copied_unless_tokens_are_shared():
    qwen = KNOWN["Qwen/Qwen3-30B-A3B"]  # 4 KV heads, 32 heads
    copied = fit(qwen, gpus=8)
    assert (copied.tensor_parallel, copied.context_parallel) == (8, 1)
    assert copied.cache == kv_bytes(qwen, M) / 4
    shared = fit(qwen, gpus=8, context_parallel=True)
    assert shared.context_parallel == 2
    assert shared.cache == kv_bytes(qwen, M) / 8


def test_nodes_share_layers():
    found = fit(gpus=16, length=4 * M)
    assert (found.tensor_parallel, found.pipeline_parallel) == (8, 2)
    assert found.cache == 512 * GIB / 16


def test_an_engine_without_tensor_parallelism_shares_layers():
    found = fit(gpus=4, tensor=False)
    assert (found.tensor_parallel, found.pipeline_parallel, found.cache) == (1, 4, 32 * GIB)


def test_gpus_that_do_not_divide_the_heads_are_refused():
    with pytest.raises(ReleaseError, match="3 GPUs do not share 32 heads"):
        fit(gpus=3, pipeline=False)
    assert fit(gpus=3).pipeline_parallel == 3


def test_a_chunk_counts_hidden_states_and_the_mlp():
    assert chunk_bytes(LLAMA, 16384, 4) == 2 * 16384 * (4 * 4096 + 3 * 3584)
