import sys
import types

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ultralong_hf.errors import KernelError
from ultralong_hf.memory.kernels import apply_liger_kernels


@pytest.fixture
def model():
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    return LlamaForCausalLM(config)


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.fixture
def liger(monkeypatch):
    """A stand-in with the two names that are called, as liger-kernel 0.8.5 has them; it keeps the calls."""
    calls = []
    patches = types.ModuleType("liger_kernel.transformers.monkey_patch")
    patches.MODEL_TYPE_TO_APPLY_LIGER_FN = {"llama": None}
    transformers = types.ModuleType("liger_kernel.transformers")
    transformers._apply_liger_kernel_to_instance = lambda **kwargs: calls.append(kwargs)
    root = types.ModuleType("liger_kernel")
    for module in (root, transformers, patches):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return calls


def test_without_a_gpu_the_message_says_so(model, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.xpu, "is_available", lambda: False)
    with pytest.raises(
        KernelError, match=r"need a GPU, and torch sees none here\. Set model\.liger_kernels to false"
    ):
        apply_liger_kernels(model)


def test_without_liger_the_message_says_what_to_install(model, gpu, monkeypatch):
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    with pytest.raises(
        KernelError, match=r'cannot be imported: .* Install them with pip install "ultralong-hf\[gpu\]"'
    ):
        apply_liger_kernels(model)


def test_a_family_without_kernels_is_named_and_left_alone(model, gpu, liger):
    model.config.model_type = "olmo7"
    with pytest.raises(KernelError, match="no kernels for models of type 'olmo7'"):
        apply_liger_kernels(model)
    assert liger == []


def test_the_layers_are_patched_and_the_loss_is_not(model, gpu, liger):
    apply_liger_kernels(model)
    assert liger == [{"model": model, "cross_entropy": False, "fused_linear_cross_entropy": False}]
