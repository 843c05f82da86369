import json

import pytest
import torch
import yaml

from ultralong_hf.errors import ParallelError, RecipeError
from ultralong_hf.recipes import load_recipe
from ultralong_hf.training import sft_trainer

PACKED = {"sft.packing": True, "instruct.packed_length": 128}


@pytest.fixture
def packed(recipe_file, base_folder):
    """The trainer of a recipe with overrides, from the base model."""

    def make(overrides):
        return sft_trainer(load_recipe(recipe_file, overrides), model=str(base_folder))

    return make


def test_packed_rows_hold_whole_conversations_by_best_fit(packed):
    plain, rows = packed({}).train_dataset, packed(PACKED).train_dataset
    lengths = sorted(len(sample["input_ids"]) for sample in plain)
    assert sorted(length for row in rows for length in row["seq_lengths"]) == lengths
    assert all(sum(row["seq_lengths"]) == len(row["input_ids"]) <= 128 for row in rows)
    assert len(rows) == -(-sum(lengths) // 128), "they fit into as few rows as there can be"
    whole = {tuple(sample["input_ids"]) for sample in plain}
    found = set()
    for row in rows:
        start = 0
        for length in row["seq_lengths"]:
            found.add(tuple(row["input_ids"][start : start + length]))
            start += length
    assert found == whole


def test_a_batch_of_packed_rows_tells_attention_where_each_conversation_begins(packed):
    trainer = packed(PACKED)
    row = trainer.train_dataset[0]
    batch = trainer.data_collator([row])
    starts = [0, *torch.tensor(row["seq_lengths"]).cumsum(0).tolist()]
    assert batch["cu_seq_lens_q"].tolist() == starts
    assert (batch["position_ids"][0] == 0).nonzero().flatten().tolist() == starts[:-1]
    assert "attention_mask" not in batch


def test_the_loss_of_packed_conversations_is_that_of_each_alone(packed):
    """By position too: a token of the second conversation counts where it stands in its own."""
    plain = packed({"instruct.eval_samples": 6}).evaluate()
    for eval_packing in (True, False):
        trainer = packed({**PACKED, "instruct.eval_samples": 6, "sft.eval_packing": eval_packing})
        assert len(trainer.eval_dataset) == (2 if eval_packing else 6)
        metrics = trainer.evaluate()
        assert metrics["eval_loss"] == pytest.approx(plain["eval_loss"], rel=1e-5)
        assert metrics["eval_loss_0_64"] == pytest.approx(plain["eval_loss_0_64"], rel=1e-5)
        assert "eval_loss_64_128" not in metrics, "no conversation is longer than 64 tokens"


def test_packed_rows_train_as_the_same_conversations_in_one_batch(packed):
    """The gradient of a row is that of its conversations: attention and loss keep them apart."""
    trainers = [
        packed(PACKED),
        packed({"sft.per_device_train_batch_size": 12}),
    ]
    rows = list(trainers[0].train_dataset)
    gradients = []
    for trainer, batches in zip(trainers, [rows, None], strict=True):
        samples = batches if batches is not None else list(trainer.train_dataset)
        batch = trainer.data_collator(samples)
        model = trainer.model.eval()
        model.zero_grad()
        trainer.compute_loss(model, dict(batch)).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert gradients[0].norm() > 1e-3
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_it_trains_packed_to_the_end(packed, tmp_path):
    trainer = packed(PACKED)
    trainer.train()
    trainer.save_model()
    assert json.loads((tmp_path / "sft" / "config.json").read_text())["model_type"] == "llama"


def test_rows_that_would_cut_a_conversation_are_refused(packed):
    with pytest.raises(
        RecipeError, match=r"instruct.packed_length 32 is shorter than instruct.max_length 64"
    ):
        packed({"sft.packing": True, "instruct.packed_length": 32})
    with pytest.raises(RecipeError, match=r"sft.packing_strategy is wrapped, which cuts conversations"):
        packed({"sft.packing": True, "sft.packing_strategy": "wrapped"})


def test_packing_and_split_rows_exclude_each_other_before_the_model_is_loaded(recipe_file, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    recipe = load_recipe(recipe_file, {**PACKED, "parallel.size": 2})
    with pytest.raises(ParallelError, match="packing cannot be used with rows that are split over devices"):
        sft_trainer(recipe, model=yaml.safe_load(recipe_file.read_text())["model"]["name_or_path"])
