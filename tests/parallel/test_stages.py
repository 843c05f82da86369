"""The stages of a recipe whose devices share rows."""

import os
from contextlib import nullcontext
from unittest.mock import patch

import pytest
import torch
from cases import weights_of
from shims import FSDP_LAUNCH, gloo_counts_as_gpu
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM

from ultralong_hf.errors import ParallelError
from ultralong_hf.recipes import load_recipe
from ultralong_hf.training import cpt_trainer, sft_trainer
from ultralong_hf.training.parallel import parallel_settings, plan_stage

COMMON = {
    "data.target_length": 512,
    "data.eval_rows": 0,
    "cpt.eval_strategy": "no",
    "rope.scale": 2,
    "instruct.max_length": 511,
    "evaluation.lengths": [256],
}


def lab_recipe(stage, folder, **overrides):
    """Three steps of the lab's stage at a short length."""
    own = {
        "output_dir": f"{folder}/{stage}",
        "max_steps": 3,
        "optim": "sgd",
        "warmup_steps": 0,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    keys = {f"{stage}.{key}": value for key, value in own.items()}
    return load_recipe("lab", {**COMMON, **keys, "data.output_dir": f"{folder}/store", **overrides})


def run_stage(stage, folder, batch, **overrides):
    recipe = lab_recipe(stage, folder, **{f"{stage}.per_device_train_batch_size": batch, **overrides})
    trainer = cpt_trainer(recipe) if stage == "cpt" else sft_trainer(recipe, model="lab")
    trainer.train()
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    numbers = [float(entry[key]) for key in ("loss", "grad_norm") for entry in history]
    group = getattr(trainer, "sequence_group", None)
    return numbers, weights_of(trainer.model), group.size if group else 1, trainer


def run_padded(stage, folder, batch, **overrides):
    numbers, weights, size, trainer = run_stage(stage, folder, batch, **overrides)
    return numbers, weights, size, trainer.args.pad_to_multiple_of


def run_batch(folder, fsdp, **overrides):
    """As it is launched; FSDP2 by what `accelerate launch` leaves for a process."""
    shim = gloo_counts_as_gpu() if fsdp else nullcontext()
    with shim, patch.dict(os.environ, FSDP_LAUNCH if fsdp else {}):
        numbers, weights, size, trainer = run_stage(
            "cpt", folder, 1, **{"cpt.use_cpu": not fsdp, **overrides}
        )
    sharded = any(isinstance(weight, DTensor) for weight in trainer.model.parameters())
    return numbers, weights, (size, trainer.args.gradient_accumulation_steps, sharded)


@pytest.mark.parametrize("stage", ["cpt", "sft"])
def test_a_stage_on_two_devices_equals_one(workers, tmp_path, stage):
    """The conversations of the lab have different lengths, of which most are odd."""
    numbers, weights, size, padding = workers.run(1, run_padded, stage, str(tmp_path), 2)[0]
    assert (len(numbers), size, padding) == (6, 1, None)
    for ours in workers.run(2, run_padded, stage, str(tmp_path), 2, **{"parallel.size": 2}):
        assert ours[2:] == (2, 2 if stage == "sft" else None)
        assert ours[0] == pytest.approx(numbers, rel=1e-5)
        assert ours[1].keys() == weights.keys()
        for name, tensor in weights.items():
            assert (ours[1][name] - tensor).norm() <= 1e-5 * tensor.norm(), name


@pytest.mark.parametrize("fsdp", [False, True], ids=["ddp", "fsdp2"])
def test_a_global_batch_makes_the_same_steps_on_any_number_of_devices(workers, tmp_path, fsdp):
    """Two rows a step: one process in two passes, two with a row each, two that share each row."""
    batch = {"parallel.global_batch.cpt": 2}
    numbers, weights, shape = workers.run(1, run_batch, str(tmp_path), False, **batch)[0]
    assert (len(numbers), shape) == (6, (1, 2, False))
    for parts in (1, 2):
        ranks = workers.run(2, run_batch, str(tmp_path), fsdp, **{**batch, "parallel.size": parts})
        assert [rank[2] for rank in ranks] == [(parts, parts, fsdp)] * 2
        for ours in ranks:
            assert ours[0] == pytest.approx(numbers, rel=1e-5)
            for name, tensor in weights.items():
                assert (ours[1][name] - tensor).norm() <= 1e-5 * tensor.norm(), name


def test_a_wrong_set_up_is_refused_before_the_weights_are_read(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("read"))
    recipe = lab_recipe("cpt", tmp_path, **{"parallel.size": 8, "parallel.backend": "ulysses"})
    with pytest.raises(ParallelError, match="ulysses spreads the 4 attention heads over 8 devices"):
        cpt_trainer(recipe)
    recipe = lab_recipe("cpt", tmp_path, **{"parallel.size": 4, "model.attn_implementation": "eager"})
    with pytest.raises(ParallelError, match="eager"):
        cpt_trainer(recipe)


def test_auto_leaves_short_rows_on_one_device(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "4")
    plugin = plan_stage(lab_recipe("cpt", tmp_path), "cpt", None, length=512)
    assert (plugin.resolved.size, plugin.resolved.sizes.dp_shard) == (1, 4)


@pytest.mark.parametrize(
    ("launched", "values", "added"),
    [
        (None, {}, {"fsdp", "fsdp_config", "pad_to_multiple_of"}),
        (None, {"fsdp": False, "pad_to_multiple_of": 8}, set()),
        ("ACCELERATE_USE_FSDP", {}, {"pad_to_multiple_of"}),
    ],
)
def test_several_gpus_shard_the_model_unless_something_else_is_said(
    monkeypatch, tmp_path, launched, values, added
):
    monkeypatch.setenv("WORLD_SIZE", "4")
    plugin = plan_stage(
        lab_recipe("sft", tmp_path, **{"parallel.size": 4}), "sft", None, length=500, padded=True
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    if launched:
        monkeypatch.setenv(launched, "true")
    settings = parallel_settings(plugin, values, padded=True)
    assert settings.keys() == added
    assert settings.get("pad_to_multiple_of", 4) == 4


def test_padding_that_does_not_split_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "4")
    recipe = lab_recipe("sft", tmp_path, **{"parallel.size": 4, "sft.pad_to_multiple_of": 6})
    with pytest.raises(ParallelError, match="pad_to_multiple_of is 6"):
        plan_stage(recipe, "sft", None, length=500, padded=True)
