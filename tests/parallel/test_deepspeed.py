import importlib.util
import os
from types import SimpleNamespace
from unittest.mock import patch

import pytest
from accelerate.utils import DistributedType
from cases import LENGTH, _arguments, collate, tiny_llama, tokenizer, train, uneven_rows
from datasets import Dataset
from launcher import Workers
from shims import gloo_counts_as_gpu
from transformers import LlamaConfig

from ultralong_hf.errors import ParallelError
from ultralong_hf.parallel.deepspeed import check_deepspeed
from ultralong_hf.parallel.plugin import SequenceParallelPlugin
from ultralong_hf.parallel.requirements import Launch

DEEPSPEED = Launch(deepspeed=True, zero_stage=3)


def accelerator(kind=DistributedType.DEEPSPEED, stage=3, sp_size=2):
    """What check_deepspeed reads of an Accelerator."""
    return SimpleNamespace(
        distributed_type=kind,
        state=SimpleNamespace(deepspeed_plugin=SimpleNamespace(zero_stage=stage)),
        parallelism_config=SimpleNamespace(sp_size=sp_size),
    )


def test_the_plan_becomes_the_settings_of_alst():
    plugin = SequenceParallelPlugin(2, "deepspeed", attention="flash_attention_2")
    plugin.resolve(LlamaConfig(), 4096, 4, launch=DEEPSPEED)
    config = plugin.parallelism_config()
    assert (config.sp_size, config.sp_backend, config.cp_size) == (2, "deepspeed", 1)
    assert config.sp_handler.sp_attn_implementation == "flash_attention_2"
    assert plugin.fsdp_settings() == {}


def test_zero_3_is_accepted():
    check_deepspeed(accelerator(), 2)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_lower_stages_are_refused_with_the_reason(stage):
    with pytest.raises(ParallelError) as caught:
        check_deepspeed(accelerator(stage=stage), 2)
    assert str(caught.value) == (
        f"backend deepspeed needs ZeRO stage 3, not {stage}: at ZeRO stages 0 to 2 its gradients come out as "
        "many times too large as devices share a row (DeepSpeed 0.19.8, its issue 5248); Adam hides that, "
        "clipping and SGD do not."
    )
    with pytest.raises(ParallelError, match="2 times too large"):
        SequenceParallelPlugin(2, "deepspeed").resolve(
            LlamaConfig(), 4096, 2, launch=Launch(deepspeed=True, zero_stage=stage)
        )


def test_a_launch_without_deepspeed_or_its_sizes_is_refused():
    with pytest.raises(ParallelError, match="needs a launch with DeepSpeed"):
        check_deepspeed(accelerator(kind=DistributedType.MULTI_GPU), 2)
    with pytest.raises(ParallelError, match="accelerate was told sp_size 1, and the plan says 2"):
        check_deepspeed(accelerator(sp_size=1), 2)


@pytest.fixture
def own_workers():
    """DeepSpeed leaves a state of its own in a process."""
    workers = Workers(timeout=500)
    yield workers
    workers.stop()


def collate_with_positions(rows):
    import torch

    batch = collate(rows)
    return {**batch, "position_ids": torch.arange(LENGTH).expand_as(batch["input_ids"])}


def train_with_deepspeed(folder):
    """Losses, gradient norms and weights of three steps at ZeRO stage 3."""
    environment = {"DS_ACCELERATOR": "cpu", "ACCELERATE_USE_DEEPSPEED": "true", "LOCAL_SIZE": "2"}
    with patch.dict(os.environ, environment), gloo_counts_as_gpu():
        import deepspeed
        from trl import SFTConfig, SFTTrainer

        model = tiny_llama()
        plugin = SequenceParallelPlugin(2, "deepspeed")
        plugin.resolve(model.config, LENGTH, launch=DEEPSPEED)
        args = SFTConfig(
            dataset_kwargs={"skip_prepare_dataset": True},
            max_length=None,
            shuffle_dataset=False,
            per_device_train_batch_size=1,
            save_strategy="no",
            parallelism_config=plugin.parallelism_config(),
            deepspeed={
                "zero_optimization": {"stage": 3},
                "train_micro_batch_size_per_gpu": 1,
                "gradient_accumulation_steps": 1,
                "gradient_clipping": "auto",
                "zero_allow_untrusted_optimizer": True,
                "zero_force_ds_cpu_optimizer": False,
            },
            **_arguments(folder, 3, False, use_cpu=False),
        )
        trainer = SFTTrainer(
            model=model,
            args=args,
            train_dataset=Dataset.from_list(uneven_rows(8)),
            data_collator=collate_with_positions,
            processing_class=tokenizer(),
        )
        plugin.attach(trainer)
        trainer.train()
        history = [entry for entry in trainer.state.log_history if "loss" in entry]
        weights = {}
        for name, parameter in trainer.model.named_parameters():
            with deepspeed.zero.GatheredParameters([parameter]):
                weights[name] = parameter.detach().clone()
        return [[entry[key] for entry in history] for key in ("loss", "grad_norm")], weights


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
def test_zero_3_trains_as_one_process(own_workers, tmp_path):
    """DeepSpeed compiles an operator at the first run, which needs a C++ compiler and ninja."""
    expected = own_workers.run(1, train, str(tmp_path))[0]
    for numbers, weights in own_workers.run(2, train_with_deepspeed, str(tmp_path)):
        losses, norms = numbers
        assert losses == pytest.approx(expected["losses"], rel=1e-5)
        assert [float(norm) for norm in norms] == pytest.approx(expected["grad_norms"], rel=1e-5)
        assert weights.keys() == expected["weights"].keys()
        for name, tensor in weights.items():
            assert (tensor - expected["weights"][name]).norm() < 1e-5 * tensor.norm(), name
