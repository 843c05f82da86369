import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from ultralong_hf.errors import KernelError, MachineError, ModelError, ParallelError, RecipeError, StoreError
from ultralong_hf.recipes import load_recipe
from ultralong_hf.training import cpt_trainer
from ultralong_hf.training.configs import stage_config

# transformers 5.23 warns of its own deprecated name when TRL's selective checkpointing calls it
pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")


def losses_of(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def weights_of(trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in trainer.model.state_dict().items()}


def test_one_evaluation_runs_before_the_first_step_with_the_loss_by_position(recipe_file):
    trainer = cpt_trainer(load_recipe(recipe_file, {"cpt.max_steps": 1}))
    expected = loss_by_bucket(trainer)
    heads_called = []
    trainer.model.lm_head.register_forward_hook(lambda *_: heads_called.append(1))
    trainer.train()
    before = trainer.state.log_history[0]
    assert before["step"] == 0
    buckets = {key: value for key, value in before.items() if key.startswith("eval_loss_")}
    assert list(buckets) == ["eval_loss_0_64", "eval_loss_64_128"]
    assert buckets == pytest.approx(expected, rel=1e-5)
    assert before["eval_loss"] == pytest.approx(
        (63 * buckets["eval_loss_0_64"] + 64 * buckets["eval_loss_64_128"]) / 127
    )
    assert heads_called == [], "no logits over the vocabulary are built"


def loss_by_bucket(trainer) -> dict[str, float]:
    """The same from whole logits: positions 1 to 63 and 64 to 127 of all held-out rows."""
    rows = torch.stack([torch.as_tensor(row["input_ids"]).long() for row in trainer.eval_dataset])
    assert rows.shape == (3, 128)
    with torch.no_grad():
        logits = trainer.model.eval()(rows).logits[:, :-1]
    losses = F.cross_entropy(logits.transpose(1, 2), rows[:, 1:], reduction="none")
    return {"eval_loss_0_64": losses[:, :63].mean().item(), "eval_loss_64_128": losses[:, 63:].mean().item()}


def test_the_store_is_made_once_and_its_last_rows_are_held_out(recipe_file, tmp_path):
    trainer = cpt_trainer(load_recipe(recipe_file))
    manifest = (tmp_path / "store" / "manifest.json").stat().st_mtime_ns
    rows = len(trainer.train_dataset) + len(trainer.eval_dataset)
    assert len(trainer.eval_dataset) == 3
    again = cpt_trainer(load_recipe(recipe_file, {"data.eval_rows": 1}))
    assert len(again.train_dataset) == rows - 1
    assert (tmp_path / "store" / "manifest.json").stat().st_mtime_ns == manifest
    with pytest.raises(StoreError):
        cpt_trainer(load_recipe(recipe_file, {"data.target_length": 64}))
    with pytest.raises(RecipeError, match=f"data.eval_rows is {rows}, but there are only {rows}"):
        cpt_trainer(load_recipe(recipe_file, {"data.eval_rows": rows}))


def test_a_saved_model_loads_in_plain_transformers_with_the_keys_of_both_generations(recipe_file, tmp_path):
    trainer = cpt_trainer(load_recipe(recipe_file, {"cpt.max_steps": 1, "rope.original_length": 32}))
    trainer.train()
    trainer.save_model()
    keys = json.loads((tmp_path / "cpt" / "config.json").read_text())
    assert keys["max_position_embeddings"] == 128
    assert keys["rope_parameters"]["rope_type"] == keys["rope_scaling"]["rope_type"] == "llama3"
    assert keys["rope_parameters"]["factor"] == keys["rope_scaling"]["factor"] == 4
    assert keys["rope_theta"] == keys["rope_parameters"]["rope_theta"] == 10000
    checkpoint = json.loads((tmp_path / "cpt" / "checkpoint-1" / "config.json").read_text())
    assert checkpoint["rope_parameters"] == keys["rope_parameters"]
    assert "rope_scaling" not in checkpoint, "transformers 5.23 could not resume from it"

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "cpt")
    assert AutoTokenizer.from_pretrained(tmp_path / "cpt").model_max_length == 128
    row = torch.arange(128)[None]
    with torch.no_grad():
        assert torch.equal(model(row).logits, trainer.model.eval()(row).logits)


def test_training_changes_the_weights_and_lowers_the_loss(recipe_file):
    trainer = cpt_trainer(load_recipe(recipe_file, {"cpt.max_steps": 8, "data.eval_rows": 0}))
    before = weights_of(trainer)
    trainer.train()
    losses = losses_of(trainer)
    assert losses[-1] < losses[0] - 0.5
    assert all(not torch.equal(before[name], tensor) for name, tensor in weights_of(trainer).items())


def test_a_resumed_run_equals_one_that_was_not_interrupted(recipe_file, tmp_path):
    whole = cpt_trainer(load_recipe(recipe_file, {"cpt.output_dir": str(tmp_path / "whole")}))
    whole.train()
    # the same run, as if killed between steps 2 and 6: its later checkpoints are not there
    resumed = cpt_trainer(load_recipe(recipe_file, {"cpt.output_dir": str(tmp_path / "resumed")}))
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert len(losses_of(whole)) == 6
    assert losses_of(resumed) == losses_of(whole)
    for name, tensor in weights_of(whole).items():
        assert torch.equal(weights_of(resumed)[name], tensor), name


def step_losses(recipe_file, **overrides) -> list[float]:
    """Losses of 3 steps, then a sum of the weights after them."""
    trainer = cpt_trainer(load_recipe(recipe_file, {"cpt.max_steps": 3, "data.eval_rows": 0, **overrides}))
    trainer.train()
    return [*losses_of(trainer), sum(tensor.double().sum().item() for tensor in weights_of(trainer).values())]


@pytest.mark.parametrize("kwargs", [None, {"every_n_layers": 2}, {"selective": True}])
def test_memory_options_leave_losses_and_weights_unchanged(recipe_file, kwargs):
    plain = step_losses(recipe_file, **{"cpt.activation_checkpointing": False})
    option = {"cpt.activation_checkpointing": True, "cpt.activation_checkpointing_kwargs": kwargs}
    assert step_losses(recipe_file, **option) == pytest.approx(plain, rel=1e-6)


def test_offloading_to_the_host_is_refused_where_there_is_no_device(recipe_file, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    for override in (
        {"cpt.activation_checkpointing_kwargs": {"offload": True}},
        {"cpt.activation_offloading": True},
    ):
        with pytest.raises(MachineError, match="needs a GPU"):
            stage_config(load_recipe(recipe_file, override), "cpt", evaluates=False)


def test_checkpointing_recomputes_every_layer_or_every_second(recipe_file):
    """Counts calls of the layers, so that the test above cannot pass by an option that is ignored."""

    def calls(kwargs) -> list[int]:
        option = {"cpt.max_steps": 1, "data.eval_rows": 0, "cpt.activation_checkpointing_kwargs": kwargs}
        trainer = cpt_trainer(load_recipe(recipe_file, option))
        counts = [0, 0]
        for index, layer in enumerate(trainer.model.model.layers):

            def count(*_, index=index):
                counts[index] += 1

            layer.input_layernorm.register_forward_hook(count)
        trainer.train()
        return counts

    assert calls({}) == [2, 2]
    assert sorted(calls({"every_n_layers": 2})) == [1, 2]


def test_a_new_separator_token_gets_embeddings_and_is_saved_with_the_tokenizer(recipe_file, tmp_path):
    separator = {"kind": "new_token", "value": "<|doc|>"}
    recipe = load_recipe(
        recipe_file, {"data.separator": separator, "cpt.max_steps": 1, "data.loss_on_separators": False}
    )
    trainer = cpt_trainer(recipe)
    new = len(trainer.processing_class) - 1
    assert trainer.model.get_input_embeddings().weight.shape[0] == new + 1
    batch = trainer.data_collator([trainer.train_dataset[0]])
    assert (batch["input_ids"] == new).any()
    assert (batch["labels"][batch["input_ids"] == new] == -100).all()
    trainer.train()
    trainer.save_model()
    assert AutoTokenizer.from_pretrained(tmp_path / "cpt").convert_tokens_to_ids("<|doc|>") == new
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "cpt").config.vocab_size == new + 1


@pytest.mark.parametrize("override", [{"data.mask_documents": True}, {"data.separator": {"kind": "masked"}}])
def test_documents_can_be_masked_from_each_other(recipe_file, override):
    trainer = cpt_trainer(load_recipe(recipe_file, {**override, "cpt.max_steps": 1}))
    batch = trainer.data_collator([trainer.train_dataset[0]])
    assert (batch["position_ids"] == 0).sum() > 1
    trainer.train()
    assert np.isfinite(losses_of(trainer)).all()


def test_a_loaded_model_is_extended_in_place_and_needs_its_tokenizer(recipe_file, base_folder):
    recipe = load_recipe(recipe_file)
    model = AutoModelForCausalLM.from_pretrained(base_folder)
    with pytest.raises(ModelError, match="without its tokenizer"):
        cpt_trainer(recipe, model=model)
    trainer = cpt_trainer(recipe, model=model, tokenizer=AutoTokenizer.from_pretrained(base_folder))
    assert trainer.model is model
    assert model.config.max_position_embeddings == 128


def test_a_model_that_is_not_there_is_told(recipe_file, tmp_path):
    with pytest.raises(ModelError, match="nowhere"):
        cpt_trainer(load_recipe(recipe_file, {"model.name_or_path": str(tmp_path / "nowhere")}))


def test_pickled_weights_are_not_loaded(recipe_file, base_folder, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(base_folder)
    folder = tmp_path / "pickled"
    AutoTokenizer.from_pretrained(base_folder).save_pretrained(folder)
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        cpt_trainer(load_recipe(recipe_file, {"model.name_or_path": str(folder)}))


def test_liger_kernels_are_refused_without_a_gpu(recipe_file, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.xpu, "is_available", lambda: False)
    with pytest.raises(KernelError, match="need a GPU"):
        cpt_trainer(load_recipe(recipe_file, {"model.liger_kernels": True}))


def test_what_trl_refuses_is_told_as_a_fault_of_the_recipe(recipe_file):
    recipe = load_recipe(recipe_file, {"cpt.bf16": True, "cpt.use_cpu": False})
    with pytest.raises(RecipeError, match=r"tiny.yaml, section cpt: Your setup doesn't support bf16"):
        stage_config(recipe, "cpt", evaluates=False)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="with a device the processes find each other")
def test_processes_that_do_not_know_of_each_other_are_refused(recipe_file, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    recipe = load_recipe(recipe_file, {"cpt.use_cpu": False})
    with pytest.raises(
        MachineError, match=r"launched as 2 processes, but accelerate sees 1: .* add --use_cpu"
    ):
        stage_config(recipe, "cpt", evaluates=False)


def test_the_config_has_the_keys_of_the_recipe_over_our_defaults(recipe_file):
    recipe = load_recipe(recipe_file)
    args = stage_config(recipe, "cpt", evaluates=True)
    assert (args.eval_on_start, args.per_device_eval_batch_size, args.activation_checkpointing) == (
        True,
        1,
        True,
    )
    assert (args.max_length, args.dataset_kwargs) == (None, {"skip_prepare_dataset": True})
    assert args.max_steps == 6
    recipe = load_recipe(
        recipe_file, {"cpt.activation_checkpointing": False, "cpt.per_device_eval_batch_size": 2}
    )
    args = stage_config(recipe, "cpt", evaluates=False)
    assert (args.eval_on_start, args.per_device_eval_batch_size, args.activation_checkpointing) == (
        False,
        2,
        False,
    )


def test_more_devices_than_there_are_cannot_share_a_row(recipe_file):
    with pytest.raises(ParallelError, match="2 devices cannot share a sequence"):
        cpt_trainer(load_recipe(recipe_file, {"parallel.size": 2}))
