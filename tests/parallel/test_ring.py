import pytest
import torch
import torch.nn.functional as F
from cases import tiny_llama
from shims import teach_ring_the_cpu
from torch.distributed.device_mesh import init_device_mesh

from ultralong_hf.parallel.attention import install_attention
from ultralong_hf.parallel.groups import SequenceGroup, hybrid_group, ring_group
from ultralong_hf.parallel.ring import set_rotation

LENGTH = 48


def group_of(ulysses: int, ring: int) -> SequenceGroup:
    mesh = init_device_mesh("cpu", (ulysses * ring,), mesh_dim_names=("cp",))
    return ring_group(mesh) if ulysses == 1 else hybrid_group(mesh, ulysses=ulysses, ring=ring)


def logits_and_gradients(model, inputs, weight):
    """Of a loss that weighs each logit by itself."""
    logits = model(input_ids=inputs["input_ids"], position_ids=inputs["position_ids"], use_cache=False).logits
    (logits * weight).sum().backward()
    return logits.detach(), {name: tensor.grad for name, tensor in model.named_parameters()}


def whole_batch(vocabulary=96):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, vocabulary, (2, LENGTH), generator=generator)
    return {"input_ids": ids}, torch.randn(2, LENGTH, vocabulary, generator=generator)


def run_split(ulysses: int, ring: int, rotation: str, heads: int, kv_heads: int):
    """Whole rows of logits, this rank's tokens, and the sum of all ranks' gradients."""
    import torch.distributed as dist

    teach_ring_the_cpu()
    dist.init_process_group("gloo")
    group = group_of(ulysses, ring)
    set_rotation(rotation)
    model = tiny_llama(heads=heads, kv_heads=kv_heads)
    install_attention(model, "sdpa")
    batch, weight = whole_batch()
    plain = F.scaled_dot_product_attention
    with group.attention():
        assert F.scaled_dot_product_attention is not plain
        part = group.shard({**batch, "weight": weight})
        logits, grads = logits_and_gradients(model, part, part["weight"])
    assert F.scaled_dot_product_attention is plain
    for grad in grads.values():
        dist.all_reduce(grad)
    return group.gather(logits), group.ranges(LENGTH), grads


@pytest.mark.parametrize(
    ("ulysses", "ring", "rotation", "heads", "kv_heads"),
    [
        (1, 2, "allgather", 4, 2),
        (1, 2, "alltoall", 4, 1),
        (1, 4, "alltoall", 3, 3),
        (1, 3, "allgather", 4, 4),
        (2, 2, "allgather", 2, 1),
        (2, 2, "alltoall", 4, 2),
    ],
)
def test_logits_and_gradients_are_those_of_whole_rows(workers, ulysses, ring, rotation, heads, kv_heads):
    """Heads that no device divides, and, with both, more devices than heads."""
    batch, weight = whole_batch()
    inputs = {**batch, "position_ids": torch.arange(LENGTH)[None]}
    expected, grads = logits_and_gradients(tiny_llama(heads=heads, kv_heads=kv_heads), inputs, weight)
    size = ulysses * ring
    results = workers.run(size, run_split, ulysses, ring, rotation, heads, kv_heads)
    held = [position for _, ranges, _ in results for part in ranges for position in part]
    assert sorted(held) == list(range(LENGTH))
    for logits, _, ours in results:
        torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
        assert ours.keys() == grads.keys()
        for name, grad in grads.items():
            assert (ours[name] - grad).norm() < 1e-5 * grad.norm(), name
