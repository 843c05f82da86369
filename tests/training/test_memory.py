"""The memory section of a recipe through the stages, on one process."""

import logging

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from trl.trainer.utils import add_fused_lm_head

from ultralong_hf.errors import RecipeError
from ultralong_hf.memory import lm_head
from ultralong_hf.memory.storage import DiskStorage
from ultralong_hf.recipes import load_recipe
from ultralong_hf.training import cpt_trainer, preference_trainer, sft_trainer

ROUNDING = 1e-5
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # peft 0.21.2


def run(recipe_file, **overrides):
    """Losses, gradient norms and weights of three steps of SGD on rows of 128 tokens."""
    keys = {"cpt.max_steps": 3, "cpt.save_strategy": "no", "cpt.learning_rate": 0.3}
    if "memory.optimizer" not in overrides:
        keys["cpt.optim"] = "sgd"
    trainer = cpt_trainer(load_recipe(recipe_file, {**keys, **overrides}))
    trainer.train()
    history = [entry for entry in trainer.state.log_history if "grad_norm" in entry]
    numbers = [float(entry[key]) for entry in history for key in ("loss", "grad_norm")]
    assert len(numbers) == 6
    return trainer, numbers, {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


@pytest.mark.parametrize(
    "keys",
    [
        {"tiled_mlp": True, "mlp_tile": 24},
        {"lm_head_tile": 16},
        {"lm_head": "whole"},
        {"checkpoint_every": 2},
        {"checkpoint_storage": "disk"},
        {"recompute": "all_but_attention"},
        {
            "tiled_mlp": True,
            "mlp_tile": 24,
            "lm_head_tile": 16,
            "checkpoint_storage": "disk",
            "recompute": "all_but_attention",
        },
    ],
    ids=lambda keys: "+".join(keys),
)
def test_each_key_leaves_losses_gradients_and_weights_as_they_are(recipe_file, tmp_path, monkeypatch, keys):
    monkeypatch.setattr("ultralong_hf.memory.storage.LEAST_BYTES", 1024)
    plain = run(recipe_file, **{"memory.tiled_mlp": False, "cpt.activation_checkpointing": False})
    keys = {**keys, **({"checkpoint_folder": str(tmp_path)} if "checkpoint_storage" in keys else {})}
    ours = run(recipe_file, **{f"memory.{key}": value for key, value in keys.items()})
    assert ours[1] == pytest.approx(plain[1], rel=ROUNDING)
    for name, tensor in plain[2].items():
        assert (ours[2][name] - tensor).norm() <= ROUNDING * tensor.norm(), name


def test_the_keys_do_reach_the_model(recipe_file, monkeypatch):
    """Without this the test above would pass for keys that do nothing."""
    put = []
    monkeypatch.setattr(DiskStorage, "put", lambda self, tensor: put.append(tensor.shape) or tensor)
    monkeypatch.setattr(DiskStorage, "get", lambda self, tensor: tensor)
    trainer, *_ = run(
        recipe_file,
        **{
            "memory.tiled_mlp": True,
            "memory.mlp_tile": 24,
            "memory.checkpoint_storage": "disk",
            "memory.recompute": "all_but_attention",
        },
    )
    assert trainer.model.model.layers[0].mlp._tile == 24
    hidden, output, logsumexp = (1, 128, 32), (1, 4, 128, 8), (1, 4, 128)
    assert put == 3 * 2 * [hidden, output, logsumexp]  # of each step and layer


def test_whole_logits_give_the_same_metrics_and_losses_by_position(recipe_file, monkeypatch):
    made = []
    score = lm_head._score
    monkeypatch.setattr(lm_head, "_score", lambda *given: made.append(given[0].shape) or score(*given))
    overrides = {"cpt.max_steps": 1, "cpt.save_strategy": "no", "cpt.optim": "sgd", "data.eval_rows": 2}
    logs = []
    for kind in ("fused", "whole"):
        trainer = cpt_trainer(load_recipe(recipe_file, {**overrides, "memory.lm_head": kind}))
        trainer.train()
        logs.append(trainer.state.log_history)
    kept = {"entropy", "mean_token_accuracy", "eval_entropy", "eval_mean_token_accuracy", "eval_loss"}
    assert kept < {key for entry in logs[0] for key in entry}
    for fused, whole in zip(*logs, strict=True):
        keys = [key for key in fused if key in kept or key.startswith("eval_loss_")]
        assert {key: whole[key] for key in keys} == pytest.approx({key: fused[key] for key in keys}, rel=1e-5)
    assert made, "the logits of whole rows were made"
    assert all(len(shape) == 3 for shape in made)


@pytest.mark.parametrize("count", [None, 5])
def test_whole_logits_answer_shifted_labels_as_the_fused_head_does(count):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    model = LlamaForCausalLM(config)
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    ids = torch.randint(40, (2, 12))
    labels = ids.masked_fill(torch.rand(ids.shape) < 0.3, -100)
    plain = model(input_ids=ids).logits
    for given in ({"labels": labels}, {"shift_labels": labels}):
        asked = {"input_ids": ids, "fused_lm_head": True, "num_items_in_batch": count, **given}
        expected = model(**asked)
        model.zero_grad()
        expected.loss.backward()
        gradients = [weight.grad.clone() for weight in model.parameters()]
        fused = model.forward
        lm_head.keep_whole_logits(model)
        ours = model(**asked)
        model.zero_grad()
        ours.loss.backward()
        for key in ("loss", "log_probs", "entropy", "is_top1", "label_mask"):
            assert torch.allclose(getattr(ours, key), getattr(expected, key), atol=1e-5), key
            assert getattr(ours, key).shape == getattr(expected, key).shape
        for weight, gradient in zip(model.parameters(), gradients, strict=True):
            assert (weight.grad - gradient).norm() <= ROUNDING * gradient.norm()
        assert torch.equal(model(input_ids=ids).logits, plain), "generation is as it was"
        model.forward = fused


def test_whole_logits_are_refused_where_the_fused_head_is_needed(recipe_file):
    recipe = load_recipe(recipe_file, {"memory.lm_head": "whole", "memory.lm_head_tile": 64})
    with pytest.raises(RecipeError) as error:
        preference_trainer(recipe, model=recipe.model.name_or_path)
    assert [fault.split(": ", 1)[1].split(" is ")[0].split(" makes ")[0] for fault in error.value.faults] == [
        "memory.lm_head whole",
        "memory.lm_head whole",
    ]


def test_rows_of_few_tiles_are_not_tiled_by_themselves(recipe_file):
    overrides = {"cpt.max_steps": 1, "cpt.save_strategy": "no"}
    whole = cpt_trainer(load_recipe(recipe_file, overrides))
    tiled = cpt_trainer(load_recipe(recipe_file, {**overrides, "memory.mlp_tile": 31}))
    assert not hasattr(whole.model.model.layers[0].mlp, "_tile")
    assert tiled.model.model.layers[0].mlp._tile == 31


def test_the_host_of_a_cpu_is_the_device_and_that_is_said(recipe_file, caplog):
    with caplog.at_level(logging.WARNING):
        run(recipe_file, **{"memory.checkpoint_storage": "host", "memory.offload_optimizer": True})
    assert "memory.checkpoint_storage host changes nothing on a CPU" in caplog.text
    assert "memory.offload_optimizer changes nothing on a CPU" in caplog.text


def test_under_bfloat16_weights_are_float32_unless_they_are_left_as_loaded(recipe_file):
    """At a rate of 1e-5 most bfloat16 weights do not move at all."""
    keys = {"model.dtype": "bfloat16", "cpt.bf16": True, "cpt.learning_rate": 1e-5}
    moved = {}
    for wish in ("float32", None):
        recipe = {**keys, "memory.master_weights": wish, "cpt.optim": "adamw_torch"}
        trainer = cpt_trainer(
            load_recipe(recipe_file, {**recipe, "cpt.max_steps": 1, "cpt.save_strategy": "no"})
        )
        before = trainer.model.model.layers[0].mlp.down_proj.weight.detach().clone()
        trainer.train()
        after = trainer.model.model.layers[0].mlp.down_proj.weight
        assert after.dtype == (torch.float32 if wish else torch.bfloat16)
        moved[wish] = float((after != before).float().mean())
    assert moved["float32"] > 0.99
    assert moved[None] < 0.2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of libraries' own
@pytest.mark.parametrize(("name", "library"), [("adamw_8bit", "bitsandbytes")])
def test_an_optimizer_of_8_bits_steps_like_one_of_32(recipe_file, name, library):
    pytest.importorskip(library)
    keys = {"cpt.learning_rate": 1e-3}
    plain = run(recipe_file, **keys, **{"memory.optimizer": "adamw"})
    small = run(recipe_file, **keys, **{"memory.optimizer": name})
    assert small[1] == pytest.approx(plain[1], rel=1e-2)
    assert small[1][0] == plain[1][0]


def test_lora_trains_embeddings_and_norms_and_leaves_a_merged_model(recipe_file, tmp_path):
    keys = {"memory.lora.rank": 4, "memory.lora.target_modules": "all-linear", "cpt.optim": "adamw_torch"}
    trainer, numbers, _ = run(recipe_file, **keys, **{"cpt.learning_rate": 1e-2})
    assert numbers[4] < numbers[0]
    trained = {
        name.rpartition(".layers.")[2] for name, w in trainer.model.named_parameters() if w.requires_grad
    }
    assert "0.input_layernorm.modules_to_save.default.weight" in trained
    assert "base_model.model.model.embed_tokens.modules_to_save.default.weight" in trained
    assert "1.mlp.up_proj.lora_A.default.weight" in trained
    assert not any("base_layer" in name for name in trained)
    trainer.save_model()
    folder = tmp_path / "cpt"
    assert (folder / "adapter" / "adapter_model.safetensors").is_file()
    assert not (folder / "adapter_config.json").exists()
    merged = AutoModelForCausalLM.from_pretrained(folder)
    assert merged.config.max_position_embeddings == 128
    ids = torch.arange(100)[None]
    with torch.no_grad():
        expected = trainer.model.eval()(input_ids=ids).logits
        assert torch.allclose(merged(input_ids=ids).logits, expected, atol=1e-4)
        with trainer.model.disable_adapter():
            assert not torch.allclose(trainer.model(input_ids=ids).logits, expected, atol=1e-2)
    next_stage = sft_trainer(load_recipe(recipe_file))
    with torch.no_grad():
        assert torch.allclose(next_stage.model.eval()(input_ids=ids).logits, expected, atol=1e-4)


def test_a_lora_run_goes_on_from_its_checkpoint(recipe_file, tmp_path):
    keys = {"memory.lora.rank": 4, "cpt.max_steps": 4, "cpt.save_steps": 2}
    whole = cpt_trainer(load_recipe(recipe_file, keys))
    whole.train()
    again = cpt_trainer(load_recipe(recipe_file, keys))
    again.train(resume_from_checkpoint=str(tmp_path / "cpt" / "checkpoint-2"))
    theirs = dict(again.model.named_parameters())
    for name, weight in whole.model.named_parameters():
        assert torch.allclose(theirs[name], weight, atol=1e-6), name


def test_tied_embeddings_stay_tied_under_lora(tmp_path):
    """The lab's are."""
    keys = {"data.target_length": 512, "data.eval_rows": 0, "cpt.eval_strategy": "no", "rope.scale": 2}
    keys |= {"cpt.max_steps": 2, "cpt.save_strategy": "no", "cpt.output_dir": str(tmp_path / "cpt")}
    keys |= {"memory.lora.rank": 4, "data.output_dir": str(tmp_path / "store"), "evaluation.lengths": [256]}
    trainer = cpt_trainer(load_recipe("lab", keys))
    trainer.train()
    trainer.save_model()
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "cpt")
    assert merged.lm_head.weight is merged.model.embed_tokens.weight
    ids = torch.arange(100)[None]
    with torch.no_grad():
        expected = trainer.model.eval()(input_ids=ids).logits
        assert torch.allclose(merged(input_ids=ids).logits, expected, atol=1e-3)


def test_a_preference_stage_with_adapters_needs_no_reference(tmp_path):
    keys = {"preference.max_steps": 2, "preference.output_dir": str(tmp_path), "memory.lora.rank": 4}
    keys |= {"preference.per_device_train_batch_size": 2, "preference.save_strategy": "no"}
    trainer = preference_trainer(load_recipe("lab", {**keys, "memory.mlp_tile": 64}), model="lab")
    assert trainer.ref_model is None
    trainer.train()
    assert trainer.model.get_base_model().model.layers[0].mlp._tile == 64
    trainer.save_model()
    assert (tmp_path / "config.json").is_file()


def test_all_that_cannot_work_is_told_before_the_model_is_loaded(recipe_file, monkeypatch):
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("read"))
    keys = {
        "cpt.activation_checkpointing": False,
        "cpt.optim": "sgd",
        "memory.recompute": "all_but_attention",
        "memory.checkpoint_storage": "disk",
        "memory.checkpoint_folder": "/no/such/folder",
        "memory.optimizer": "paged_adamw",
        "memory.offload_parameters": True,
        "memory.lora.target_modules": ["lm_head"],
        "model.attn_implementation": "eager",
    }
    with pytest.raises(RecipeError) as caught:
        cpt_trainer(load_recipe(recipe_file, keys))
    beginnings = [
        "memory.checkpoint_storage is set, but cpt.activation_checkpointing is false",
        "memory.recompute all_but_attention cannot keep eager attention",
        "memory.checkpoint_folder /no/such/folder is no folder",
        "memory.optimizer paged_adamw and cpt.optim sgd both name an optimizer",
        "memory.optimizer paged_adamw needs a GPU",
        "memory.offload_parameters is FSDP2's",
        "memory.lora.target_modules holds lm_head",
    ]
    faults = [fault for fault in caught.value.faults if "bitsandbytes" not in fault]
    assert len(faults) == len(beginnings)
    for fault, beginning in zip(faults, beginnings, strict=True):
        assert fault.startswith(f"tiny.yaml: {beginning}")
