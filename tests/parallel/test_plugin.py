from contextlib import nullcontext
from functools import partial

import pytest
import torch
from cases import LENGTH, collate, tiny_llama, tiny_mixtral, tokenizer, uneven_rows
from datasets import Dataset
from shims import gloo_counts_as_gpu
from torch import nn
from transformers import LlamaConfig, LlamaForSequenceClassification, Trainer, TrainingArguments
from trl import RewardTrainer, SFTConfig, SFTTrainer

from ultralong_hf.errors import BatchError, MachineError, ParallelError, ParallelSizeError
from ultralong_hf.footprint import Setup
from ultralong_hf.parallel import wiring
from ultralong_hf.parallel.plugin import SequenceParallelPlugin

LLAMA_8B = LlamaConfig(
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    vocab_size=128256,
)
K, M, GIB = 2**10, 2**20, 2**30


def test_auto_names_sizes_backend_and_reasons_from_the_length_alone():
    plugin = SequenceParallelPlugin(gpus_per_node=8)
    plan = plugin.resolve(LLAMA_8B, 4 * M, 64, gpu_memory=80 * GIB, setup=Setup(length=1, storage="host"))
    assert (plan.backend, plan.size, plan.length) == ("ulysses", 32, 4 * M)
    assert [reason.split(":")[0] for reason in plan.reasons] == ["32 devices share a sequence", "ulysses"]
    assert plan is plugin.resolved
    above_the_heads = SequenceParallelPlugin(64, gpus_per_node=8).resolve(LLAMA_8B, 4 * M, 64)
    assert (above_the_heads.backend, above_the_heads.sizes.ulysses, above_the_heads.sizes.ring) == (
        "hybrid",
        8,
        8,
    )


def test_the_plan_becomes_the_settings_of_accelerate():
    plugin = SequenceParallelPlugin(4, "hybrid", ulysses_size=2, rotation="alltoall")
    plan = plugin.resolve(LLAMA_8B, 8 * K, 16)
    config = plugin.parallelism_config()
    assert (config.cp_size, config.dp_shard_size, config.dp_replicate_size) == (4, 4, 1)
    assert config.cp_handler.cp_comm_strategy == "alltoall"
    assert (plan.sizes.ulysses, plan.sizes.ring, plan.size) == (2, 2, 4)
    settings = plugin.fsdp_settings()
    args = TrainingArguments(**settings, use_cpu=True, report_to="none")
    assert args.fsdp_plugin_args["fsdp_version"] == 2
    assert args.fsdp_plugin_args["state_dict_type"] == "FULL_STATE_DICT"


def test_rows_that_one_device_holds_need_no_settings():
    plugin = SequenceParallelPlugin()
    assert plugin.resolve(LLAMA_8B, 8 * K, 1).backend == "none"
    assert plugin.parallelism_config() is None


def test_without_a_plan_the_length_is_asked_for():
    with pytest.raises(ParallelSizeError, match=r"call resolve\(model.config, length\)"):
        SequenceParallelPlugin().parallelism_config()


def trainer_of(folder, *, model=None, **arguments) -> SFTTrainer:
    args = SFTConfig(
        output_dir=folder,
        use_cpu=True,
        bf16=False,
        report_to="none",
        max_steps=1,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        **arguments,
    )
    return SFTTrainer(
        model=model or tiny_llama(),
        args=args,
        train_dataset=Dataset.from_list(uneven_rows(2)),
        data_collator=collate,
        processing_class=tokenizer(),
    )


def attach_to(folder, plugin, length=None, arguments=None):
    """What attach prints on this rank, or the error's message."""
    import contextlib
    import io

    trainer = trainer_of(folder, **(arguments or {}))
    plugin = SequenceParallelPlugin(**plugin)
    printed = io.StringIO()
    try:
        if length is not None:
            plugin.resolve(trainer.model.config, length)
        with contextlib.redirect_stdout(printed):
            assert plugin.attach(trainer) is trainer
    except (ParallelError, MachineError) as error:
        return str(error)
    return printed.getvalue().splitlines()


def test_the_reasons_are_printed_by_the_first_process(workers, tmp_path):
    printed = workers.run(2, attach_to, str(tmp_path), {"size": 2})
    assert printed == [
        [
            "parallel: 2 devices share a sequence, as asked.",
            "parallel: ulysses: 2 devices divide the 4 attention heads, so that each runs any exact "
            "attention on whole sequences.",
            "parallel: attention: sdpa; only Hopper with a half-precision dtype has others to choose from.",
        ],
        [],
    ]


def test_auto_without_a_length_is_refused(workers, tmp_path):
    (message, _) = workers.run(2, attach_to, str(tmp_path), {})
    assert message.startswith("size auto depends on how long rows are: call resolve(model.config, length)")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor cannot be used"),
        ({"average_tokens_across_devices": False}, "average_tokens_across_devices must be true"),
    ],
)
def test_arguments_that_make_another_loss_are_refused(workers, tmp_path, arguments, message):
    answers = workers.run(2, attach_to, str(tmp_path), {"size": 2}, arguments=arguments)
    assert all(message in answer for answer in answers)


class OwnLoss(nn.Module):
    """A model that averages its loss itself."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = tiny_llama()
        self.config = self.inner.config

    def forward(self, input_ids, labels, attention_mask=None):
        return self.inner(input_ids, attention_mask=attention_mask, labels=labels)


def attach_to_other_losses(folder):
    """A model that averages by itself, one with a score a row, a trainer of preferences over rows."""
    args = TrainingArguments(output_dir=folder, use_cpu=True, report_to="none")
    classifier = LlamaForSequenceClassification(tiny_llama().config)
    messages = []
    for model in (OwnLoss(), classifier):
        trainer = Trainer(model=model, args=args)
        with pytest.raises(ParallelError) as caught:
            SequenceParallelPlugin(2, "ulysses").attach(trainer)
        messages.append(str(caught.value).split(".")[0])
    trainer.__class__ = RewardTrainer
    with pytest.raises(ParallelError) as caught:
        SequenceParallelPlugin(2, "ulysses").attach(trainer)
    return [*messages, str(caught.value)]


def test_losses_that_are_no_sum_over_tokens_are_refused(workers, tmp_path):
    for messages in workers.run(2, attach_to_other_losses, str(tmp_path)):
        assert messages[0].startswith("OwnLoss computes its loss from one device's tokens")
        assert messages[1].startswith("LlamaForSequenceClassification computes its loss from one device's")
        assert messages[2].startswith("RewardTrainer computes its loss from one device's tokens. Rows can be")


def attach_beside_the_launcher(folder, told, size):
    """accelerate has FSDP2 and cp_size from the launcher already."""
    import os
    from unittest.mock import patch

    environment = {
        "ACCELERATE_USE_PARALLELISM_CONFIG": "true",
        "PARALLELISM_CONFIG_CP_SIZE": str(told),
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
    }
    with gloo_counts_as_gpu(), patch.dict(os.environ, environment):
        args = TrainingArguments(output_dir=folder, report_to="none", fsdp=True, fsdp_config={"version": 2})
        trainer = Trainer(model=tiny_llama(), args=args)
        mesh = trainer.accelerator.torch_device_mesh
        try:
            SequenceParallelPlugin(size, "ulysses").attach(trainer)
        except ParallelError as error:
            return str(error)
        return trainer.accelerator.torch_device_mesh is mesh, trainer.sequence_group.size


def test_sizes_that_the_launcher_gave_too_are_kept(workers, tmp_path):
    assert workers.run(2, attach_beside_the_launcher, str(tmp_path), 2, 2) == [(True, 2)] * 2


def test_a_launcher_that_says_otherwise_is_refused(workers, tmp_path):
    for message in workers.run(4, attach_beside_the_launcher, str(tmp_path), 4, 2):
        assert message.startswith("the launcher says that 4 devices share a row, the recipe says 2.")


def test_releases_without_the_places_that_are_used_are_named(monkeypatch):
    wiring.check_upstream()
    monkeypatch.setattr(wiring, "HOOK", "_gone")
    with pytest.raises(MachineError, match=r"have no Trainer._gone any more"):
        wiring.check_upstream()
    monkeypatch.setattr(wiring, "version", lambda name: "1.14")
    with pytest.raises(MachineError, match=r"with torch 2.9 or newer, and this is 1.14"):
        wiring.check_upstream()


def train_on_dispatched_rows(folder, unaware):
    """What is said of batches that one process hands out; `unaware`: the setting itself is not looked at."""
    from unittest.mock import patch

    from ultralong_hf.parallel import plugin

    one_reads = {"dispatch_batches": True}
    trainer = trainer_of(folder, accelerator_config=one_reads, per_device_train_batch_size=1)
    try:
        with patch.object(plugin, "settings_faults", lambda _: []) if unaware else nullcontext():
            SequenceParallelPlugin(2).attach(trainer)
        trainer.train()
    except (ParallelError, BatchError) as error:
        return str(error)


@pytest.mark.parametrize(
    ("unaware", "message"),
    [
        (False, "accelerator_config.dispatch_batches cannot be used"),
        (True, "the 2 devices that share rows were given different ones"),
    ],
)
def test_devices_of_a_row_that_get_different_ones_stop(workers, tmp_path, unaware, message):
    for found in workers.run(2, train_on_dispatched_rows, str(tmp_path), unaware):
        assert found.startswith(message)


def attach_a_ring_to_a_cpu(folder):
    from unittest.mock import patch

    from torch.distributed.tensor.experimental._context_parallel import _attention

    with patch.dict(_attention.custom_ops, clear=True), pytest.raises(MachineError) as caught:
        SequenceParallelPlugin(2, "ring").attach(trainer_of(folder))
    return str(caught.value)


def test_a_ring_of_cpus_is_refused_when_it_is_attached(workers, tmp_path):
    for found in workers.run(2, attach_a_ring_to_a_cpu, str(tmp_path)):
        assert found.startswith("rings need GPUs: torch has none around its attention for CPUs.")


def attach_to_experts(folder):
    """What is said of a balancing loss, which TRL adds by itself."""
    with pytest.raises(ParallelError) as caught:
        SequenceParallelPlugin(2).attach(trainer_of(folder, model=tiny_mixtral()))
    return str(caught.value)


def test_experts_that_are_balanced_over_a_part_of_a_row_are_refused(workers, tmp_path):
    for found in workers.run(2, attach_to_experts, str(tmp_path)):
        assert found.startswith("the experts of the model mixtral have a balancing loss")


def uneven_batch(folder):
    """A batch whose rows the devices do not divide."""
    trainer = trainer_of(folder)
    SequenceParallelPlugin(2).attach(trainer)
    cut = partial(torch.narrow, dim=1, start=0, length=LENGTH - 1)
    with pytest.raises(ParallelSizeError, match="rows of 63 tokens do not split into 2 parts"):
        trainer.training_step(
            trainer.model, {name: cut(tensor) for name, tensor in collate(uneven_rows(1)).items()}
        )
    return True


def test_a_batch_that_does_not_split_is_refused(workers, tmp_path):
    assert workers.run(2, uneven_batch, str(tmp_path)) == [True, True]
