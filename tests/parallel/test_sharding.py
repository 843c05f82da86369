import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed.tensor.experimental._context_parallel._load_balancer import _HeadTailLoadBalancer

from ultralong_hf.errors import BatchError, ParallelSizeError
from ultralong_hf.parallel.sharding import gather_sequence, shard_batch, shard_bounds, shard_ranges


def positions(length, **kwargs) -> list[int]:
    return [position for part in shard_ranges(length, **kwargs) for position in part]


def test_contiguous_parts_are_equal_and_in_order():
    assert [shard_bounds(12, 3, rank) for rank in range(3)] == [range(4), range(4, 8), range(8, 12)]


def test_a_ring_member_holds_one_part_from_either_end():
    held = [positions(8, rank=rank, size=2, layout="head_tail") for rank in range(2)]
    assert held == [[0, 1, 6, 7], [2, 3, 4, 5]]


@pytest.mark.parametrize("ring", [2, 3, 4])
def test_the_ring_order_is_that_of_torch(ring):
    indices = _HeadTailLoadBalancer(24, ring, torch.device("cpu"))._generate_indices()[0]
    expected = [part.tolist() for part in indices.chunk(ring)]
    assert [positions(24, rank=rank, size=ring, layout="head_tail") for rank in range(ring)] == expected


def test_neighbours_of_a_hybrid_split_what_a_ring_member_holds():
    held = [positions(16, rank=rank, size=4, layout="head_tail", ring_size=2) for rank in range(4)]
    assert held == [[0, 1, 2, 3], [12, 13, 14, 15], [4, 5, 6, 7], [8, 9, 10, 11]]
    three = [positions(12, rank=rank, size=6, layout="head_tail", ring_size=2) for rank in range(3)]
    assert three == [[0, 1], [2, 9], [10, 11]]


@given(ring=st.integers(1, 5), neighbours=st.integers(1, 5), part=st.integers(1, 3), contiguous=st.booleans())
def test_each_token_is_held_once_and_evenly(ring, neighbours, part, contiguous):
    size = ring * neighbours
    length = 2 * size * part
    layout = {"layout": "contiguous"} if contiguous else {"layout": "head_tail", "ring_size": ring}
    held = [positions(length, rank=rank, size=size, **layout) for rank in range(size)]
    assert {len(part) for part in held} == {length // size}
    assert sorted(position for part in held for position in part) == list(range(length))


def batch(length=8, rows=2) -> dict[str, torch.Tensor]:
    ids = torch.arange(rows * length).reshape(rows, length)
    return {"input_ids": ids, "labels": ids + 100, "attention_mask": torch.ones_like(ids)}


def test_the_last_label_of_a_part_is_the_first_of_the_next():
    parts = [shard_batch(batch(), rank=rank, size=2) for rank in range(2)]
    assert parts[0]["input_ids"].tolist() == [[0, 1, 2, 3], [8, 9, 10, 11]]
    assert parts[0]["shift_labels"].tolist() == [[101, 102, 103, 104], [109, 110, 111, 112]]
    assert parts[1]["shift_labels"].tolist() == [[105, 106, 107, -100], [113, 114, 115, -100]]
    assert parts[1]["position_ids"].tolist() == [[4, 5, 6, 7], [4, 5, 6, 7]]


def test_every_tensor_with_a_sequence_is_cut_and_all_else_kept():
    scores = torch.arange(32.0).reshape(2, 8, 2)
    given_batch = {**batch(), "scores": scores, "ids": torch.tensor([5, 6]), "names": ["a", "b"], "n": 3}
    part = shard_batch(given_batch, rank=1, size=4)
    assert torch.equal(part["scores"], scores[:, 2:4])
    assert part["ids"].tolist() == [5, 6]
    assert (part["names"], part["n"]) == (["a", "b"], 3)
    assert given_batch["input_ids"].shape == (2, 8)
    assert "position_ids" not in given_batch


def test_shift_labels_that_are_given_are_kept():
    part = shard_batch({**batch(), "shift_labels": batch()["input_ids"] + 7}, rank=1, size=2)
    assert part["shift_labels"].tolist() == [[11, 12, 13, 14], [19, 20, 21, 22]]


def test_padding_at_the_end_of_rows_is_fine_and_before_tokens_is_refused():
    padded = batch()
    padded["attention_mask"][0, 5:] = 0
    padded["position_ids"] = torch.tensor([[0, 1, 2, 3, 4, 1, 1, 1], list(range(8))])
    assert shard_batch(padded, rank=1, size=2)["attention_mask"].tolist() == [[1, 0, 0, 0], [1, 1, 1, 1]]
    assert shard_batch(padded, rank=1, size=2)["position_ids"].tolist() == [[4, 5, 6, 7]] * 2
    padded["attention_mask"][1, 0] = 0
    with pytest.raises(BatchError, match="padding_side='right'"):
        shard_batch(padded, rank=0, size=2)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"position_ids": torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4]] * 2)}, "do not count from 0"),
        ({"position_ids": torch.arange(8).expand(3, 2, 8)}, "do not count from 0"),
        ({"cu_seq_lens_q": torch.tensor([0, 3, 8])}, "cu_seq_lens_q"),
        ({"attention_mask": torch.ones(2, 1, 8, 8)}, r"shape \(2, 1, 8, 8\)"),
        ({"input_ids": None}, "no input_ids"),
    ],
)
def test_batches_that_say_more_than_causal_attention_are_refused(extra, message):
    with pytest.raises(BatchError, match=message):
        shard_batch({**batch(), **extra}, rank=0, size=2)


def test_rejects_rows_that_the_ranks_do_not_divide():
    with pytest.raises(ParallelSizeError, match=r"rows of 10 tokens do not split into 4 parts\. Use 8 or 12"):
        shard_bounds(10, 4, 0)
    with pytest.raises(ParallelSizeError, match="into 8 parts"):
        shard_ranges(12, rank=0, size=4, layout="head_tail")
    with pytest.raises(ParallelSizeError, match="Use 8 tokens"):
        shard_ranges(4, rank=0, size=4, layout="head_tail", ring_size=2)


def gather_and_derive(layout, ring_size, dim):
    """The gathered tensor, and this rank's gradient of a loss that weighs each place by itself."""
    import torch.distributed as dist

    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    whole = torch.arange(48.0).reshape(1, 16, 3)
    held = positions(16, rank=rank, size=size, layout=layout, ring_size=ring_size)
    mine = whole[:, held].movedim(1, dim).clone().requires_grad_()
    gathered = gather_sequence(mine, dist.group.WORLD, dim, layout=layout, ring_size=ring_size)
    (gathered.movedim(dim, 1) * whole * (rank + 1)).sum().backward()
    return held, gathered.detach().movedim(dim, 1), mine.grad.movedim(dim, 1)


@pytest.mark.parametrize(
    ("size", "layout", "ring_size", "dim"),
    [(2, "contiguous", None, 1), (2, "head_tail", None, 1), (4, "head_tail", 2, 2)],
)
def test_gathering_undoes_the_split_and_its_gradient_comes_back(workers, size, layout, ring_size, dim):
    whole = torch.arange(48.0).reshape(1, 16, 3)
    everyone = sum(range(1, size + 1))
    for held, gathered, grad in workers.run(size, gather_and_derive, layout, ring_size, dim):
        assert torch.equal(gathered, whole)
        assert torch.equal(grad, whole[:, held] * everyone)
