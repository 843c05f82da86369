from pathlib import Path

import pytest
import yaml

from ultralong_hf.errors import RecipeError
from ultralong_hf.recipes import PRESETS, load_recipe

SMALL = """\
model:
  name_or_path: some/model
data:
  target_length: 4K
  sources: [a.jsonl]
cpt:
  learning_rate: 3e-5
"""


@pytest.fixture
def written(tmp_path):
    def write(text: str, name: str = "my.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def faults_of(path: Path | str, overrides: dict | None = None) -> tuple[str, ...]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    return caught.value.faults


def test_a_small_recipe_is_read_with_defaults(written):
    recipe = load_recipe(written(SMALL))
    assert (recipe.origin, recipe.model.name_or_path, recipe.data.target_length) == (
        "my.yaml",
        "some/model",
        4096,
    )
    assert recipe.data.sources[0].path == "a.jsonl"
    assert recipe.cpt == {"learning_rate": 3e-5}
    assert recipe.rope.method == "llama3"
    assert recipe.instruct.max_length == 8192
    assert recipe.window == 4096
    assert (recipe.sft, recipe.preference, recipe.parallel.size) == ({}, {}, "auto")


def test_all_faults_are_told_with_their_lines_and_the_nearest_key(written):
    path = written(
        "model:\n"
        "  name_or_path: x\n"
        "  dtyp: float32\n"
        "data:\n"
        "  target_length: 1M\n"
        "  seed: abc\n"
        "  seperator: '<s>'\n"
        "  sources:\n"
        "    - path: a.jsonl\n"
        "      splitt: train\n"
        "    - path: b.jsonl\n"
        "      format: csv\n"
        "rop:\n"
        "  scale: 3\n"
        "cpt:\n"
        "  learningrate: 1e-3\n"
        "  lr_scheduler_type: linaer\n"
        "  use_cpu: 1\n",
        "my-1m.yaml",
    )
    faults = faults_of(path)
    assert set(faults[:-2]) == {
        "my-1m.yaml, line 3: model.dtyp is no key of a recipe. Nearest: model.dtype.",
        "my-1m.yaml, line 6: data.seed is 'abc'; expected a whole number.",
        "my-1m.yaml, line 7: data.seperator is no key of a recipe. Nearest: data.separator.",
        "my-1m.yaml, line 10: data.sources[0].splitt is no key of a recipe. Nearest: data.sources[0].split.",
        "my-1m.yaml, line 12: data.sources[1].format is 'csv'; expected one of jsonl, parquet, text or null.",
        "my-1m.yaml, line 13: rop is no key of a recipe. Nearest: rope.",
        "my-1m.yaml, line 16: cpt.learningrate is no key of trl.SFTConfig. Nearest: cpt.learning_rate.",
    }
    assert faults[-2].startswith(
        "my-1m.yaml, line 17: cpt.lr_scheduler_type is 'linaer'; expected one of linear, cosine, "
    )
    assert faults[-1] == "my-1m.yaml, line 18: cpt.use_cpu is 1; expected true or false."


def test_a_key_that_stands_twice_is_a_fault(written):
    faults = faults_of(written(SMALL + "model:\n  name_or_path: other\n"))
    assert faults == ("my.yaml, line 8: model stands twice, first in line 1.",)


def test_missing_keys_are_named_with_the_line_of_their_section(written):
    assert faults_of(written("model:\n  dtype: auto\ndata: {}\n")) == (
        "my.yaml, line 1: model.name_or_path is missing; it has no default.",
        "my.yaml, line 3: data.target_length is missing; it has no default.",
    )
    assert faults_of(written("")) == (
        "my.yaml: model.name_or_path is missing; it has no default.",
        "my.yaml: data.target_length is missing; it has no default.",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: [a\n", "my.yaml, line 2: this is no YAML"),
        ("- a\n- b\n", "my.yaml: a recipe is a mapping of sections, not list."),
        (
            "model: !!python/object:os.system {}\n",
            "my.yaml, line 1: the tag tag:yaml.org,2002:python/object:os.sy",
        ),
        (
            "model: !!python/name:os.system x\n",
            "my.yaml, line 1: this is no YAML: could not determine a constr",
        ),
        ("model: &m\n  dtype: [*m]\n", "my.yaml, line 1: this anchor holds itself."),
        ("model: 2024-13-45\n", "my.yaml, line 1: '2024-13-45' cannot be read: month must be in 1..12"),
        ("model: 3\n", "my.yaml, line 1: model is 3; expected a mapping of keys to values."),
    ],
)
def test_what_is_no_recipe_is_refused_with_its_place(written, text, message):
    assert faults_of(written(text))[0].startswith(message)


def test_a_name_that_is_no_preset_names_the_nearest():
    (fault,) = faults_of("ultralong-3m")
    assert "no such file" in fault
    assert fault.endswith("Nearest: ultralong-4m.") or fault.endswith("Nearest: ultralong-1m.")


def test_overrides_win_over_the_file_and_are_named_without_a_line(written):
    path = written(SMALL)
    recipe = load_recipe(path, {"data.target_length": "8K", "cpt.max_steps": 3, "rope.scale": 8})
    assert (recipe.data.target_length, recipe.cpt["max_steps"], recipe.rope.scale) == (8192, 3, 8.0)
    assert recipe.cpt["learning_rate"] == 3e-5
    assert faults_of(path, {"data.target_length": "1Q", "dat.seed": 3}) == (
        "dat is no key of a recipe. Nearest: data.",
        "data.target_length: '1Q' is no length: write '4096', '128K' (K = 1,024) or '1M' (M = 1,048,576).",
    )


def test_keys_that_the_stages_set_themselves_are_refused_with_the_reason(written):
    faults = faults_of(written(SMALL + "  packing: true\n  max_length: 100\nsft:\n  max_length: 3\n"))
    assert faults == (
        "my.yaml, line 8: cpt.packing cannot be set in a recipe: rows are packed in the token store.",
        "my.yaml, line 9: cpt.max_length cannot be set in a recipe: a row has data.target_length tokens and "
        "is never cut.",
        "my.yaml, line 11: sft.max_length cannot be set in a recipe: use instruct.max_length: longer samples "
        "are dropped and counted, not cut.",
    )


def test_a_scale_that_does_not_reach_the_window_is_refused(written):
    path = written(SMALL + "rope:\n  scale: 128\n  original_length: 8192\n")
    assert load_recipe(path, {"data.target_length": "1M"}).window == 1048576
    assert load_recipe(path, {"data.target_length": "1M", "rope.target_length": 1073152}).window == 1073152
    assert faults_of(path, {"data.target_length": "2M"}) == (
        "my.yaml, line 9: rope.scale 128 times rope.original_length 8,192 reaches 1,048,576 tokens, not "
        "2,097,152. Set rope.scale to 256, or to null to follow the length.",
    )


def test_a_window_shorter_than_a_row_and_a_ramp_upside_down_are_refused(written):
    path = written(SMALL + "rope:\n  target_length: 2K\n  beta_fast: 1\n")
    assert faults_of(path) == (
        "my.yaml, line 10: rope.beta_fast 1 must be above rope.beta_slow 1.",
        "my.yaml, line 9: rope.target_length 2K is shorter than a row, data.target_length 4K. Set it to null "
        "to follow the rows.",
    )


def test_the_labs_documents_are_not_mixed_with_others(written):
    path = written(SMALL.replace("[a.jsonl]", "[a.jsonl, lab]"))
    assert faults_of(path) == (
        "my.yaml, line 5: data.sources holds lab beside others; its documents make a store of their own.",
    )


@pytest.mark.parametrize("section", ["cpt", "sft"])
def test_evaluation_without_held_out_samples_is_refused(written, section):
    path = written(SMALL)
    (fault,) = faults_of(path, {f"{section}.eval_strategy": "steps"})
    assert fault.startswith(f"{section}.eval_strategy is steps, but ")


def test_evaluation_takes_tasks_of_every_family(written):
    tasks = "[needle, ruler/vt, lveval, infinitebench, standard, perplexity]"
    recipe = load_recipe(written(f"{SMALL}evaluation:\n  tasks: {tasks}\n  samples: null\n"))
    assert recipe.evaluation.tasks[1] == "ruler/vt"
    options = recipe.evaluation.options()
    assert (options["samples"], options["prompt"], "tasks" in options) == (None, "auto", False)
    (fault,) = faults_of(written(f"{SMALL}evaluation:\n  tasks: [needle, rular/vt]\n"))
    assert fault.startswith("my.yaml, line 9: evaluation.tasks[1] is 'rular/vt'; expected one of needle, ")


@pytest.mark.parametrize(
    ("preset", "rows", "scale"),
    [("ultralong-1m", 1, 128), ("ultralong-2m", 2, 256), ("ultralong-4m", 4, 512)],
)
def test_presets_hold_the_values_of_the_paper(preset, rows, scale):
    recipe = load_recipe(preset)
    assert recipe.model.name_or_path == "meta-llama/Llama-3.1-8B-Instruct"
    assert recipe.data.target_length == recipe.window == rows * 1048576 == scale * 8192
    assert (recipe.rope.method, recipe.rope.scale, recipe.rope.original_length) == ("llama3", scale, 8192)
    assert (recipe.rope.beta_slow, recipe.rope.beta_fast) == (1, 4)
    assert (recipe.data.separator, recipe.data.mask_documents) == ("<s>", False)
    assert recipe.cpt["learning_rate"] == 3e-5
    assert (recipe.cpt["adam_beta1"], recipe.cpt["adam_beta2"]) == (0.9, 0.95)
    assert (recipe.sft["learning_rate"], recipe.instruct.max_length) == (5e-6, 8192)
    assert recipe.rows_of_step("sft") == 128
    if preset == "ultralong-4m":
        assert recipe.cpt["max_steps"] == 150
        assert recipe.rows_of_step("cpt") == 2


SURENESS = (
    "text",
    "second-hand",
    "derived",
    "open: ours",
    '"YaRN" by turns, second-hand',
)
MACHINERY = (
    "output_dir",
    "report_to",
    "logging_steps",
    "activation_",
    "target_length",
    "per_device_eval",
)


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "lab"])
def test_presets_name_the_sureness_of_every_value_of_training(preset):
    text = (Path(__file__).parents[2] / "ultralong_hf" / "recipes" / f"{preset}.yaml").read_text()
    checked = 0
    section = ""
    for line in text.splitlines():
        if line and line[0].isalpha():
            section = line.split(":")[0]
        key, _, value = line.partition(":")
        named = key.strip() and not key.strip().startswith(("#", *MACHINERY))
        if section in ("rope", "parallel", "cpt", "sft") and named and value.strip():
            assert any(f"# {label}" in value for label in SURENESS), line
            checked += 1
    assert checked > 20


def test_the_rows_of_a_step_are_said_once():
    overrides = {"cpt.gradient_accumulation_steps": 4}
    with pytest.raises(RecipeError, match="both say how many rows make a step"):
        load_recipe("ultralong-1m", overrides)
    recipe = load_recipe("ultralong-1m", {**overrides, "parallel.global_batch.cpt": None})
    assert (recipe.rows_of_step("cpt"), recipe.rows_of_step("sft")) == (None, 128)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_plain_yaml_with_known_keys(preset):
    path = Path(__file__).parents[2] / "ultralong_hf" / "recipes" / f"{preset}.yaml"
    assert yaml.safe_load(path.read_text())["model"]
    assert load_recipe(preset) == load_recipe(path)


def test_the_section_on_memory_is_checked_down_to_the_adapters(written):
    recipe = load_recipe(
        written(SMALL + "memory:\n  mlp_tile: 2K\n  checkpoint_storage: disk\n  lora:\n    rank: 8\n"),
        {"memory.lora.alpha": 16},
    )
    assert (recipe.memory.tiled_mlp, recipe.memory.mlp_tile, recipe.memory.lora.rank) == ("auto", 2048, 8)
    assert (recipe.memory.lora.alpha, recipe.memory.lora.trainable_embeddings_and_norms) == (16, True)
    assert faults_of(
        written(SMALL + "memory:\n  recompute: most\n  checkpoint_every: 0\n  lora:\n    rnk: 8\n")
    ) == (
        "my.yaml, line 9: memory.recompute is 'most'; expected one of all, all_but_attention.",
        "my.yaml, line 10: memory.checkpoint_every is 0; expected at least 1.",
        "my.yaml, line 12: memory.lora.rnk is no key of a recipe. Nearest: memory.lora.rank.",
    )
