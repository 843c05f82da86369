import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


def kill_runs(folder, *, seed, kills):
    script = Path(__file__).parent / "killed_pipelines.py"
    done = subprocess.run(
        [sys.executable, str(script), str(folder), str(seed), str(kills)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        timeout=3000,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_run_killed_at_random_moments_ends_with_the_digests_of_one_that_was_not(tmp_path):
    seen = kill_runs(tmp_path, seed=0, kills=2)
    assert seen["kills"] == 2


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_thirty_kills_hit_stages_of_every_kind(tmp_path):
    seen = kill_runs(tmp_path, seed=1, kills=30)
    assert seen["kills"] == 30
    assert seen["stages"].keys() >= {"prepare", "cpt", "sft", "evaluate-final"}
    assert seen["resumed"] >= 3, "training that went on from a checkpoint"


RUN = [sys.executable, "-m", "ultralong_hf.cli", "run", "lab", "--json", "--skip", "evaluate-cpt"]


def run_lab(folder, *, kill_after=None):
    """What the command prints as JSON; None where it was killed before its end."""
    environment = {**os.environ, "ULTRALONG_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(
        [*RUN, "--output", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    ) as process:
        try:
            out, _ = process.communicate(timeout=kill_after)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return None
    assert process.returncode == 0, f"see the logs in {folder}"
    return json.loads(out)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_lab_killed_six_times_ends_with_the_digests_of_a_run_that_was_not(tmp_path):
    begun = time.monotonic()
    whole = run_lab(tmp_path / "whole")
    seconds = time.monotonic() - begun
    rng = random.Random(0)
    for _ in range(6):
        if run_lab(tmp_path / "killed", kill_after=rng.uniform(10, seconds / 3)) is not None:
            break
    ended = run_lab(tmp_path / "killed")
    assert ended["done"]
    assert sum(stage["attempts"] for stage in ended["stages"]) > len(ended["stages"]), "no kill hit a stage"
    assert [(s["stage"], s["digest"]) for s in ended["stages"]] == [
        (s["stage"], s["digest"]) for s in whole["stages"]
    ]
