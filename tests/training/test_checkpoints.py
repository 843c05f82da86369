import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from ultralong_hf.errors import ModelError
from ultralong_hf.training.checkpoints import last_checkpoint, resume_point


def write_checkpoint(output_dir, step: int, processes: int = 1):
    """The files of a Trainer's checkpoint."""
    folder = output_dir / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    save_file({"weight": np.arange(100.0)}, folder / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt"):
        torch.save({"state": torch.arange(100)}, folder / name)
    names = ["rng_state.pth"] if processes == 1 else [f"rng_state_{rank}.pth" for rank in range(processes)]
    for name in names:
        torch.save({"cpu": torch.arange(10)}, folder / name)
    (folder / "config.json").write_text("{}")
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return folder


def cut_short(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_without_a_checkpoint_there_is_none(tmp_path):
    assert last_checkpoint(tmp_path) is None
    assert last_checkpoint(tmp_path / "nowhere") is None


def test_the_last_by_number_is_taken_not_by_name(tmp_path):
    for step in (5, 30, 200):
        write_checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-best").mkdir()
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-200")


DAMAGES = {
    "trainer_state.json is missing": lambda folder: (folder / "trainer_state.json").unlink(),
    "trainer_state.json is cut short": lambda folder: cut_short(folder / "trainer_state.json"),
    "trainer_state.json is of step 20": lambda folder: (folder / "trainer_state.json").write_text(
        '{"global_step": 20}'
    ),
    "scheduler.pt is missing": lambda folder: (folder / "scheduler.pt").unlink(),
    "rng_state.pth is missing": lambda folder: (folder / "rng_state.pth").unlink(),
    "optimizer.pt is cut short": lambda folder: cut_short(folder / "optimizer.pt"),
    "rng_state.pth is cut short": lambda folder: cut_short(folder / "rng_state.pth"),
    "model.safetensors is cut short": lambda folder: cut_short(folder / "model.safetensors"),
    "the weights are missing": lambda folder: (folder / "model.safetensors").unlink(),
    "model-2.safetensors is missing": lambda folder: (folder / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}'
    ),
}


@pytest.mark.parametrize("fault", DAMAGES)
def test_a_checkpoint_that_is_not_whole_is_passed_over_with_a_notice(tmp_path, caplog, fault):
    write_checkpoint(tmp_path, 20)
    damaged = write_checkpoint(tmp_path, 30)
    assert last_checkpoint(tmp_path) == str(damaged)
    DAMAGES[fault](damaged)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-20")
    assert caplog.messages == [f"{damaged} is passed over: {fault}."]


def test_an_empty_folder_is_passed_over(tmp_path):
    (tmp_path / "checkpoint-7").mkdir()
    assert last_checkpoint(tmp_path) is None


def test_another_number_of_processes_goes_on_with_new_random_states(tmp_path, caplog):
    folder = write_checkpoint(tmp_path, 20, processes=2)
    assert last_checkpoint(tmp_path, processes=2) == str(folder)
    assert caplog.messages == []
    assert last_checkpoint(tmp_path, processes=4) == str(folder)
    assert caplog.messages == [
        f"{folder} was written by 2 processes and is read by 4: random states begin anew."
    ]


def test_every_process_must_have_left_its_random_state(tmp_path):
    folder = write_checkpoint(tmp_path, 20, processes=3)
    (folder / "rng_state_1.pth").unlink()
    assert last_checkpoint(tmp_path, processes=3) is None


def test_the_key_resume_from_checkpoint_decides(tmp_path):
    folders = [write_checkpoint(tmp_path, step) for step in (1, 2)]

    def resumed_at(asked):
        args = SimpleNamespace(output_dir=str(tmp_path), world_size=1, resume_from_checkpoint=asked)
        return resume_point(args)

    assert resumed_at(None) == resumed_at("true") == str(folders[1])
    assert resumed_at("no") is None
    assert resumed_at(str(folders[0])) == str(folders[0])
    shutil.rmtree(folders[0])
    with pytest.raises(
        ModelError, match=r"checkpoint-1 is no checkpoint to go on from: trainer_state.json is missing"
    ):
        resumed_at(str(folders[0]))
