"""Bytes that sequence parallelism moves a layer, counted, against its formula; and time a step.

python benchmarks/sequence_parallel.py [--quick]

One process, Ulysses, ring and hybrid train the same model on the same row, with gloo on this machine's
cores and, where it has several GPUs, with NCCL. Every set-up must come to the loss and gradient norm of one
process.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from ultralong_hf.footprint import model_shape
from ultralong_hf.parallel.attention import install_attention
from ultralong_hf.parallel.groups import SequenceGroup, hybrid_group, ring_group, ulysses_group
from ultralong_hf.parallel.traffic import layer_bytes

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "parallel"))
from launcher import Workers
from shims import teach_ring_the_cpu  # torch's ring has no attention for CPUs

LAYERS = 2
VOCABULARY = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short rows and few steps, under 45 s")
    args = parser.parse_args()
    length, steps = (1024, 3) if args.quick else (8192, 7)
    print(f"torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} cores; {' '.join(sys.argv)}")
    results = compare("cpu", sizes=(2, 4), length=length, steps=steps)
    if torch.cuda.device_count() > 1:
        most = torch.cuda.device_count()
        sizes = tuple(size for size in (2, 4, 8) if size <= most)
        results += compare("cuda", sizes=sizes, length=16 * length, steps=steps)
    print_table(results)
    print(json.dumps(summary(results)))


def compare(device: str, *, sizes: tuple[int, ...], length: int, steps: int) -> list[dict[str, Any]]:
    """One process, then each backend on each number of processes."""
    workers = Workers(timeout=600)
    found = []
    try:
        set_ups = [(1, 1, 1), *((size, *factors) for size in sizes for factors in splits(size))]
        for size, ulysses, ring in set_ups:
            ranks = workers.run(
                size, measure, device=device, ulysses=ulysses, ring=ring, length=length, steps=steps
            )
            found.append({**ranks[0], "seconds": max(rank["seconds"] for rank in ranks)})
            check_answer(found[0], found[-1])
    finally:
        workers.stop()
    return found


def splits(size: int) -> list[tuple[int, int]]:
    """(Ulysses, ring) of each backend."""
    return [(size, 1), (1, size), *([(2, size // 2)] if size > 2 else [])]


def measure(*, device: str, ulysses: int, ring: int, length: int, steps: int) -> dict[str, Any]:
    """One rank's part: a counted step and `steps` timed ones."""
    teach_ring_the_cpu()
    group = join(device, ulysses, ring)
    if device == "cuda":
        device = f"cuda:{dist.get_rank() if group else 0}"
    model, batch = task(length, device)
    if group is not None:
        install_attention(model, "sdpa")
    with Traffic() as traffic, attention(group):
        loss = loss_of(model, batch, group)
        forward = traffic.sent
        loss.backward()
    answer = [float(add_up(loss.detach(), group)), gradient_norm(model, group)]
    seconds = [timed_step(model, batch, group) for _ in range(steps)]
    return {
        "device": device.split(":")[0],
        "ulysses": ulysses,
        "ring": ring,
        "length": length,
        "counted": [forward // LAYERS, (traffic.sent - forward) // LAYERS],
        "formula": list(layer_bytes_of(model, ulysses, ring, length)),
        "seconds": median(seconds),
        "spread": [min(seconds), max(seconds)],
        "answer": answer,
    }


def task(length: int, device: str) -> tuple[LlamaForCausalLM, dict[str, torch.Tensor]]:
    """The same weights and row everywhere."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=length,
        attn_implementation="sdpa",
        initializer_range=0.1,  # so that attention counts
    )
    # the fused attentions of GPUs, which torch's ring goes around, know half precision alone
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    model = LlamaForCausalLM(config).to(device, dtype)
    ids = torch.randint(VOCABULARY, (1, length)).to(device)
    return model, {"input_ids": ids, "labels": ids.clone()}


def join(device: str, ulysses: int, ring: int) -> SequenceGroup | None:
    """This rank's group; None for one process."""
    size = ulysses * ring
    if size == 1:
        return None
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    mesh = dist.init_device_mesh(device, (size,), mesh_dim_names=("cp",))
    if ring == 1:
        return ulysses_group(mesh)
    return ring_group(mesh) if ulysses == 1 else hybrid_group(mesh, ulysses=ulysses, ring=ring)


def attention(group: SequenceGroup | None) -> AbstractContextManager[None]:
    return group.attention() if group is not None else nullcontext()


def loss_of(model: Any, batch: dict[str, torch.Tensor], group: SequenceGroup | None) -> torch.Tensor:
    """This device's part of the mean over all tokens."""
    count = batch["labels"].numel() - len(batch["labels"])
    if group is None:
        shifted = F.pad(batch["labels"], (0, 1), value=-100)[:, 1:]
        part = {"input_ids": batch["input_ids"], "shift_labels": shifted}
    else:
        part = group.shard(batch)
    labels = part.pop("shift_labels")
    part.pop("labels", None)
    logits = model(**part, use_cache=False).logits
    return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="sum") / count


def timed_step(model: Any, batch: dict[str, torch.Tensor], group: SequenceGroup | None) -> float:
    """Seconds of a forward and backward, all devices done."""
    model.zero_grad()
    wait(model, group)
    begun = time.perf_counter()
    with attention(group):
        loss_of(model, batch, group).backward()
    wait(model, group)
    return time.perf_counter() - begun


def wait(model: Any, group: SequenceGroup | None) -> None:
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    if group is not None:
        dist.barrier(group.group)


def add_up(tensor: torch.Tensor, group: SequenceGroup | None) -> torch.Tensor:
    if group is not None:
        dist.all_reduce(tensor, group=group.group)
    return tensor


def gradient_norm(model: Any, group: SequenceGroup | None) -> float:
    squares = [add_up(weight.grad.clone(), group).float().pow(2).sum() for weight in model.parameters()]
    return float(torch.stack(squares).sum().sqrt())


def layer_bytes_of(model: Any, ulysses: int, ring: int, length: int) -> tuple[int, int]:
    shape = model_shape(model.config)
    return layer_bytes(shape, length=length, ulysses=ulysses, ring=ring, value_bytes=model.dtype.itemsize)


class Traffic(TorchDispatchMode):
    """Bytes that this rank sends to others in all collectives within."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # so that the operations within, on this rank's parts, come by
        if func.namespace in ("c10d", "_c10d_functional") and not func.__name__.startswith(("wait", "_wrap")):
            self.sent += sent_bytes(func.__name__.split(".")[0], args)
        return func(*args, **(kwargs or {}))


def sent_bytes(name: str, args: Any) -> int:
    """Raises AssertionError for a collective that it does not know, so that none goes uncounted."""
    if name == "alltoall_base_":  # output, input, group, ...: even parts
        group = dist.ProcessGroup.unbox(args[2])
        size, rank = group.size(), group.rank()
        parts = list(args[4]) or [args[1].shape[0] / size] * size
        return int((sum(parts) - parts[rank]) * row_bytes(args[1]))
    if name == "all_to_all_single":  # input, output parts, input parts, group
        rank = dist.get_rank(group_of(args[3]))
        return (sum(args[2]) - args[2][rank]) * row_bytes(args[0])
    if name in ("all_gather_into_tensor", "all_gather_single"):  # input, size, group
        return (args[1] - 1) * args[0].nbytes
    raise AssertionError(f"how much does {name} send?")


def group_of(name: Any) -> dist.ProcessGroup:
    from torch.distributed.distributed_c10d import _resolve_process_group

    return _resolve_process_group(name) if isinstance(name, str) else name


def row_bytes(tensor: torch.Tensor) -> int:
    return tensor.nbytes // tensor.shape[0]


def check_answer(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Raises AssertionError where a set-up trains otherwise than one process."""
    tolerance = 1e-4 if one["device"] == "cpu" else 2e-2  # float32, bfloat16
    for expected, found in zip(one["answer"], other["answer"], strict=True):
        assert abs(found / expected - 1) < tolerance, (one, other)


def print_table(results: list[dict[str, Any]]) -> None:
    print("bytes that a device sends for a layer and row, and time of a step (range)")
    print("device  processes  backend        forward  / formula     backward  / formula           ms")
    for found in results:
        low, high = (1000 * value for value in found["spread"])
        ratios = ratios_of(found)
        bytes_sent = "".join(
            f"{sent:>15,} {ratios.get(way, 1.0):>10.4g}"
            for way, sent in zip(("forward", "backward"), found["counted"], strict=True)
        )
        print(
            f"{found['device']:<7} {found['ulysses'] * found['ring']:>9}  {name_of(found):<8}{bytes_sent}"
            f"{1000 * found['seconds']:>10.0f} ({low:.0f}-{high:.0f})"
        )


def name_of(found: dict[str, Any]) -> str:
    if found["ulysses"] == found["ring"] == 1:
        return "one"
    return "ring" if found["ulysses"] == 1 else "ulysses" if found["ring"] == 1 else "hybrid"


def ratios_of(found: dict[str, Any]) -> dict[str, float]:
    """Counted / formula."""
    ways = zip(("forward", "backward"), found["counted"], found["formula"], strict=True)
    return {way: counted / expected for way, counted, expected in ways if expected}


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    ratios: dict[str, float] = {}
    targets: dict[str, float] = {}
    for found in results:
        processes = found["ulysses"] * found["ring"]
        if processes == 1:
            one = found
            continue
        name = f"{name_of(found)}, {processes} x {found['device']}"
        for way, ratio in ratios_of(found).items():
            ratios[f"{name}: bytes a layer {way}, counted / formula"] = ratio
            targets[f"{name}: bytes a layer {way}, counted / formula"] = 1.0
        ratios[f"{name}: time a step, one process / it"] = round(one["seconds"] / found["seconds"], 3)
    met = all(ratios[name] == target for name, target in targets.items())
    return {"benchmark": "sequence_parallel", "ratios": ratios, "targets": targets, "met": met}


if __name__ == "__main__":
    main()
