import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.buckets import bucket_edges, mean_by_bucket, sum_by_bucket
from ultralong_hf.evaluation.perplexity import loss_by_position, rows_from_documents


@pytest.mark.parametrize(
    ("length", "edges"),
    [
        (4096, [0, 64, 128, 256, 512, 1024, 2048, 4096]),
        (300, [0, 64, 128, 256, 300]),
        (64, [0, 64]),
        (5, [0, 5]),
    ],
)
def test_edges_are_powers_of_two_that_end_at_the_length(length, edges):
    assert bucket_edges(length) == edges


def test_means_are_taken_within_the_edges():
    assert mean_by_bucket([1.0, 3.0, 5.0, 9.0], [1, 63, 64, 200], [0, 64, 128, 192]) == [
        {"from": 0, "to": 64, "loss": 2.0, "tokens": 2},
        {"from": 64, "to": 128, "loss": 5.0, "tokens": 1},
    ]


def test_sums_of_parts_add_up_to_the_whole():
    losses, positions, edges = np.arange(10.0), np.arange(10) * 20, [0, 64, 128, 256]
    first = sum_by_bucket(losses[:4], positions[:4], edges)
    second = sum_by_bucket(losses[4:], positions[4:], edges)
    whole = sum_by_bucket(losses, positions, edges)
    for a, b, total in zip(first, second, whole, strict=True):
        assert (a + b).tolist() == total.tolist()
    assert whole[1].tolist() == [4, 3, 3]


def test_refuses_positions_and_edges_that_do_not_match():
    with pytest.raises(ValueError, match="2 losses do not match 3 positions"):
        mean_by_bucket([1.0, 2.0], [1, 2, 3], [0, 4])
    with pytest.raises(ValueError, match="ascending"):
        mean_by_bucket([1.0], [1], [4, 0])


@pytest.mark.parametrize("chunk", [16, 100, 1024])
def test_equals_the_loss_of_the_models_own_full_logits(model, chunk):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(4, 320, (3, 200), generator=generator)
    with torch.inference_mode():
        logits = model(rows).logits
    losses = F.cross_entropy(logits[:, :-1].flatten(0, 1), rows[:, 1:].flatten(), reduction="none").view(
        3, 199
    )
    found = loss_by_position(model, rows, buckets=[0, 50, 120, 200], chunk=chunk)
    for bucket, (start, end, tokens) in zip(
        found, [(0, 50, 147), (50, 120, 210), (120, 200, 240)], strict=True
    ):
        # losses[:, i] is that of the token at position i + 1
        expected = losses[:, max(start, 1) - 1 : end - 1].mean().item()
        assert (bucket["from"], bucket["to"], bucket["tokens"]) == (start, end, tokens)
        assert bucket["loss"] == pytest.approx(expected, abs=1e-5)
        assert bucket["value"] == pytest.approx(math.exp(expected), rel=1e-5)


def test_a_model_in_training_is_left_in_training(model):
    model.train()
    try:
        loss_by_position(model, [[5, 6, 7]])
        assert model.training
    finally:
        model.eval()


def test_logits_are_built_a_chunk_at_a_time(model):
    sizes = []
    handle = model.register_forward_hook(lambda *hooked: sizes.append(hooked[2].logits.shape[1]))
    try:
        loss_by_position(model, [list(range(4, 104))], chunk=40)
    finally:
        handle.remove()
    assert sizes == [40, 40, 19]


def test_refuses_rows_without_a_token_to_predict(model):
    with pytest.raises(EvaluationError, match="A row of 1 token"):
        loss_by_position(model, [[5]])
    with pytest.raises(EvaluationError, match="no row"):
        loss_by_position(model, [])


def test_rows_are_the_starts_of_long_documents(letters):
    rows = rows_from_documents(["short", "abcdefgh", "ABCDEFGHIJ", "xxxxxxxx"], letters, length=6, rows=2)
    assert [letters.decode(row) for row in rows] == ["abcdef", "ABCDEF"]


def test_short_documents_are_joined(letters):
    rows = rows_from_documents(["abcd", "efgh", "ijkl"], letters, length=5, rows=9)
    assert [letters.decode(row) for row in rows] == ["abcde", "fghij"]


def test_too_little_text_is_an_error(letters):
    with pytest.raises(EvaluationError, match="8 tokens, fewer than one row of 9"):
        rows_from_documents(["abcd", "efgh"], letters, length=9, rows=1)
