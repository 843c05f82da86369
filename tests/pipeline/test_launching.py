"""Which process does a stage, and how its end is told."""

import signal
import sys

import pytest
from filelock import FileLock

from ultralong_hf.errors import ModelError, RecipeError, RunError, StageFailed
from ultralong_hf.pipeline import open_run, run_pipeline
from ultralong_hf.pipeline.launching import stage_command
from ultralong_hf.training.running import run_stage, trainer_maker


def launch_script(tmp_path, text):
    """A launcher in place of accelerate's."""
    path = tmp_path / "launcher.py"
    path.write_text(text)
    return [sys.executable, str(path)]


def trained_with(lab, tmp_path, text):
    run = lab()
    run_pipeline(run, only=["prepare", "extend"], say=lambda line: None)
    run_pipeline(run, only=["cpt"], launch=launch_script(tmp_path, text), say=lambda line: None)
    return run


def test_on_a_cpu_all_is_done_in_this_process(lab):
    run = lab()
    assert [stage_command(run, stage) for stage in run.stages] == [None] * len(run.stages)


def test_on_gpus_training_is_launched_and_evaluations_have_their_own_process():
    run = open_run("ultralong-1m")
    commands = {stage.name: stage_command(run, stage) for stage in run.stages}
    assert [name for name, command in commands.items() if command is None] == [
        "prepare",
        "blend",
        "extend",
        "publish",
    ]
    assert commands["cpt"] == [
        *(sys.executable, "-m", "accelerate.commands.launch", "-m", "ultralong_hf.training", "cpt"),
        *("--recipe", "outputs/ultralong-1m/recipe.yaml", "--model", "outputs/ultralong-1m/extended"),
    ]
    assert commands["evaluate-cpt"][1:] == [
        "-m",
        "ultralong_hf.pipeline",
        "outputs/ultralong-1m",
        "evaluate-cpt",
    ]


def test_a_launcher_gets_the_stage_and_its_output_is_the_log(jobs, lab, tmp_path):
    script = (
        "import sys, pathlib; print(sys.argv[1:]); f = pathlib.Path(sys.argv[-1]).parent / 'cpt'; f.mkdir()"
    )
    run = trained_with(lab, tmp_path, f"{script}; (f / 'out.txt').write_text('x')")
    assert (
        f"['-m', 'ultralong_hf.training', 'cpt', '--recipe', '{run.recipe_file}'"
        in run.log("cpt").read_text()
    )


def test_error_lines_of_a_launched_stage_are_the_runs(jobs, lab, tmp_path):
    with pytest.raises(RunError) as error:
        trained_with(lab, tmp_path, "import sys; print('error: no such key', file=sys.stderr); sys.exit(2)")
    assert error.value.faults == ("cpt: no such key", f"cpt did not end; its log is {lab().log('cpt')}.")


def test_a_launched_stage_that_was_killed_says_so(jobs, lab, tmp_path):
    with pytest.raises(StageFailed, match=f"ended by signal {int(signal.SIGKILL)}, for memory perhaps"):
        trained_with(lab, tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")


def test_two_processes_do_not_train_in_one_folder(lab, tmp_path):
    recipe = lab().recipe
    folder = lab().stage("cpt").folder
    folder.parent.mkdir(parents=True)
    with (
        FileLock(folder.with_name(".cpt.lock")),
        pytest.raises(ModelError, match="another process trains in"),
    ):
        run_stage(recipe, "cpt")


def test_what_is_no_stage_of_training_is_refused():
    with pytest.raises(RecipeError, match="'prepare' is no stage that trains"):
        trainer_maker("prepare")


@pytest.mark.slow
def test_a_run_through_accelerate_ends_with_the_digests_of_one_in_this_process(tmp_path):
    from killed_pipelines import SKIP, TINY

    def digests(name, launch):
        run = open_run("lab", output_dir=tmp_path / name, overrides=TINY, skip=SKIP)
        return [state.digest for state in run_pipeline(run, launch=launch, say=lambda line: None)]

    here = digests("here", None)
    launched = digests(
        "launched", [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1"]
    )
    assert None not in here
    assert launched == here
