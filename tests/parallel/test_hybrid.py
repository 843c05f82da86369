import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from ultralong_hf.parallel.groups import hybrid_group, ring_group, ulysses_group


def members(make, *, shape, **sizes):
    """Ranks that trade heads with this one, that form a ring with it, and that share its rows."""
    dist.init_process_group("gloo")
    names = ("dp_shard", "cp")[-len(shape) :]
    group = make(init_device_mesh("cpu", shape, mesh_dim_names=names)["cp"], **sizes)
    ulysses = dist.get_process_group_ranks(group.ulysses) if group.ulysses is not None else []
    ring = dist.get_process_group_ranks(group.ring.get_group()) if group.ring is not None else []
    return ulysses, ring, dist.get_process_group_ranks(group.group), group.rank, group.layout


def test_neighbours_trade_heads_and_rings_go_across(workers):
    assert workers.run(4, members, hybrid_group, shape=(4,), ulysses=2, ring=2) == [
        ([0, 1], [0, 2], [0, 1, 2, 3], 0, "head_tail"),
        ([0, 1], [1, 3], [0, 1, 2, 3], 1, "head_tail"),
        ([2, 3], [0, 2], [0, 1, 2, 3], 2, "head_tail"),
        ([2, 3], [1, 3], [0, 1, 2, 3], 3, "head_tail"),
    ]


def test_with_data_parallel_groups_neighbours_share_rows(workers):
    assert workers.run(4, members, ulysses_group, shape=(2, 2)) == [
        ([0, 1], [], [0, 1], 0, "contiguous"),
        ([0, 1], [], [0, 1], 1, "contiguous"),
        ([2, 3], [], [2, 3], 0, "contiguous"),
        ([2, 3], [], [2, 3], 1, "contiguous"),
    ]
    assert workers.run(4, members, ring_group, shape=(2, 2))[3] == ([], [2, 3], [2, 3], 1, "head_tail")
