import json
import subprocess
import sys

import pytest
from transformers import (
    BloomConfig,
    DogeConfig,
    Gemma3TextConfig,
    Llama4TextConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Qwen3Config,
    Qwen3NextConfig,
    RobertaConfig,
)

from ultralong_hf.errors import ParallelError
from ultralong_hf.parallel.requirements import (
    Launch,
    attention_faults,
    balance_faults,
    launch_faults,
    layer_faults,
    padding_faults,
    read_launch,
    require,
    settings_faults,
)

LLAMA = LlamaConfig(num_attention_heads=32, num_key_value_heads=8)
PARENT = """
import subprocess, sys
child = "from ultralong_hf.parallel.requirements import read_launch; print(read_launch({}).cp_size)"
subprocess.run([sys.executable, "-c", child], check=True)
"""
IN_FORCE = {"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}


def faults_of(config=LLAMA, **more) -> tuple[str, ...]:
    with pytest.raises(ParallelError) as caught:
        require(config, **{"length": 4096, "world_size": 8, "size": 8, **more})
    return caught.value.faults


def test_a_set_up_that_is_right_gives_its_sizes():
    sizes = require(LLAMA, length=4096, world_size=8, size=8, attention="flash_attention_2")
    assert (sizes.backend, sizes.degree) == ("ulysses", 8)


def test_all_faults_are_told_at_once():
    faults = faults_of(
        MistralConfig(sliding_window=1024),
        attention="eager",
        launch=read_launch({}, ["accelerate", "launch", "--parallelism_config_cp_size", "8"]),
        settings={"packing": True},
        mask_documents=True,
        lengths_vary=True,
    )
    assert len(faults) == 6
    assert len(set(faults)) == 6


def test_sizes_that_do_not_divide_are_told_beside_the_layers():
    faults = faults_of(MistralConfig(num_attention_heads=32, sliding_window=1024), size=8, length=4097)
    assert [fault.split()[0] for fault in faults] == ["rows", "the"]


def test_rows_that_are_not_split_need_none_of_it():
    gemma = Gemma3TextConfig()
    sizes = require(gemma, length=4097, world_size=8, size=1, attention="eager", settings={"packing": True})
    assert sizes.degree == 1


# launches


@pytest.mark.parametrize(
    "words",
    [
        ["accelerate", "launch", "--parallelism_config_cp_size", "8", "examples/cpt.py"],
        ["accelerate", "launch", "--parallelism_config_cp_size=8", "examples/cpt.py"],
    ],
)
def test_sizes_that_accelerate_drops_without_a_word_are_found_in_the_launchers_words(words):
    assert launch_faults(read_launch({}, words)) == [
        "the launcher was given parallelism_config_cp_size 8, but accelerate drops it without "
        "--use_parallelism_config: every device would hold whole rows. Leave it out and set parallel.size to "
        "8 in the recipe."
    ]
    assert launch_faults(read_launch(IN_FORCE | {"PARALLELISM_CONFIG_CP_SIZE": "8"}, words)) == []


def test_the_words_of_the_launcher_are_those_of_the_parent_process():
    found = subprocess.run(
        [sys.executable, "-c", PARENT, "--parallelism_config_cp_size", "8"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "8"


def test_sizes_in_the_environment_need_the_switch_beside_them():
    dropped = read_launch({"PARALLELISM_CONFIG_SP_SIZE": "4"})
    assert [fault.split(",")[0] for fault in launch_faults(dropped)] == [
        "the launcher was given parallelism_config_sp_size 4"
    ]
    assert launch_faults(read_launch(IN_FORCE | {"PARALLELISM_CONFIG_SP_SIZE": "4"})) == []
    assert launch_faults(read_launch({"PARALLELISM_CONFIG_CP_SIZE": "1"})) == []


def test_cp_and_sp_together_are_refused():
    both = read_launch(IN_FORCE | {"PARALLELISM_CONFIG_CP_SIZE": "2", "PARALLELISM_CONFIG_SP_SIZE": "4"})
    assert launch_faults(both) == [
        "the launcher was given both cp_size 2 and sp_size 4, which accelerate cannot combine. Leave both "
        "out and set parallel.backend to hybrid in the recipe."
    ]


def test_a_launch_that_says_another_size_than_the_recipe_is_refused():
    launch = read_launch(IN_FORCE | {"PARALLELISM_CONFIG_CP_SIZE": "4"})
    assert faults_of(launch=launch) == (
        "the launcher says that 4 devices share a row, the recipe says 8. Leave --use_parallelism_config out "
        "of the launch: the recipe's parallel section stands for it.",
    )
    require(LLAMA, length=4096, world_size=8, size=4, launch=launch)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_deepspeed_below_zero_stage_3_is_refused_with_the_reason(stage):
    launch = read_launch({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(stage)})
    assert faults_of(launch=launch, backend="deepspeed") == (
        f"backend deepspeed at ZeRO stage {stage} makes gradients 8 times too large (DeepSpeed 0.19.8, its "
        "issue 5248). Launch with --zero_stage 3, or set parallel.backend to ulysses.",
    )


def test_the_stage_of_a_deepspeed_config_file_counts(tmp_path):
    file = tmp_path / "deepspeed.json"
    environment = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(file)}
    for stage in (1, 3):
        file.write_text(json.dumps({"zero_optimization": {"stage": stage}}))
        assert read_launch(environment).zero_stage == stage
    file.write_text("{}")
    assert read_launch(environment).zero_stage == 0, "DeepSpeed's own default"
    assert read_launch({"ACCELERATE_USE_DEEPSPEED": "true"}).zero_stage == 2, "accelerate's default"


@pytest.mark.parametrize("as_file", [False, True])
def test_the_stage_of_the_recipes_own_deepspeed_config_counts(as_file, tmp_path):
    config = {"zero_optimization": {"stage": 2}}
    if as_file:
        (tmp_path / "ds.json").write_text(json.dumps(config))
    settings = {"deepspeed": str(tmp_path / "ds.json") if as_file else config}
    (fault,) = faults_of(settings=settings, backend="deepspeed")
    assert fault.startswith("backend deepspeed at ZeRO stage 2 makes gradients 8 times too large")


def test_deepspeed_and_its_backend_go_together_only():
    stage_3 = Launch(deepspeed=True, zero_stage=3)
    require(LLAMA, length=4096, world_size=8, size=8, launch=stage_3, backend="deepspeed")
    assert [fault.split(".")[0] for fault in faults_of(launch=stage_3)] == [
        "backend ulysses needs FSDP2 or DDP, but this was launched with DeepSpeed"
    ]
    assert [fault.split(".")[0] for fault in faults_of(backend="deepspeed")] == [
        "backend deepspeed needs a launch with --use_deepspeed --zero_stage 3"
    ]


def test_fsdp_version_1_is_refused():
    old = read_launch({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"})
    assert [fault.split(",")[0] for fault in faults_of(launch=old)] == [
        "rows are split under FSDP version 2 only"
    ]
    new = read_launch({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"})
    require(LLAMA, length=4096, world_size=8, size=8, launch=new)


def test_a_ring_on_cpus_is_refused_and_ulysses_is_not():
    cpu = read_launch({}, [], cpu=True)
    assert faults_of(launch=cpu, backend="ring") == (
        "backend ring needs GPUs: torch has no ring around its attention for CPUs. Set parallel.backend to "
        "ulysses, or parallel.size to 1.",
    )
    require(LLAMA, length=4096, world_size=8, size=8, launch=cpu, backend="ulysses")


# models


@pytest.mark.parametrize(
    ("config", "layers"),
    [
        (MistralConfig(sliding_window=1024), "layers of sliding_attention"),
        (Gemma3TextConfig(), "layers of sliding_attention"),
        (Llama4TextConfig(), "layers of chunked_attention"),
        (Qwen3NextConfig(), "layers of linear_attention"),
        (RobertaConfig(is_decoder=True), "the attention and the positions of an encoder"),
        (DogeConfig(), "a mask of its own"),
        (
            Qwen3Config(use_sliding_window=True, sliding_window=64, max_window_layers=2),
            "layers of sliding_attention",
        ),
    ],
)
def test_layers_that_do_not_see_the_whole_row_are_refused(config, layers):
    (fault,) = layer_faults(config)
    assert fault == (
        f"the model {config.model_type} has {layers}. Split rows know causal attention over all tokens "
        "alone, so that it would train wrongly without a word. Use a model of full attention, or set "
        "parallel.size to 1."
    )


@pytest.mark.parametrize("config", [LLAMA, MistralConfig(sliding_window=None), Qwen3Config()])
def test_full_attention_is_taken(config):
    assert layer_faults(config) == []
    assert attention_faults(config, "sdpa", "ulysses") == []


@pytest.mark.parametrize("attention", ["eager", "flex_attention"])
def test_attention_that_needs_a_mask_is_refused(attention):
    (fault,) = attention_faults(LLAMA, attention, "ulysses")
    assert fault.startswith(f"attention {attention} needs a mask")
    assert fault.endswith("Set model.attn_implementation to sdpa, flash_attention_2 or flash_attention_3.")


@pytest.mark.parametrize("backend", ["ring", "hybrid"])
def test_the_ring_goes_around_sdpa_alone(backend):
    (fault,) = attention_faults(LLAMA, "flash_attention_2", backend)
    assert fault.startswith(f"backend {backend} has torch's ring, which goes around sdpa alone")
    assert fault.endswith("Set parallel.attention to auto or sdpa, or parallel.backend to ulysses.")
    assert attention_faults(LLAMA, "flash_attention_2", "ulysses") == []
    assert attention_faults(LLAMA, "sdpa_cudnn", backend) == []


def test_a_model_with_an_attention_of_its_own_is_refused():
    (fault,) = attention_faults(BloomConfig(), "sdpa", "ulysses")
    assert fault.startswith("BloomForCausalLM computes attention in its own layers")


# settings and data


@pytest.mark.parametrize(
    "key", ["packing", "eval_packing", "padding_free", "label_smoothing_factor", "neftune_noise_alpha"]
)
def test_settings_that_need_masks_or_whole_rows_are_refused(key):
    (fault,) = settings_faults({key: 0.1 if key.startswith(("label", "neftune")) else True})
    assert fault.startswith(f"{key} cannot be used with rows that are split over devices")
    assert settings_faults({key: 0}) == []


@pytest.mark.parametrize("as_config", [False, True])
def test_batches_that_one_process_hands_out_are_refused(as_config):
    """accelerate 1.15 then gives each process rows of its own, cp_size or not."""
    from accelerate.utils import DataLoaderConfiguration

    given = DataLoaderConfiguration(dispatch_batches=True) if as_config else {"dispatch_batches": True}
    (fault,) = settings_faults({"accelerator_config": given})
    assert fault.startswith("accelerator_config.dispatch_batches cannot be used")
    assert settings_faults({"accelerator_config": {"dispatch_batches": False}}) == []


def test_the_balancing_loss_of_experts_is_refused_unless_it_is_off():
    fault = balance_faults(MixtralConfig(), None)
    assert fault == [
        "the experts of the model mixtral have a balancing loss (router_aux_loss_coef 0.001), which each "
        "device would compute from its own part of a row. Set router_aux_loss_coef to 0, or parallel.size to "
        "1."
    ]
    assert balance_faults(MixtralConfig(), 0.0) == balance_faults(LLAMA, 0.01) == []
    assert list(faults_of(MixtralConfig(), settings={})) == fault
    require(MixtralConfig(), length=4096, world_size=8, size=8, settings={"router_aux_loss_coef": 0})


def test_masked_documents_are_refused():
    (fault,) = settings_faults({}, mask_documents=True)
    assert fault.startswith("data.mask_documents cannot be used")


def test_mixed_lengths_must_be_padded_to_what_divides():
    assert padding_faults(None, 8) == [
        "samples of mixed lengths must be padded to a multiple of 8 to be split, but nothing pads them so. "
        "Set pad_to_multiple_of to 8."
    ]
    assert padding_faults(12, 8) == [
        "samples of mixed lengths must be padded to a multiple of 8 to be split, but pad_to_multiple_of is "
        "12. Set pad_to_multiple_of to 8."
    ]
    assert padding_faults(16, 8) == []
    require(LLAMA, length=4096, world_size=8, size=8, lengths_vary=True, settings={"pad_to_multiple_of": 64})
