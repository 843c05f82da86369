import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from ultralong_hf.recipes import load_recipe
from ultralong_hf.training import cpt_trainer

EXAMPLES = Path(__file__).parents[2] / "examples"
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch"]
# With --cpu accelerate 1.15 starts one process whatever --num_processes says.
ON_TWO = [*LAUNCH, "--multi_gpu", "--num_processes", "2"]

KILLED_AFTER_STEP_3 = """
import os, signal, sys
from transformers import TrainerCallback
from ultralong_hf.recipes import load_recipe
from ultralong_hf.training import cpt_trainer

class Kill(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3:
            os.kill(os.getpid(), signal.SIGKILL)

cpt_trainer(load_recipe(sys.argv[1]), callbacks=[Kill()]).train()
"""


def run(*command: str | Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=environment, timeout=300
    )


def history(output_dir: Path, step: int) -> list[dict]:
    state = json.loads((output_dir / f"checkpoint-{step}" / "trainer_state.json").read_text())
    return state["log_history"]


def losses(output_dir: Path, step: int = 6) -> list[float]:
    return [entry["loss"] for entry in history(output_dir, step) if "loss" in entry]


def test_a_killed_run_goes_on_by_itself_and_ends_as_if_it_had_not_been_killed(recipe_file, tmp_path):
    whole = cpt_trainer(load_recipe(recipe_file, {"cpt.output_dir": str(tmp_path / "whole")}))
    whole.train()
    whole.save_model()

    killed = run(sys.executable, "-c", KILLED_AFTER_STEP_3, recipe_file)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert sorted(p.name for p in (tmp_path / "cpt").glob("checkpoint-*")) == ["checkpoint-2"]
    # and one that was being written
    (tmp_path / "cpt" / "checkpoint-4").mkdir()

    resumed = run(*LAUNCH, EXAMPLES / "cpt.py", "--recipe", recipe_file)
    assert resumed.returncode == 0, resumed.stderr
    assert "checkpoint-4 is passed over: trainer_state.json is missing." in resumed.stderr
    assert len(losses(tmp_path / "whole")) == 6
    assert losses(tmp_path / "cpt") == losses(tmp_path / "whole")
    expected = load_file(tmp_path / "whole" / "model.safetensors")
    got = load_file(tmp_path / "cpt" / "model.safetensors")
    assert expected.keys() == got.keys()
    assert all(expected[name].equal(got[name]) for name in expected)


def test_bad_options_end_with_lines_on_stderr_and_status_2():
    result = run(
        sys.executable, EXAMPLES / "cpt.py", "--recipe", "lab", "--data.seperator", "x", "--packing", "1"
    )
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        "error: data.seperator is no key of a recipe. Nearest: data.separator.",
        "error: cpt.packing cannot be set in a recipe: rows are packed in the token store.",
    ]


@pytest.mark.slow
def test_both_stages_run_on_two_processes_as_on_one_with_two_rows_a_step(recipe_file, tmp_path):
    one = run(
        *(*LAUNCH, EXAMPLES / "cpt.py", "--recipe", recipe_file),
        *("--gradient_accumulation_steps", "2", "--output_dir", tmp_path / "one"),
    )
    assert one.returncode == 0, one.stderr
    two = run(
        *(*ON_TWO, EXAMPLES / "cpt.py", "--recipe", recipe_file),
        *("--data.output_dir", tmp_path / "second store"),  # so that the processes make one together
    )
    assert two.returncode == 0, two.stderr
    assert losses(tmp_path / "cpt") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    before_one, before_two = (history(tmp_path / name, 6)[0] for name in ("one", "cpt"))
    buckets = [key for key in before_one if key.startswith("eval_loss_")]
    assert buckets == ["eval_loss_0_64", "eval_loss_64_128"]
    for key in buckets:  # 3 held-out rows on 2 processes: the one that fills up the last batch is left out
        assert before_two[key] == pytest.approx(before_one[key], rel=1e-6)

    tuned = run(*ON_TWO, EXAMPLES / "sft.py", "--recipe", recipe_file)
    assert tuned.returncode == 0, tuned.stderr
    assert (tmp_path / "sft" / "model.safetensors").is_file()
