import os
import subprocess
import sys
from pathlib import Path

import pytest

from ultralong_hf.errors import RecipeError
from ultralong_hf.training.command_line import parse_recipe

EXAMPLES = Path(__file__).parents[2] / "examples"
ON_TWO = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]


def run(*command: str | Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=environment, timeout=300
    )


def errors(result: subprocess.CompletedProcess) -> list[str]:
    return [line for line in result.stderr.splitlines() if line.startswith("error:")]


def test_a_launch_that_shares_rows_is_checked_and_trains_nothing(recipe_file, tmp_path):
    result = run(
        *ON_TWO, EXAMPLES / "cpt.py", "--recipe", recipe_file, "--parallel.size", "2", "--check-parallel"
    )
    assert result.returncode == 0, result.stderr
    table = [line.split() for line in result.stdout.splitlines()]
    assert ["tokens", "a", "device", "128", "64"] in table
    assert result.stdout.rstrip().endswith("The set-up is right.")
    assert not list((tmp_path / "cpt").glob("*")), "no checkpoint and no model"


def test_sizes_that_accelerate_drops_stop_a_launch_before_the_model_is_loaded(recipe_file):
    result = run(
        *(*ON_TWO, "--parallelism_config_cp_size", "2", EXAMPLES / "cpt.py"),
        *("--recipe", recipe_file, "--parallel.size", "1"),
    )
    assert result.returncode != 0
    assert errors(result) == [
        "error: the launcher was given parallelism_config_cp_size 2, but accelerate drops it without "
        "--use_parallelism_config: every device would hold whole rows. Leave it out and set parallel.size to "
        "2 in the recipe."
    ]
    assert "Loading weights" not in result.stderr


def test_a_check_on_one_process_is_refused(recipe_file):
    result = run(sys.executable, EXAMPLES / "cpt.py", "--recipe", recipe_file, "--check-parallel")
    assert result.returncode == 2
    (error,) = errors(result)
    assert error.startswith("error: The parallel check was launched as one process")


def test_the_option_is_off_unless_given_and_its_misspelling_is_named():
    assert parse_recipe("sft", ["--recipe", "lab"])[1].check_parallel is False
    assert parse_recipe("sft", ["--recipe", "lab", "--check-parallel"])[1].check_parallel is True
    with pytest.raises(RecipeError, match="Nearest: --check-parallel"):
        parse_recipe("sft", ["--recipe", "lab", "--check-paralel"])


def test_the_preference_stage_takes_the_keys_of_dpo():
    recipe, _ = parse_recipe("preference", ["--recipe", "lab", "--beta", "0.2"])
    assert recipe.preference["beta"] == 0.2
