from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from cases import tiny_llama
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ultralong_hf.errors import ParallelError, ParallelSizeError
from ultralong_hf.parallel.attention import NAME, install_attention
from ultralong_hf.parallel.sharding import shard_bounds
from ultralong_hf.parallel.ulysses import (
    heads_for_tokens,
    repeat_heads,
    split_rows,
    tokens_for_heads,
    ulysses_attention,
)

ROWS, LENGTH, HEAD_SIZE = 3, 24, 5


def whole_inputs(heads: int, kv_heads: int) -> list[torch.Tensor]:
    """Query, key and value, and the weight of each output in the loss."""
    generator = torch.Generator().manual_seed(0)
    counts = [heads, kv_heads, kv_heads]
    tensors = [torch.randn(ROWS, count, LENGTH, HEAD_SIZE, generator=generator) for count in counts]
    return [*tensors, torch.randn(ROWS, LENGTH, heads, HEAD_SIZE, generator=generator)]


def plain_attention(query, key, value) -> torch.Tensor:
    """Causal attention as it is written in books, [B, N, H, D]."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(2, 3) / HEAD_SIZE**0.5
    later = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
    return (scores.masked_fill(later, -torch.inf).softmax(-1) @ value).transpose(1, 2)


def attend(heads: int, kv_heads: int):
    """This rank's output and the gradients of its query, key and value."""
    dist.init_process_group("gloo")
    part = shard_bounds(LENGTH, dist.get_world_size(), dist.get_rank())
    *tensors, weight = whole_inputs(heads, kv_heads)
    mine = [tensor[:, :, part].clone().requires_grad_() for tensor in tensors]
    module = SimpleNamespace(config=SimpleNamespace(), num_key_value_groups=heads // kv_heads)
    attention = ulysses_attention(sdpa_attention_forward, "sdpa")
    with split_rows(dist.group.WORLD):
        output, _ = attention(module, *mine, None, position_ids=torch.arange(7))
        (output * weight[:, part]).sum().backward()
    return output.detach(), [tensor.grad for tensor in mine]


@pytest.mark.parametrize(
    ("size", "heads", "kv_heads"),
    [(2, 4, 4), (2, 4, 2), (2, 4, 1), (2, 6, 3), (4, 4, 2), (4, 8, 1), (3, 6, 2)],
)
def test_attention_and_its_gradients_are_those_of_whole_rows(workers, size, heads, kv_heads):
    *tensors, weight = whole_inputs(heads, kv_heads)
    for tensor in tensors:
        tensor.requires_grad_()
    expected = plain_attention(*tensors)
    (expected * weight).sum().backward()
    results = workers.run(size, attend, heads, kv_heads)
    for rank, (output, grads) in enumerate(results):
        part = shard_bounds(LENGTH, size, rank)
        torch.testing.assert_close(output, expected[:, part].detach())
        for ours, tensor in zip(grads, tensors, strict=True):
            torch.testing.assert_close(ours, tensor.grad[:, :, part])


@pytest.mark.parametrize(
    ("kv_heads", "size", "repeated"), [(4, 2, 4), (2, 4, 4), (3, 2, 6), (1, 8, 8), (8, 8, 8)]
)
def test_heads_are_repeated_to_the_least_count_that_divides(kv_heads, size, repeated):
    heads = torch.arange(kv_heads).reshape(1, kv_heads, 1, 1)
    times = repeated // kv_heads
    expected = [head for head in range(kv_heads) for _ in range(times)]
    assert repeat_heads(heads, size).flatten().tolist() == expected


def trade():
    """Global numbers (row, head, token) as this rank holds them before and after the exchange, and back."""
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    whole = torch.arange(2 * 4 * 6).reshape(2, 4, 6, 1)
    mine = whole[:, :, shard_bounds(6, size, rank)]
    traded = heads_for_tokens(mine, dist.group.WORLD)
    back = tokens_for_heads(traded.transpose(1, 2), dist.group.WORLD).transpose(1, 2)
    return torch.equal(traded, whole[:, shard_bounds(4, size, rank)]), torch.equal(back, mine)


def test_each_device_gets_all_tokens_of_its_heads_and_gives_them_back(workers):
    assert workers.run(2, trade) == [(True, True)] * 2


def refusal():
    dist.init_process_group("gloo")
    try:
        heads_for_tokens(torch.zeros(1, 3, 2, 1), dist.group.WORLD)
    except ParallelSizeError as error:
        return str(error)


def test_rejects_heads_that_the_devices_do_not_divide(workers):
    assert (
        workers.run(2, refusal)
        == ["2 devices do not divide the 3 attention heads. Use a size that does, or backend hybrid or ring."]
        * 2
    )


@torch.no_grad()
def test_where_rows_are_not_split_masks_and_generation_are_the_models_own():
    """Padding before the tokens needs a mask; a cache makes one query of many keys."""
    plain, wrapped = tiny_llama().eval(), tiny_llama().eval()
    install_attention(wrapped, "sdpa")
    assert wrapped.config._attn_implementation == NAME
    ids = torch.tensor([[0, 0, 5, 6, 7], [8, 9, 10, 11, 12]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    assert torch.equal(wrapped(ids, attention_mask=mask).logits, plain(ids, attention_mask=mask).logits)
    options = {"attention_mask": mask, "max_new_tokens": 4, "do_sample": False}
    assert torch.equal(wrapped.generate(ids, **options), plain.generate(ids, **options))


@pytest.mark.parametrize("inner", ["eager", "flex_attention"])
def test_attentions_that_need_a_mask_to_be_causal_are_refused(inner):
    with pytest.raises(ParallelError, match=f"{inner} attention is causal by a mask"):
        install_attention(tiny_llama(), inner)


def test_any_attention_of_the_registry_can_be_within(workers):
    assert "sdpa" in ALL_ATTENTION_FUNCTIONS
    assert workers.run(2, attend_with_another) == [["mine", 2, 24, None, True]] * 2


def attend_with_another():
    """What an attention of the registry is called with: its own name, local heads, whole rows, no mask."""
    from transformers import AttentionInterface

    calls = []

    def mine(module, query, key, value, attention_mask, **kwargs):
        name = module.config._attn_implementation
        calls.append([name, query.shape[1], query.shape[2], attention_mask, kwargs["is_causal"]])
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)

    AttentionInterface.register("mine", mine)
    dist.init_process_group("gloo")
    model = tiny_llama()
    install_attention(model, "mine")
    part = shard_bounds(LENGTH, dist.get_world_size(), dist.get_rank())
    with split_rows(dist.group.WORLD):
        model(torch.arange(part.start, part.stop)[None], position_ids=torch.tensor([[*part]]))
    assert len(calls) == 2
    return calls[0]


def call_with_a_mask():
    dist.init_process_group("gloo")
    attention = ulysses_attention(sdpa_attention_forward, "sdpa")
    query, key, value, _ = whole_inputs(4, 2)
    module = SimpleNamespace(config=SimpleNamespace(), is_causal=True, num_key_value_groups=2)
    with (
        split_rows(dist.group.WORLD),
        pytest.raises(ParallelError, match="an attention mask of its own"),
    ):
        attention(module, query, key, value, torch.zeros(ROWS, 1, LENGTH, LENGTH))
    return True


def test_a_model_that_makes_a_mask_of_its_own_is_stopped(workers):
    assert workers.run(2, call_with_a_mask) == [True, True]
