"""benchmarks/gpu.py waits for a GPU; here it runs at a tiny shape, so that no typo does."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.fixture
def gpu(monkeypatch):
    spec = importlib.util.spec_from_file_location("gpu", PATH)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu", module)  # where dataclasses look
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft 0.21.2 with transformers 5.23
def test_the_benchmark_for_a_gpu_runs_on_a_cpu(gpu, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--quick", "--folder", str(tmp_path)])
    gpu.main()
    lines = capsys.readouterr().out.splitlines()
    result = json.loads(lines[-1])
    assert (result["benchmark"], result["device"], result["met"]) == ("gpu", "cpu", False)
    longest = [line for line in lines if "longest row" in line and not line.startswith("{")]
    assert len(longest) == 2 * 5  # without the two contestants that offload
    assert all(line.endswith(" 128") for line in longest)


def test_it_counts_the_work_of_llama_8b(gpu):
    """6 a weight and token; the layers' 6.98B weights and the head's 0.53B; causal attention halved."""
    short = gpu.flops(gpu.LLAMA_8B, 1, 32)
    assert short == pytest.approx(6 * 7.50e9, rel=2e-3)
    attention = gpu.flops(gpu.LLAMA_8B, 1 << 20, 32) / (1 << 20) - short
    assert attention == pytest.approx(6 * 32 * 4096 * 2**20, rel=1e-4)
    assert gpu.flops(gpu.LLAMA_8B, 1, 32, lora=True) == pytest.approx(4 * 7.50e9, rel=2e-3)
