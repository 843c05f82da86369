"""A process that dies, fails or hangs ends the others, and the launcher says which one it was and why."""

import json
import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from ultralong_hf.errors import StoreError
from ultralong_hf.parallel.timeouts import limit_waits
from ultralong_hf.training.command_line import run

SCRIPT = Path(__file__).with_name("rank_death_script.py")
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
TIMEOUT = 5  # seconds, the script's ddp_timeout


def train_until(trouble: str, folder: Path) -> tuple[str, float]:
    """What the launcher printed, and the seconds from the trouble to its end."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [*LAUNCH, str(SCRIPT), trouble, str(folder)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        check=False,
    )
    ended = time.time()
    assert process.returncode == 1, process.stdout
    begun = max(
        float(line.split()[-1]) for line in process.stdout.splitlines() if line.startswith("trouble at")
    )
    return process.stderr, ended - begun


def root_cause(stderr: str) -> str:
    return stderr.rpartition("Root Cause")[2]


def test_a_killed_process_ends_the_others_and_is_named(tmp_path):
    stderr, seconds = train_until("die", tmp_path)
    assert "rank      : 1 (local_rank: 1)" in root_cause(stderr)
    assert "Signal 9 (SIGKILL) received" in root_cause(stderr)
    assert seconds < TIMEOUT + 25, "the launcher's own clean-up included"


def test_a_process_that_hangs_is_waited_for_no_longer_than_ddp_timeout(tmp_path):
    stderr, seconds = train_until("hang", tmp_path)
    assert "rank      : 0 (local_rank: 0)" in root_cause(stderr), "the one that gave up"
    assert f"Timed out waiting {TIMEOUT * 1000}ms" in root_cause(stderr)
    assert TIMEOUT - 1 < seconds < TIMEOUT + 60, "the launcher gives the one that hangs 30 s to end"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trouble", "error"),
    [
        ("fail", "StoreError: store/data-00007.arrow does not match its digest."),
        ("break_down", "RuntimeError: the disk of this node is gone"),
    ],
)
def test_an_error_of_one_process_is_shown_as_the_cause(tmp_path, trouble, error):
    stderr, seconds = train_until(trouble, tmp_path)
    assert "rank      : 1 (local_rank: 1)" in root_cause(stderr)
    assert error in root_cause(stderr)
    assert seconds < TIMEOUT + 25


@pytest.mark.parametrize("error", [StoreError("one shard is gone"), RuntimeError("one shard is gone")])
def test_what_ends_a_process_is_left_for_the_launcher(error, tmp_path, monkeypatch):
    file = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
    monkeypatch.setenv("RANK", "1")

    def main():
        raise error

    if isinstance(error, StoreError):
        assert run(main) == 2
    else:
        with pytest.raises(RuntimeError):
            run(main)
    assert json.loads(file.read_text())["message"]["message"] == f"{type(error).__name__}: one shard is gone"


def timeouts_of_a_mesh() -> tuple[list[float], list[float]]:
    """Seconds that the first group and one of a mesh wait, before and after limit_waits."""
    import torch.distributed as dist
    from torch.distributed import init_device_mesh

    dist.init_process_group("gloo", timeout=timedelta(seconds=100))
    mesh = init_device_mesh("cpu", (2, 1), mesh_dim_names=("dp", "cp"))
    groups = [dist.group.WORLD, mesh.get_group("cp")]
    before = [seconds_of(group) for group in groups]
    assert limit_waits(timedelta(seconds=7)) == 2
    return before, [seconds_of(group) for group in groups]


def seconds_of(group: torch.distributed.ProcessGroup) -> float:
    return group._get_backend(torch.device("cpu")).options._timeout.total_seconds()


def test_every_group_of_a_mesh_gets_the_timeout(workers):
    for before, after in workers.run(2, timeouts_of_a_mesh):
        assert before == [100, 1800], "torch gives a mesh its own default"
        assert after == [7, 7]


def test_one_process_has_no_groups_to_wait_for():
    assert limit_waits(timedelta(seconds=7)) == 0
