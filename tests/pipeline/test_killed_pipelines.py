import json
import os
import subprocess
import sys
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
    assert sum(seen["stages"].values()) >= 1, "no kill hit a stage"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_thirty_kills_hit_stages_of_every_kind(tmp_path):
    seen = kill_runs(tmp_path, seed=1, kills=30)
    assert seen["kills"] == 30
    assert seen["stages"].keys() >= {"prepare", "cpt", "sft", "evaluate-final"}
    assert seen["resumed"] >= 3, "training that went on from a checkpoint"
