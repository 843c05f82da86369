"""plan(): models and recipes, with and without a number of GPUs."""

import json

import pytest
from transformers import LlamaConfig, MistralConfig, Qwen3MoeConfig

from ultralong_hf import plan
from ultralong_hf.errors import ModelError, ParallelSizeError, PlanError
from ultralong_hf.planning.gpus import GPUS, find_gpu
from ultralong_hf.planning.launched import match_gpu
from ultralong_hf.planning.shapes import KNOWN, read_shape
from ultralong_hf.recipes import PRESETS, load_recipe

LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
SMALL = {
    "vocab_size": 1000,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
}


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_planned_without_network(preset):
    found = plan(preset, gpus=32)
    assert found.length == load_recipe(preset).data.target_length
    assert found.fits
    assert found.sizes.degree * found.sizes.dp_shard * found.sizes.dp_replicate == 32


def test_for_a_model_the_fastest_options_that_fit_are_chosen():
    roomy = plan(LLAMA, length="128K", gpus=8)
    tight = plan(LLAMA, length="4M", gpus=8)
    assert roomy.options == {"memory.recompute": "all_but_attention"}
    assert tight.fits
    assert tight.options["memory.checkpoint_storage"] == "host"
    assert tight.host_bytes < 1.9e12, "what eight GPUs' nodes have"
    with_more = plan(LLAMA, length="4M", gpus=8, host_memory=5 * 10**12)
    assert with_more.options["memory.recompute"] == "all_but_attention"
    assert with_more.timing.seconds < tight.timing.seconds


def test_a_recipes_options_are_taken_as_they_stand_and_what_would_make_it_fit_is_named():
    found = plan("ultralong-4m", gpus=8)
    assert not found.fits
    assert found.options == {"memory.checkpoint_storage": "host"}
    following = found.next_change()
    assert following.fits
    assert following.price in found.table()
    changed = plan("ultralong-4m", gpus=8, overrides={following.key: following.value == "true"})
    assert changed.fits
    assert changed.footprint.total == following.total


def test_without_gpus_the_least_number_that_fits_is_found():
    found = plan("ultralong-4m")
    assert found.fits
    assert found.gpus > 8
    assert not plan("ultralong-4m", gpus=found.gpus // 2).fits
    assert plan("lab", gpu="cpu").gpus == 1


def test_more_memory_needs_fewer_gpus():
    assert plan("ultralong-4m", gpu="h200-141g").gpus < plan("ultralong-4m").gpus


def test_time_is_work_over_what_gpus_do():
    found = plan("ultralong-1m", gpus=8, mfu=0.4)
    peak = 8 * GPUS["h100-80g"].flops
    assert found.timing.seconds == pytest.approx(found.timing.work.model / (0.4 * peak))
    assert found.gpu_hours == pytest.approx(8 * 480 * found.timing.seconds / 3600)
    assert plan(LLAMA, length="1M", gpus=8).gpu_hours is None
    billion = plan(LLAMA, length="1M", gpus=8, tokens="1B")
    assert billion.steps == -(-(10**9) // billion.step_tokens)


@pytest.mark.parametrize("gpus", [4, 8, 32, 256])
def test_a_recipes_step_has_its_rows_on_any_number_of_gpus(gpus):
    found = plan("ultralong-4m", gpus=gpus)
    assert (found.timing.rows, found.steps) == (2, 150)
    assert found.setup.accumulates == (gpus // found.sizes.degree < 2)
    assert not any("rows come again" in note for note in found.notes)
    assert plan("ultralong-4m", gpus=gpus, stage="sft").timing.rows == 128


def test_host_memory_is_checked_where_its_size_is_given():
    assert plan("ultralong-1m", gpus=8).fits
    found = plan("ultralong-1m", gpus=8, host_memory=100 * 10**9)
    assert (found.fits_device, found.fits) == (True, False)


def test_rows_of_windowed_layers_are_not_split():
    windowed = MistralConfig(**SMALL, sliding_window=128)
    found = plan(windowed, length="64K", gpus=8)
    assert found.sizes.degree == 1
    assert "4 of 4 layers see 128 tokens back" in found.notes[0]
    full = plan(MistralConfig(**SMALL, sliding_window=None), length="64K", gpus=8)
    assert (
        found.timing.work.attention / found.timing.rows < full.timing.work.attention / full.timing.rows / 50
    )


def test_experts_are_weights_of_all_and_work_of_some():
    moe = Qwen3MoeConfig(**SMALL, num_experts=16, num_experts_per_tok=2, moe_intermediate_size=512)
    found = plan(moe, length="8K", gpus=2)
    assert found.shape.parameters > 10 * plan(LlamaConfig(**SMALL), length="8K", gpus=2).shape.parameters / 2
    assert "16 experts a layer, 2 of them for a token" in found.notes[0]


def test_a_stage_of_short_samples_and_pairs_is_planned():
    sft = plan("ultralong-1m", gpus=8, stage="sft")
    pairs = plan("ultralong-1m", gpus=64, stage="preference")
    assert sft.length == 8192
    assert pairs.setup.rows == 16
    assert "reference" in pairs.notes[-1]


def test_a_config_folder_a_mapping_and_a_config_say_the_same(tmp_path):
    config = LlamaConfig(**SMALL)
    config.save_pretrained(tmp_path)
    shapes = [
        read_shape(model)[1] for model in (config, config.to_dict(), tmp_path, tmp_path / "config.json")
    ]
    assert shapes == [shapes[0]] * 4


def test_known_shapes_need_no_files_and_have_the_weights_of_their_names():
    assert KNOWN[LLAMA].parameters == 8_030_261_248
    assert KNOWN["Qwen/Qwen3-32B"].parameters == pytest.approx(32.8e9, rel=0.01)
    assert KNOWN["Qwen/Qwen3-30B-A3B"].parameters == pytest.approx(30.5e9, rel=0.01)


def test_a_plan_is_plain_values(tmp_path):
    found = plan("lab", gpus=2, gpu="cpu")
    values = json.loads(json.dumps(found.to_dict()))
    assert sum(values["memory"]["parts"].values()) == values["memory"]["total"]
    assert values["time"]["step_seconds"] is None
    assert found.plot(tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["plan.png"]
    with pytest.raises(PlanError, match="cannot be written"):
        found.plot(tmp_path / "none" / "plan.png")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model_or_recipe": LLAMA}, PlanError, "give the length of a row"),
        ({"model_or_recipe": "lab", "gpus": 0, "mfu": 2}, PlanError, "gpus is 0.*\n.*mfu is 2"),
        ({"model_or_recipe": "lab", "gpu": "h10-80g"}, PlanError, "no GPU of the table.*Nearest: h100-80g"),
        ({"model_or_recipe": "lab", "stage": "dpo"}, PlanError, "no stage. Use one of cpt, sft, preference"),
        ({"model_or_recipe": "nowhere/model", "length": "1M"}, ModelError, "no config of a model"),
        ({"model_or_recipe": LLAMA, "length": 1_000_001, "gpus": 1}, None, None),
        ({"model_or_recipe": LLAMA, "length": "1M", "overrides": {"a.b": 1}}, PlanError, "only a recipe"),
    ],
)
def test_bad_input_is_named(arguments, error, message):
    arguments = dict(arguments)
    subject = arguments.pop("model_or_recipe")
    if error is None:
        assert plan(subject, **arguments).length == 1_000_001
        return
    with pytest.raises(error, match=message):
        plan(subject, **arguments)


def test_a_size_that_does_not_divide_is_named():
    with pytest.raises(ParallelSizeError, match="does not divide the 8 processes"):
        plan("ultralong-1m", gpus=8, overrides={"parallel.size": 3})


def test_gpus_are_found_by_short_names_and_by_the_drivers():
    assert find_gpu("H100").name == "h100-80g"
    assert find_gpu("a100").name == "a100-80g"
    assert match_gpu("NVIDIA H100 80GB HBM3", 85_029_158_912).name == "h100-80g"
    assert match_gpu("NVIDIA H100 PCIe", 85_029_158_912).name == "h100-pcie"
    assert match_gpu("NVIDIA A100-SXM4-40GB", 42_298_834_944).name == "a100-40g"
    assert match_gpu("NVIDIA GeForce RTX 4090", 25_386_352_640).name == "rtx4090-24g"
    assert match_gpu("Tesla T4", 15_828_320_256).flops is None
