"""What is done, skipped, resumed, done anew and refused. The work of stages is stood in for."""

import json
import os

import pytest
from filelock import FileLock

from ultralong_hf.errors import RecipeError, RunError, StageFailed
from ultralong_hf.pipeline import open_run, run_pipeline, survey
from ultralong_hf.pipeline.outputs import describe_files, output_digest
from ultralong_hf.pipeline.stages import Stage

ALL = [
    "prepare",
    "blend",
    "extend",
    "evaluate-base",
    "cpt",
    "evaluate-cpt",
    "sft",
    "evaluate-final",
    "publish",
]


def quietly(run, **options):
    return run_pipeline(run, say=lambda line: None, **options)


def words(run):
    return {state.stage.name: state.word for state in survey(run)}


def test_every_stage_is_done_once_and_then_found(jobs, lab):
    first = quietly(lab())
    assert jobs.done == ALL
    assert len({state.digest for state in first}) == len(ALL)
    again = quietly(lab())
    assert jobs.done == ALL
    assert [state.digest for state in again] == [state.digest for state in first]


def test_a_stage_that_failed_is_named_with_its_log_and_goes_on_when_run_again(jobs, lab, full_disk):
    jobs.fails["cpt"] = full_disk
    with pytest.raises(StageFailed) as error:
        quietly(lab())
    log = lab().log("cpt")
    assert error.value.faults == ("cpt: the disk is full.", f"cpt did not end; its log is {log}.")
    assert "MachineError: the disk is full." in log.read_text()
    assert words(lab())["cpt"] == "interrupted"
    jobs.fails.clear()
    jobs.done.clear()
    (state,) = [state for state in quietly(lab()) if state.stage.name == "cpt"]
    assert jobs.done == ["cpt", "evaluate-cpt", "sft", "evaluate-final", "publish"]
    assert state.record.attempts == 2
    assert (state.stage.folder / "half.txt").is_file(), "an interrupted stage finds what it had made"


def test_bad_input_of_a_stage_is_bad_input_of_the_run(jobs, lab):
    jobs.fails["prepare"] = RecipeError("one is wrong", "two is wrong")
    with pytest.raises(RunError) as error:
        quietly(lab())
    assert error.value.faults[:2] == ("prepare: one is wrong", "prepare: two is wrong")


def test_what_was_made_with_other_inputs_is_kept_and_done_anew_with_all_that_follows(jobs, lab):
    quietly(lab())
    said = []
    jobs.done.clear()
    changed = lab(**{"cpt.max_steps": 7})
    assert words(changed)["cpt"] == "stale"
    assert words(changed)["prepare"] == "done"
    run_pipeline(changed, say=said.append)
    assert jobs.done == ["cpt", "evaluate-cpt", "sft", "evaluate-final", "publish"]
    kept = changed.stage("cpt").folder.with_name("cpt.replaced-1")
    assert "cpt 0 200" in (kept / "out.txt").read_text()
    assert any("changed: cpt.max_steps" in line and str(kept) in line for line in said)
    beside = {path.name for path in changed.folder.rglob("*.replaced-*")}
    assert beside == {"cpt.replaced-1", "sft.replaced-1", "final.replaced-1"}


def test_keys_that_change_no_weight_leave_a_stage_as_it_is(jobs, lab):
    quietly(lab())
    free = lab(**{"cpt.logging_steps": 1, "cpt.save_steps": 7, "memory.tiled_mlp": True, "data.workers": 1})
    others = {name: word for name, word in words(free).items() if name != "publish"}
    assert set(others.values()) == {"done"}
    assert words(free)["publish"] == "stale", "the card tells the recipe"


def test_equal_output_of_a_stage_done_anew_leaves_what_follows(jobs, lab):
    """The blend is made of other inputs, but comes out the same: samples were not limited before either."""
    quietly(lab())
    jobs.done.clear()
    quietly(lab(**{"instruct.samples": 100_000}))
    assert jobs.done == ["blend", "publish"], "the card tells the recipe"


def test_a_missing_or_changed_file_is_seen_and_the_stage_goes_on(jobs, lab):
    run = lab()
    quietly(run)
    out = run.stage("sft").folder / "out.txt"
    text = out.read_text()
    out.write_text(text.upper())
    (state,) = [state for state in survey(run) if state.stage.name == "sft"]
    assert (state.word, state.detail) == ("damaged", f"{out} was changed")
    jobs.done.clear()
    quietly(run)
    assert jobs.done == ["sft"]
    assert out.read_text() == text
    out.unlink()
    assert words(run)["sft"] == "damaged"


def test_a_file_that_was_only_touched_is_whole(jobs, lab):
    run = lab()
    quietly(run)
    os.utime(run.stage("sft").folder / "out.txt", ns=(1, 1))
    assert words(run)["sft"] == "done"


def test_a_second_run_of_a_folder_is_refused(jobs, lab):
    run = lab()
    run.write()
    with FileLock(run.folder / ".lock"), pytest.raises(RunError, match="is being run by another process"):
        quietly(run)
    assert jobs.done == []


def test_a_folder_with_files_of_others_is_left_alone(jobs, lab):
    thesis = lab().stage("cpt").folder / "thesis.txt"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("x")
    with pytest.raises(RunError, match="holds files that no run has made"):
        quietly(lab())
    assert "cpt" not in jobs.done
    assert thesis.read_text() == "x"


def test_a_stage_that_is_moved_onto_files_of_others_leaves_them_alone(jobs, lab, tmp_path):
    quietly(lab())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(RunError, match="holds files that no run has made"):
        quietly(lab(**{"sft.output_dir": str(tmp_path / "mine")}))


def test_stages_are_chosen_and_need_what_comes_before_them(jobs, lab):
    with pytest.raises(RunError, match="cpt needs prepare, extend, which is not done"):
        quietly(lab(), only=["cpt"])
    quietly(lab(), only=["prepare", "extend"])
    quietly(lab(), only=["cpt"])
    assert jobs.done == ["prepare", "extend", "cpt"]
    assert words(lab())["sft"] == "waiting"


def test_a_run_is_opened_by_its_folder_as_it_was_begun(jobs, lab):
    quietly(lab(**{"sft.max_steps": 3}, skip=["evaluate-base"]))
    found = open_run(lab().folder)
    assert found.recipe.sft["max_steps"] == 3
    assert [stage.name for stage in found.stages] == [name for name in ALL if name != "evaluate-base"]
    assert set(words(found).values()) == {"done"}


def test_a_folder_belongs_to_one_recipe(jobs, lab, tmp_path):
    quietly(lab(), only=["prepare"])
    other = tmp_path / "other.yaml"
    other.write_text(lab().recipe_file.read_text())
    with pytest.raises(RunError, match="holds a run of lab: choose another --output"):
        quietly(open_run(other, output_dir=lab().folder))
    with pytest.raises(RunError, match="--output goes with a recipe"):
        open_run(lab().folder, output_dir=tmp_path / "elsewhere")


def test_a_run_is_the_same_however_its_folder_is_spelled(jobs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quietly(open_run("lab", output_dir="run"))
    assert set(words(open_run(tmp_path / "run")).values()) == {"done"}
    assert set(words(open_run("./run/")).values()) == {"done"}


def test_a_run_whose_paths_are_seen_from_elsewhere_is_refused(jobs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quietly(open_run("lab", output_dir="run"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="its paths are as seen from there"):
        open_run(tmp_path / "run")


def test_a_folder_without_a_run_is_no_run(tmp_path):
    with pytest.raises(RunError, match=r"holds no run: it has no run\.json"):
        open_run(tmp_path)


def test_records_say_with_what_a_stage_was_made(jobs, lab):
    run = lab()
    quietly(run, only=["prepare"])
    record = json.loads((run.folder / "stages" / "prepare.json").read_text())
    assert record["inputs"]["data"]["target_length"] == 4096
    assert record["versions"].keys() >= {"torch", "transformers", "trl"}
    assert record["files"]["out.txt"].keys() == {"sha256", "bytes", "mtime_ns"}


def test_equal_models_have_one_digest_whatever_the_cards_beside_them_say(tmp_path):
    digests = set()
    for card in ("tags: trl, sft", "tags: sft, trl"):
        stage = Stage("sft", "training", tmp_path / card)
        stage.folder.mkdir()
        (stage.folder / "README.md").write_text(card)
        (stage.folder / "model.safetensors").write_text("weights")
        (stage.folder / "checkpoint-2").mkdir()
        (stage.folder / "checkpoint-2" / "rng_state.pth").write_text(card)
        files = describe_files(stage.folder)
        assert sorted(files) == ["README.md", "model.safetensors"]
        digests.add(output_digest(stage, files))
    assert len(digests) == 1
