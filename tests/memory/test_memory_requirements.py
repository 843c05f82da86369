import importlib.util
import re
import shutil
from types import SimpleNamespace

import pytest

from ultralong_hf.memory.requirements import Surroundings, memory_faults
from ultralong_hf.recipes.schema import LoraSection, MemorySection

GPU = Surroundings(gpu=True, sharded=True)


@pytest.fixture(autouse=True)
def libraries(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)


def faults(settings=None, around=GPU, **keys):
    return memory_faults(MemorySection(**keys), "cpt", settings or {}, around)


def test_nothing_stands_against_the_defaults_or_all_that_goes_together(tmp_path):
    assert faults() == []
    assert faults(around=Surroundings(gpu=False, sharded=False)) == []
    keys = {"tiled_mlp": True, "checkpoint_storage": "disk", "checkpoint_folder": str(tmp_path)}
    keys |= {"recompute": "all_but_attention", "offload_parameters": True, "optimizer": "torchao_8bit"}
    assert faults(**keys, lora=LoraSection()) == []


@pytest.mark.parametrize(
    ("keys", "settings", "message"),
    [
        ({"optimizer": "adamw_8bit"}, {}, "cannot be used with FSDP2.*Use torchao_8bit"),
        ({"offload_optimizer": True, "optimizer": "torchao_8bit"}, {}, "of a tensor class of torchao"),
        ({"checkpoint_folder": "/nvme"}, {}, "checkpoint_storage is device. Set the latter to disk"),
        (
            {"checkpoint_storage": "host"},
            {"activation_checkpointing_kwargs": {"offload": True}},
            "both say how layers are checkpointed",
        ),
        ({"recompute": "all_but_attention"}, {"activation_offloading": True}, "cpt.activation_offloading"),
        ({"lora": LoraSection(target_modules=[])}, {}, "target_modules is empty"),
    ],
)
def test_what_cannot_work_is_told_with_what_to_change(keys, settings, message):
    (fault,) = faults(settings, **keys)
    assert re.search(message, fault), fault


def test_deepspeed_has_offloads_of_its_own_and_no_adapters():
    around = Surroundings(gpu=True, sharded=False, deepspeed=True)
    told = faults(around=around, offload_optimizer=True, lora=LoraSection())
    assert len(told) == 2
    assert told[0].startswith("memory.offload_parameters and memory.offload_optimizer are not for DeepSpeed")
    assert told[1].startswith("memory.lora is not for DeepSpeed")


def test_a_library_that_is_absent_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (fault,) = faults(optimizer="torchao_8bit")
    assert fault.endswith("needs torchao, which is not here: pip install torchao.")


def test_a_disk_that_a_step_would_fill_is_foreseen(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=3 << 30))
    keys = {"checkpoint_storage": "disk", "checkpoint_folder": str(tmp_path)}
    assert faults(**keys, around=Surroundings(gpu=True, sharded=True, checkpoint_bytes=2 << 30)) == []
    (fault,) = faults(**keys, around=Surroundings(gpu=True, sharded=True, checkpoint_bytes=4 << 30))
    assert "3,072 MiB free" in fault
    assert "4,096 MiB" in fault
