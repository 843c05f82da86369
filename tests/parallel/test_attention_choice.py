import pytest
import torch
from cases import tiny_llama
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from ultralong_hf.errors import MachineError
from ultralong_hf.footprint import model_shape
from ultralong_hf.parallel import attention
from ultralong_hf.parallel.attention import choose_attention, fastest

CPU = torch.device("cpu")


def failing() -> float:
    raise RuntimeError("no kernel image\nat line 3")


def test_the_fastest_is_taken_and_all_times_are_told():
    name, reason = fastest({"a": lambda: 0.003, "b": lambda: 0.001, "c": failing})
    assert name == "b"
    assert reason == (
        "attention: b, the fastest of a 3.00 ms, b 1.00 ms; c does not run here (no kernel image)."
    )


def test_where_none_runs_all_are_told():
    with pytest.raises(
        MachineError, match=r"no attention runs here: c does not run here \(no kernel image\)"
    ):
        fastest({"c": failing})


def choose(ring=1, present="flash_attention_2"):
    shape = model_shape(tiny_llama().config)
    return choose_attention(shape, ulysses=2, ring=ring, device=CPU, dtype=torch.bfloat16, present=present)


def test_without_hopper_the_model_keeps_its_own():
    assert choose()[0] == "flash_attention_2"
    assert choose(present="eager")[0] == "sdpa"


def test_a_ring_goes_around_sdpa():
    assert choose(ring=2) == ("sdpa", "attention: sdpa, the one that torch's ring goes around.")


def test_the_probe_times_what_is_right_and_leaves_out_what_is_not(monkeypatch):
    monkeypatch.setattr(attention, "PROBE_LENGTH", 32)

    def wrong(module, query, key, value, mask, **kwargs):
        return sdpa_attention_forward(module, query, key, value, mask, is_causal=False)

    AttentionInterface.register("wrong", wrong)
    shape = model_shape(tiny_llama().config)
    probes = {name: attention._probe(name, shape, 2, CPU, torch.float32) for name in ("wrong", "sdpa")}
    name, reason = fastest(probes)
    assert name == "sdpa"
    assert "wrong does not run here (its numbers differ from those of sdpa)" in reason
