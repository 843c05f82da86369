"""How long a process waits for the others before it gives up with an error."""

from __future__ import annotations

from datetime import timedelta

import torch.distributed as dist
from torch.distributed import distributed_c10d


def limit_waits(timeout: timedelta) -> int:
    """Gives every process group of this process the timeout, and returns how many they are.

    Otherwise `ddp_timeout` would not reach all: torch gives the groups of a device mesh its own default, 10
    minutes with NCCL and 30 with gloo (torch 2.13, device_mesh.py), and transformers does not hand it on with
    use_cpu (5.23, training_args.py). To be called when all groups are there.
    """
    if not dist.is_initialized():
        return 0
    groups = list(distributed_c10d._world.pg_map)
    for group in groups:
        distributed_c10d._set_pg_timeout(timeout, group)
    return len(groups)
