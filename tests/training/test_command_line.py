import pytest

from ultralong_hf.errors import MachineError, RecipeError
from ultralong_hf.recipes import load_recipe
from ultralong_hf.training.command_line import parse_recipe, run


def faults_of(*arguments: str) -> tuple[str, ...]:
    with pytest.raises(RecipeError) as caught:
        parse_recipe("cpt", arguments)
    return caught.value.faults


def test_keys_of_the_stage_and_of_other_sections_override_the_recipe():
    recipe, options = parse_recipe(
        "cpt",
        [
            *("--recipe", "lab", "--learning_rate", "1e-5", "--max_steps=7", "--bf16", "false", "--use_cpu"),
            *("--data.target_length", "2K", "--rope.method=yarn", "--data.mask_documents", "true"),
            *("--activation_checkpointing_kwargs", '{"every_n_layers": 2}'),
        ],
    )
    assert (recipe.cpt["learning_rate"], recipe.cpt["max_steps"]) == (1e-5, 7)
    assert (recipe.cpt["bf16"], recipe.cpt["use_cpu"]) == (False, True)
    assert recipe.cpt["activation_checkpointing_kwargs"] == '{"every_n_layers": 2}'
    assert (recipe.data.target_length, recipe.rope.method, recipe.data.mask_documents) == (2048, "yarn", True)
    assert recipe.cpt["adam_beta2"] == 0.95, "a key that is not given keeps the recipe's value"
    assert "weight_decay" not in recipe.cpt, "and one that neither has stays TRL's default"
    assert options.model is None


def test_the_stage_decides_whose_keys_they_are():
    recipe, options = parse_recipe("sft", ["--recipe", "lab", "--learning_rate", "1e-5", "--model", "here"])
    assert recipe.sft["learning_rate"] == 1e-5
    assert recipe.cpt == load_recipe("lab").cpt
    assert options.model == "here"


def test_texts_that_look_like_numbers_stay_texts_where_a_text_is_wanted():
    recipe, _ = parse_recipe("cpt", ["--recipe", "lab", "--model.revision", "1e5", "--data.separator", "5"])
    assert (recipe.model.revision, recipe.data.separator) == ("1e5", "5")
    recipe, _ = parse_recipe(
        "cpt", ["--recipe", "lab", "--data.separator", "{kind: eos}", "--rope.scale", "null"]
    )
    assert (recipe.data.separator, recipe.rope.scale) == ({"kind": "eos"}, None)
    recipe, _ = parse_recipe("cpt", ["--recipe", "lab", "--rope.scale", "1e2"])
    assert recipe.rope.scale == 100


def test_unknown_options_are_told_together_with_the_nearest_ones():
    assert faults_of("--recipe", "lab", "--learningrate", "3", "--wamup_steps", "3") == (
        "--learningrate is no option of this script. Nearest: --learning_rate.",
        "--wamup_steps is no option of this script. Nearest: --warmup_steps.",
    )
    assert faults_of("--recipe", "lab", "7") == ("7 belongs to no option.",)


def test_faults_of_all_sections_are_told():
    assert faults_of("--recipe", "lab", "--data.seperator", "x", "--rop.scale", "3") == (
        "rop is no key of a recipe. Nearest: rope.",
        "data.seperator is no key of a recipe. Nearest: data.separator.",
    )
    assert faults_of("--recipe", "lab", "--packing", "true") == (
        "cpt.packing cannot be set in a recipe: rows are packed in the token store.",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--recipe is missing: a YAML file, or one of lab, ultralong-1m, ultralong-2m, ultralong-4m."),
        (
            ("--recipe", "lab", "--learning_rate", "fast"),
            "argument --learning_rate/--learning-rate: invalid float value: 'fast'",
        ),
        (("--recipe", "lab", "--data.seed"), "--data.seed needs a value."),
        (("--recipe", "lab", "--data.seed", "--use_cpu"), "--data.seed needs a value."),
        (("--recipe",), "argument --recipe: expected one argument"),
    ],
)
def test_bad_values_are_told_in_one_line(arguments, message):
    assert faults_of(*arguments) == (message,)


@pytest.mark.parametrize(
    ("error", "status"), [(RecipeError("one", "two"), 2), (MachineError("one", "two"), 1)]
)
def test_errors_are_lines_on_stderr_and_an_exit_status(error, status, capsys):
    def main():
        raise error

    assert run(main) == status
    assert capsys.readouterr().err == "error: one\nerror: two\n"


def test_a_script_that_ends_well_has_status_0():
    assert run(lambda: None) == 0
