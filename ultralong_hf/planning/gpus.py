"""GPUs by name: memory, peak and bandwidth, each with its source."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ultralong_hf.errors import PlanError
from ultralong_hf.recipes.checking import nearest

MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Gpu:
    name: str
    memory: int
    """Bytes that a process finds in all."""
    flops: float | None
    """Operations a second in bfloat16 on dense matrices, as the maker states them; None: not stated."""
    bandwidth: float | None
    """Bytes a second of its memory."""
    host_link: float
    """Bytes a second to host memory, one way: PCIe of its generation, 16 lanes, or NVLink-C2C."""
    source: str
    per_node: int = 8
    """GPUs of one machine, as they are usually built."""


def _nvidia(
    name: str, mib: int, teraflops: float, terabytes: float, gigabytes: float, source: str, per_node: int = 8
) -> Gpu:
    return Gpu(
        name=name,
        memory=mib * MIB,
        flops=teraflops * 1e12,
        bandwidth=terabytes * 1e12,
        host_link=gigabytes * 1e9,
        source=f"{source}; memory: nvidia-smi",
        per_node=per_node,
    )


GPUS = {
    gpu.name: gpu
    for gpu in (
        _nvidia("h100-80g", 81559, 989.4, 3.35, 64, "NVIDIA H100 datasheet, SXM5"),
        _nvidia("h100-pcie", 81559, 756.5, 2.0, 64, "NVIDIA H100 datasheet, PCIe"),
        _nvidia("h200-141g", 143771, 989.4, 4.8, 64, "NVIDIA H200 datasheet, SXM5"),
        _nvidia("b200-180g", 183359, 2250, 8.0, 64, "NVIDIA HGX B200 datasheet"),
        _nvidia("a100-80g", 81920, 312, 2.039, 32, "NVIDIA A100 datasheet, SXM4 80 GB"),
        _nvidia("a100-40g", 40960, 312, 1.555, 32, "NVIDIA A100 datasheet, SXM4 40 GB"),
        _nvidia("l40s-48g", 46068, 362.05, 0.864, 32, "NVIDIA L40S datasheet, without sparsity"),
        _nvidia("rtx4090-24g", 24564, 165.2, 1.008, 32, "NVIDIA Ada architecture paper, float32 sums", 1),
        Gpu(
            name="mi300x-192g",
            memory=196592 * MIB,
            flops=1307.4e12,
            bandwidth=5.3e12,
            host_link=64e9,
            source="AMD Instinct MI300X data sheet",
        ),
    )
}
"""Name -> GPU. Peaks are without sparsity."""

CPU = "cpu"
"""This machine, one process after another of its memory; what a CPU can do is not stated, so no time is."""


def find_gpu(name: str) -> Gpu:
    """The GPU of a name, in any case; `cpu` is this machine. Raises PlanError with the names there are."""
    key = name.lower().replace("_", "-")
    if key == CPU:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Gpu(name=CPU, memory=memory, flops=None, bandwidth=None, host_link=1e10, source="this machine")
    short = {gpu.split("-")[0]: gpu for gpu in reversed(GPUS)}
    if key in GPUS or key in short:
        return GPUS[key if key in GPUS else short[key]]
    names = (*GPUS, CPU)
    raise PlanError(f"{name!r} is no GPU of the table: {', '.join(names)}.{nearest(key, names)}")
