import json
import subprocess
import sys
from pathlib import Path

import pytest

from ultralong_hf.footprint import ModelShape
from ultralong_hf.parallel.traffic import layer_bytes

SHAPE = ModelShape(
    heads=8,
    kv_heads=2,
    head_size=10,
    layers=1,
    hidden_size=80,
    intermediate_size=100,
    vocab_size=100,
)


def test_bytes_by_hand():
    # 100 tokens a device, 20 bytes a head: 8 + 8 heads of queries and outputs, 2 + 2 of keys and values
    assert layer_bytes(SHAPE, length=200, ulysses=2, ring=1) == (20_000, 20_000)
    # 2 KV heads are repeated to 4; a device has 50 tokens and keeps a quarter
    assert layer_bytes(SHAPE, length=200, ulysses=4, ring=1) == (18_000, 18_000)
    # keys and values of 2 heads go a step; back again, and two steps of gradients of 4 bytes
    assert layer_bytes(SHAPE, length=200, ulysses=1, ring=2) == (8_000, 8_000 + 32_000)
    # one KV head of 100 tokens a device is what goes around
    assert layer_bytes(SHAPE, length=200, ulysses=2, ring=2) == (10_000 + 4_000, 10_000 + 4_000 + 16_000)


def test_one_device_sends_nothing():
    assert layer_bytes(SHAPE, length=200, ulysses=1, ring=1) == (0, 0)


@pytest.mark.slow
def test_the_benchmark_counts_what_the_formulas_say():
    script = Path(__file__).parents[2] / "benchmarks" / "sequence_parallel.py"
    result = subprocess.run(
        [sys.executable, str(script), "--quick"], capture_output=True, text=True, timeout=300, check=True
    )
    last = json.loads(result.stdout.splitlines()[-1])
    assert last["met"] is True
    assert len(last["targets"]) == 10, "forward and backward of five set-ups"
