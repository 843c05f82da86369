from collections import Counter

import pytest
import torch
from tiny_models import SavedBytes, largest_difference, step, tiny_llama, tokens
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from ultralong_hf.errors import MachineError
from ultralong_hf.memory.attention_ops import is_attention_forward
from ultralong_hf.memory.checkpointing import make_storage, set_checkpointing
from ultralong_hf.memory.storage import DiskStorage, HostStorage
from ultralong_hf.memory.tiling import tile_modules

ROUNDING = 1e-5
LENGTH = 96
HIDDEN = LENGTH * 32 * 4
"""Bytes of a row's hidden states."""


class Operators(TorchDispatchMode):
    """Counts what really runs, below the modes of checkpoints."""

    def __init__(self):
        super().__init__()
        self.ran = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.ran[func] += 1
        return func(*args, **(kwargs or {}))

    @property
    def attention_forwards(self):
        return sum(count for func, count in self.ran.items() if is_attention_forward(func))


def storages(tmp_path):
    return {
        "device": None,
        "disk": DiskStorage(str(tmp_path), least_bytes=1024),
        "host": HostStorage(torch.device("cpu"), least_bytes=1024),
    }


@pytest.mark.parametrize("place", ["device", "disk", "host"])
@pytest.mark.parametrize("recompute", ["all", "all_but_attention"])
@pytest.mark.parametrize(("every", "tile"), [(1, 32), (2, None)])
def test_checkpoints_leave_loss_and_gradients_as_they_are(tmp_path, place, recompute, every, tile):
    model, ids = tiny_llama(), tokens(LENGTH, rows=2)
    whole = step(model, ids)
    if tile:
        tile_modules(model, tile)
    storage = storages(tmp_path)[place]
    set_checkpointing(model, every=every, recompute=recompute, storage=storage)
    model.activation_checkpointing_enable()
    for _ in range(2):
        with Operators() as operators:
            assert largest_difference(step(model, ids), whole) < ROUNDING
        checkpointed = 3 if every == 1 else 2
        again = checkpointed if recompute == "all" else 0
        assert operators.attention_forwards == 3 + again
    if storage is not None:
        inputs = outputs = checkpointed * 2 * HIDDEN
        logsumexps = checkpointed * 2 * LENGTH * 4 * 4
        assert storage.stored_bytes == 2 * (
            inputs + (outputs + logsumexps if recompute == "all_but_attention" else 0)
        )


@pytest.mark.parametrize("recompute", ["all", "all_but_attention"])
def test_under_autocast_too(tmp_path, recompute):
    model, ids = tiny_llama(), tokens(LENGTH)
    set_checkpointing(model, storage=None)
    model.activation_checkpointing_enable()
    plain = step(model, ids, enabled=True, dtype=torch.bfloat16)
    set_checkpointing(model, recompute=recompute, storage=storages(tmp_path)["disk"])
    model.activation_checkpointing_enable()
    assert largest_difference(step(model, ids, enabled=True, dtype=torch.bfloat16), plain) == 0


def test_each_layer_keeps_its_input_and_none_where_that_is_stored(tmp_path):
    """Bytes that the forward keeps, of a model of 3 layers and one of 9: the difference is of 6 layers."""

    def kept(layers, **checkpointing):
        model, ids = tiny_llama(num_hidden_layers=layers), tokens(LENGTH)
        set_checkpointing(model, **checkpointing)
        model.activation_checkpointing_enable()
        with SavedBytes().ignoring(model) as count:
            model.model(input_ids=ids, use_cache=False)
        return count.total

    whole = [0, 0]
    for place, layers in enumerate((3, 9)):
        model = tiny_llama(num_hidden_layers=layers)
        with SavedBytes().ignoring(model) as count:
            model.model(input_ids=tokens(LENGTH), use_cache=False)
        whole[place] = count.total
    assert whole[1] - whole[0] > 6 * 15 * HIDDEN
    assert kept(9) - kept(3) == 6 * HIDDEN
    stored = DiskStorage(str(tmp_path), least_bytes=1024)
    assert kept(9, storage=stored) - kept(3, storage=stored) == 0


def test_attention_that_is_no_operator_is_told_in_the_first_forward():
    """Eager attention is a few matrix products."""
    model = tiny_llama(attn_implementation="eager")
    set_checkpointing(model, recompute="all_but_attention")
    model.activation_checkpointing_enable()
    with pytest.raises(MachineError, match=r"with attention eager\. Use sdpa without a mask"):
        step(model, tokens())


def test_a_layer_goes_backward_once():
    model, ids = tiny_llama(), tokens()
    set_checkpointing(model, recompute="all_but_attention")
    model.activation_checkpointing_enable()
    loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="in its backward a second time"):
        loss.backward()


def test_arguments_of_the_trainer_still_count():
    model = tiny_llama()
    set_checkpointing(model, every=1)
    model.activation_checkpointing_enable(
        activation_checkpointing_kwargs={"preserve_rng_state": False}, every_n_layers=3
    )
    layers = [module for module in model.modules() if isinstance(module, LlamaDecoderLayer)]
    assert [layer.gradient_checkpointing for layer in layers] == [True, False, False]
    assert layers[0]._gradient_checkpointing_func.keywords == {
        "preserve_rng_state": False,
        "use_reentrant": False,
    }


def test_on_a_cpu_the_host_is_the_device(tmp_path):
    assert make_storage("host", None, torch.device("cpu")) is None
    assert make_storage("device", None, torch.device("cuda")) is None
    storage = make_storage("disk", str(tmp_path), torch.device("cpu"))
    assert isinstance(storage, DiskStorage)
    assert storage.folder == str(tmp_path)


@pytest.mark.parametrize(
    ("namespace", "name", "is_one"),
    [
        ("flash_attn", "_flash_attn_forward", True),
        ("flash_attn", "_flash_attn_varlen_forward", True),
        ("flash_attn", "_flash_attn_backward", False),
        ("flash_attn_3", "_flash_attn_forward", True),
        ("flash_attn_3", "fwd", True),
        ("flash_attn_3", "bwd", False),
        ("_flash_attn2_cuda_f12afc9", "varlen_fwd", True),
        ("aten", "_scaled_dot_product_flash_attention", True),
        ("aten", "_scaled_dot_product_flash_attention_backward", False),
        ("aten", "_scaled_dot_product_cudnn_attention", True),
        ("aten", "mm", False),
    ],
)
def test_the_forwards_of_all_kernels_are_known(namespace, name, is_one):
    """Names of flash-attn 2.8 and 3, of the Hub's kernels, and of torch."""

    class Schema:
        pass

    operator, operator._schema = Schema(), Schema()
    operator.namespace, operator._schema.name = namespace, f"{namespace}::{name}"
    assert is_attention_forward(operator) is is_one


def test_the_kernels_of_a_library_are_kept_like_those_of_torch():
    """An attention that is a custom operator within an autograd function, as flash-attn's."""
    library = torch.library.Library("flash_attn_test", "DEF")
    library.define("_flash_attn_forward(Tensor q, Tensor k, Tensor v) -> (Tensor, Tensor)")
    calls = []

    def kernel(query, key, value):
        calls.append(1)
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, True)

    library.impl("_flash_attn_forward", kernel, "CPU")

    class Attention(torch.autograd.Function):
        @staticmethod
        def forward(ctx, query, key, value):
            output, logsumexp = torch.ops.flash_attn_test._flash_attn_forward(query, key, value)
            ctx.save_for_backward(query, key, value, output, logsumexp)
            return output

        @staticmethod
        def backward(ctx, grad):
            backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
            return backward(grad, *ctx.saved_tensors, 0.0, True)

    from transformers import AttentionInterface

    def attention(module, query, key, value, mask, **kwargs):
        key, value = (t.repeat_interleave(module.num_key_value_groups, 1) for t in (key, value))
        return Attention.apply(query, key, value).transpose(1, 2).contiguous(), None

    AttentionInterface.register("library_test", attention)
    model, ids = tiny_llama(), tokens()
    whole = step(model, ids)
    model.set_attn_implementation("library_test")
    set_checkpointing(model, recompute="all_but_attention")
    model.activation_checkpointing_enable()
    assert largest_difference(step(model, ids), whole) < ROUNDING
    assert len(calls) == 3
