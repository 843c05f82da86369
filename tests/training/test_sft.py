import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ultralong_hf.errors import DocumentError, ModelError
from ultralong_hf.recipes import load_recipe
from ultralong_hf.training import cpt_trainer, sft_trainer


@pytest.fixture
def recipe(recipe_file, base_folder):
    """A recipe whose CPT stage has left a model."""
    recipe = load_recipe(recipe_file, {"data.eval_rows": 0})
    cpt_trainer(recipe).save_model()
    return recipe


def test_it_starts_from_what_the_cpt_stage_left_and_trains_on_the_answers_alone(
    recipe, recipe_file, tmp_path
):
    trainer = sft_trainer(recipe)
    assert trainer.model.config.max_position_embeddings == 128
    assert len(trainer.train_dataset) == 12, "one of 13 is longer than 64 tokens"
    batch = trainer.data_collator([trainer.train_dataset[0], trainer.train_dataset[11]])
    learned = [
        trainer.processing_class.decode([token for token in row if token != -100])
        for row in batch["labels"].tolist()
    ]
    assert learned == ["0 nets<|end|>", "11 nets<|end|>"]
    # a byte, or a special token, is a token: "uhow many nets 0?eaO netse"
    padding = batch["input_ids"] == trainer.processing_class.pad_token_id
    assert (~padding).sum(dim=1).tolist() == [26, 28]
    assert batch["attention_mask"].all(), "padding at the end needs no mask, which would be N x N"

    trainer.train()
    trainer.save_model()
    keys = json.loads((tmp_path / "sft" / "config.json").read_text())
    assert keys["rope_scaling"]["factor"] == 4
    assert (
        AutoTokenizer.from_pretrained(tmp_path / "sft").chat_template
        == trainer.processing_class.chat_template
    )


def test_without_a_model_of_the_cpt_stage_it_says_what_to_do(recipe_file, base_folder):
    with pytest.raises(ModelError, match=r"holds no model yet: run examples/cpt.py with this recipe first"):
        sft_trainer(load_recipe(recipe_file))
    assert (
        sft_trainer(load_recipe(recipe_file), model=str(base_folder)).model.config.max_position_embeddings
        == 32
    )


def test_held_out_conversations_are_evaluated_by_position_before_the_first_step(
    recipe, recipe_file, base_folder
):
    trainer = sft_trainer(load_recipe(recipe_file, {"instruct.eval_samples": 2}), model=str(base_folder))
    assert (len(trainer.train_dataset), len(trainer.eval_dataset)) == (10, 2)
    metrics = trainer.evaluate()
    assert metrics["eval_loss_0_64"] == pytest.approx(metrics["eval_loss"], rel=1e-5)


def test_exact_angles_of_the_cpt_stage_stay_on(recipe_file):
    recipe = load_recipe(recipe_file, {"rope.exact_angles": True, "data.eval_rows": 0})
    trainer = cpt_trainer(recipe)
    trainer.save_model()
    tuned = sft_trainer(recipe).model
    row = torch.arange(100)[None]
    with torch.no_grad():
        assert torch.equal(tuned.eval()(row).logits, trainer.model.eval()(row).logits)
        stock = AutoModelForCausalLM.from_pretrained(trainer.args.output_dir)
        assert not torch.equal(stock(row).logits, tuned(row).logits)


def test_a_malformed_conversation_is_told_with_its_file_and_row(recipe, recipe_file, tmp_path):
    (tmp_path / "chat.jsonl").write_text('{"prompt": "hi"}')
    with pytest.raises(DocumentError, match=r"chat.jsonl, row 1: no column: .*Columns there: 'prompt'"):
        sft_trainer(recipe)
    assert [path.name for path in (tmp_path / "blend").rglob("*") if path.suffix != ".lock"] == [
        ".lock",
        "work",
    ]
