import copy

import pytest
import torch
from tiny_models import step, tiny_llama, tokens

from ultralong_hf.memory.optimizers import OPTIM, OffloadedState, keep_master_weights
from ultralong_hf.recipes.schema import MemorySection


def state_bytes(optimizer):
    tensors = [value for values in optimizer.state.values() for value in values.values()]
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors if tensor.numel() > 1)


def steps(model, optimizer, count):
    for _ in range(count):
        step(model, tokens())
        optimizer.step()


def test_the_state_is_there_for_steps_and_state_dicts_alone():
    plain, ours = tiny_llama(), tiny_llama()
    expected, optimizer = (torch.optim.AdamW(model.parameters(), lr=0.01) for model in (plain, ours))
    OffloadedState(optimizer)
    steps(plain, expected, 3)
    for _ in range(3):
        steps(ours, optimizer, 1)
        assert state_bytes(optimizer) == 0
    assert state_bytes(expected) > 8 * 10_000
    saved = optimizer.state_dict()["state"]
    assert state_bytes(optimizer) == state_bytes(expected)
    for number, values in expected.state_dict()["state"].items():
        for name, tensor in values.items():
            assert torch.equal(saved[number][name], tensor), name
    for theirs, weight in zip(plain.parameters(), ours.parameters(), strict=True):
        assert torch.equal(weight, theirs)


def test_a_run_goes_on_from_a_saved_state():
    model = tiny_llama()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    OffloadedState(optimizer)
    steps(model, optimizer, 2)
    again = copy.deepcopy(model)
    resumed = torch.optim.AdamW(again.parameters(), lr=0.01)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    OffloadedState(resumed)
    assert state_bytes(resumed) == 0
    for pair in ((model, optimizer), (again, resumed)):
        steps(*pair, 2)
    for theirs, weight in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(weight, theirs)


def test_only_trained_weights_in_half_precision_become_float32():
    model = tiny_llama().bfloat16()
    for weight in model.model.embed_tokens.parameters():
        weight.requires_grad_(False)
    count = keep_master_weights(model)
    assert model.model.embed_tokens.weight.dtype == torch.bfloat16
    assert model.lm_head.weight.dtype == torch.float32
    assert count == sum(w.numel() for w in model.parameters()) - model.model.embed_tokens.weight.numel()
    assert keep_master_weights(model) == 0


@pytest.mark.parametrize("name", OPTIM)
def test_every_optimizer_of_the_recipe_is_one_of_transformers(name, tmp_path):
    from transformers import TrainingArguments

    assert MemorySection(optimizer=name).optimizer == name
    assert TrainingArguments(str(tmp_path), optim=OPTIM[name], use_cpu=True).optim == OPTIM[name]


def test_optimizers_here_and_in_the_schema_are_the_same():
    from typing import get_args, get_type_hints

    hint = get_type_hints(MemorySection)["optimizer"]
    assert {name for part in get_args(hint) for name in get_args(part)} == set(OPTIM)
