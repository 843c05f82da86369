"""What accelerate and torch need before their GPU paths run on a CPU with gloo. Tests only."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.experimental._context_parallel import _attention

FORWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default


FSDP_LAUNCH = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
}
"""What `accelerate launch` leaves for a process that shards by FSDP2."""


@contextmanager
def gloo_counts_as_gpu() -> Iterator[None]:
    """accelerate 1.15 turns FSDP2 and DeepSpeed on for accelerators alone; on a CPU it silently runs DDP."""

    def backend(self, cpu, sagemaker, backend=None):
        return "gloo", DistributedType.MULTI_GPU

    with (
        patch.object(PartialState, "_prepare_backend", backend),
        patch.dict(os.environ, {"ACCELERATE_TORCH_DEVICE": "cpu"}),
    ):
        yield


def teach_ring_the_cpu() -> None:
    """torch 2.13's ring knows CUDA's attentions; this adds the CPU's, through torch's own ring."""
    _attention.custom_ops[FORWARD] = _forward
    _attention.custom_ops[BACKWARD] = _backward


def _forward(op, args, kwargs):
    mesh = next(value.device_mesh for value in args if isinstance(value, DTensor))
    query, key, value = map(_local, args[:3])
    dropout, is_causal = [*args[3:], 0.0, False][:2] if len(args) < 5 else args[3:5]
    output = _attention._templated_ring_attention(
        mesh.get_group(),
        2,
        FORWARD,
        query,
        key,
        value,
        is_causal=is_causal,
        dropout_p=dropout,
        scale=kwargs.get("scale"),
    )
    return tuple(_whole(tensor, mesh) for tensor in output[:2])


def _backward(op, args, kwargs):
    mesh = next(value.device_mesh for value in args if isinstance(value, DTensor))
    grad, query, key, value, output, logsumexp = map(_local, args[:6])

    def local(*, grad_out, query, key, value, out, logsumexp, is_causal, dropout_p, scale):
        return BACKWARD(grad_out, query, key, value, out, logsumexp, dropout_p, is_causal, scale=scale)

    grads = _attention._templated_ring_attention_backward(
        mesh.get_group(),
        2,
        local,
        grad_out=grad,
        grad_out_name="grad_out",
        query=query,
        key=key,
        value=value,
        out=output,
        logsumexp=logsumexp,
        is_causal=args[7],
        dropout_p=args[6],
        scale=kwargs.get("scale"),
    )
    return tuple(_whole(tensor, mesh) for tensor in grads[:3])


def _local(value):
    return value.to_local() if isinstance(value, DTensor) else value


def _whole(tensor, mesh):
    return DTensor.from_local(tensor, mesh, [Shard(2)], run_check=False)
