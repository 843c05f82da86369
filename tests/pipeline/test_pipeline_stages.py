from pathlib import Path

import pytest

from ultralong_hf.errors import RunError
from ultralong_hf.pipeline import open_run
from ultralong_hf.recipes import load_recipe
from ultralong_hf.recipes.writing import recipe_text


def names(run):
    return [stage.name for stage in run.stages]


def test_stages_of_a_recipe_come_in_order_and_name_what_they_read():
    run = open_run("lab")
    needs = {stage.name: stage.needs for stage in run.stages}
    assert list(needs.items()) == [
        ("prepare", ()),
        ("blend", ()),
        ("extend", ()),
        ("evaluate-base", ()),
        ("cpt", ("prepare", "extend")),
        ("evaluate-cpt", ("cpt",)),
        ("sft", ("blend", "cpt")),
        ("evaluate-final", ("sft",)),
        ("publish", ("sft", "evaluate-base", "evaluate-cpt", "evaluate-final")),
    ]


def test_a_stage_of_preferences_comes_after_sft_and_is_what_is_measured():
    run = open_run("lab", preference="orpo")
    assert run.stage("orpo").needs == ("sft",)
    assert run.stage("evaluate-final").model == "orpo"
    with pytest.raises(RunError, match="'dpo' is no stage of preferences"):
        open_run("lab", preference="dpo")


def test_without_sft_the_model_of_cpt_is_the_last():
    run = open_run("lab", skip=["sft"])
    assert names(run) == ["prepare", "extend", "evaluate-base", "cpt", "evaluate-final", "publish"]
    assert run.stage("evaluate-final").model == "cpt"


def test_a_stage_that_others_need_cannot_be_left_out():
    with pytest.raises(RunError, match="extend cannot be left out: cpt needs it"):
        open_run("lab", skip=["extend"])
    with pytest.raises(RunError) as error:
        open_run("lab", skip=["evaluate-bas"])
    assert error.value.faults[0] == "'evaluate-bas' is no stage. Nearest: evaluate-base."


def test_two_stages_in_one_folder_are_refused():
    with pytest.raises(RunError, match="cpt and sft would both leave their output in outputs/lab/cpt"):
        open_run("lab", overrides={"sft.output_dir": "outputs/lab/cpt"})


def test_a_recipe_keeps_its_folders_and_an_output_moves_them_all(tmp_path):
    assert {stage.name: str(stage.folder) for stage in open_run("lab").stages} == {
        "prepare": "outputs/lab/store",
        "blend": "outputs/lab/blend",
        "extend": "outputs/lab/extended",
        "evaluate-base": "outputs/lab/evaluation/base",
        "cpt": "outputs/lab/cpt",
        "evaluate-cpt": "outputs/lab/evaluation/cpt",
        "sft": "outputs/lab/sft",
        "evaluate-final": "outputs/lab/evaluation/final",
        "publish": "outputs/lab/release",
    }
    moved = open_run("lab", output_dir=tmp_path, overrides={"sft.output_dir": "elsewhere"}, preference="grpo")
    folders = {stage.name: stage.folder for stage in moved.stages}
    assert folders.pop("sft") == Path("elsewhere")
    assert len(folders) == 9
    assert all(folder.is_relative_to(tmp_path) for folder in folders.values())


def test_a_release_is_called_after_the_original_unless_it_has_a_name():
    assert open_run("ultralong-1m").release_name == "Llama-3.1-8B-Instruct-1M"
    assert open_run("lab", overrides={"data.target_length": "2K"}).release_name == "lab-2K"
    assert open_run("lab", name="mine").release_name == "mine"


def test_places_are_found_for_what_a_recipe_names_none_for(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("model: {name_or_path: lab}\ndata: {sources: [a.txt], target_length: 1K}\n")
    run = open_run(file)
    assert names(run) == ["prepare", "extend", "evaluate-base", "cpt", "evaluate-final", "publish"]
    assert run.stage("cpt").folder == Path("outputs/mine/cpt")


@pytest.mark.parametrize("preset", ["lab", "ultralong-1m", "ultralong-4m"])
def test_a_recipe_that_is_written_is_read_as_the_same(preset, tmp_path):
    from dataclasses import replace

    recipe = load_recipe(preset)
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_text(recipe))
    assert replace(load_recipe(path), origin=recipe.origin) == recipe
