"""No tensor grows with the square of a row's tokens: no mask, no scores, on any path."""

import pytest
import torch
from mask_cases import N, NoSquares, SquareError, run, run_pairs

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

ULYSSES = {"size": 2, "backend": "ulysses"}
RING = {"size": 2, "backend": "ring"}
HYBRID = {"size": 4, "backend": "hybrid"}


@pytest.mark.parametrize("evaluate", [False, True], ids=["train", "evaluate"])
@pytest.mark.parametrize("padded", [False, True], ids=["rows", "padded"])
@pytest.mark.parametrize(("processes", "parallel"), [(2, ULYSSES), (2, RING), (4, HYBRID)])
def test_no_square_of_a_row_is_built(workers, tmp_path, processes, parallel, padded, evaluate):
    found = workers.run(processes, run, str(tmp_path), parallel=parallel, padded=padded, evaluate=evaluate)
    assert all(isinstance(seen, int) and seen > 200 for seen in found), found


@pytest.mark.parametrize("parallel", [ULYSSES, RING])
def test_no_square_is_built_under_fsdp_and_checkpointing(workers, tmp_path, parallel):
    found = workers.run(2, run, str(tmp_path), parallel=parallel, padded=True, fsdp=True, checkpointing=True)
    assert all(isinstance(seen, int) and seen > 200 for seen in found), found


@pytest.mark.parametrize("evaluate", [False, True], ids=["train", "evaluate"])
@pytest.mark.parametrize("padded", [False, True], ids=["rows", "padded"])
def test_no_square_is_built_on_one_device(workers, tmp_path, padded, evaluate):
    (found,) = workers.run(1, run, str(tmp_path), padded=padded, padding_mask=False, evaluate=evaluate)
    assert isinstance(found, int), found
    assert found > 200


@pytest.mark.parametrize("parallel", [None, ULYSSES, RING], ids=["one", "ulysses", "ring"])
def test_no_square_is_built_for_preferences(workers, tmp_path, parallel):
    found = workers.run(parallel["size"] if parallel else 1, run_pairs, str(tmp_path), parallel=parallel)
    assert all(isinstance(seen, int) and seen > 200 for seen in found), found


def test_the_watch_finds_the_mask_that_padding_makes_without_us(workers, tmp_path):
    (found,) = workers.run(1, run, str(tmp_path), padded=True)
    assert isinstance(found, str), "transformers' sdpa makes a mask of a padded batch"
    assert f"{N}, {N}" in found


def test_the_watch_finds_eager_attention(workers, tmp_path):
    (found,) = workers.run(1, run, str(tmp_path), attention="eager")
    assert isinstance(found, str)


def test_the_watch_sees_backward():
    values = torch.ones(8, 1, requires_grad=True)

    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, given):
            return given.sum()

        @staticmethod
        def backward(ctx, grad):
            return (grad.expand(8, 8).sum(1, keepdim=True),)

    with NoSquares(8, 8):
        result = Square.apply(values)
        with pytest.raises(SquareError, match=r"made \(8, 8\)"):
            result.backward()
