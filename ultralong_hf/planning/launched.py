"""The device that this process runs on, as one of the table where it is one."""

from __future__ import annotations

import re
from dataclasses import replace

from ultralong_hf.planning.gpus import CPU, GPUS, Gpu, find_gpu

_NEAR = 0.06
"""Share by which memory may differ from the table's."""


def this_gpu(device_type: str) -> Gpu:
    """The first GPU of this machine, with the memory that torch finds; on a CPU, this machine."""
    if device_type != "cuda":
        return find_gpu(CPU)
    import torch

    properties = torch.cuda.get_device_properties(0)
    return match_gpu(properties.name, properties.total_memory)


def match_gpu(name: str, memory: int) -> Gpu:
    """The GPU of the table that a driver calls `name`; one that is not in it has no stated peak.

    >>> match_gpu("NVIDIA H100 80GB HBM3", 85_000_000_000).name
    'h100-80g'
    """
    words = set(re.split(r"[\s\-_]+", name.lower()))
    for gpu in GPUS.values():
        model = gpu.name.split("-")[0]
        spoken = model in words or model.removeprefix("rtx") in words
        is_pcie = "pcie" in words
        if spoken and abs(memory - gpu.memory) < _NEAR * gpu.memory and is_pcie == ("pcie" in gpu.name):
            return replace(gpu, memory=memory)
    return Gpu(
        name=name, memory=memory, flops=None, bandwidth=None, host_link=16e9, source="torch; no peak stated"
    )
