"""Which checkpoint of a training run to go on from: the last whole one."""

from __future__ import annotations

import json
import logging
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from ultralong_hf.errors import ModelError

if TYPE_CHECKING:
    from transformers import TrainingArguments

logger = logging.getLogger(__name__)

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


def is_checkpoint(folder: str | Path) -> bool:
    """Whether the folder is named as the Trainer names its checkpoints."""
    return _CHECKPOINT.fullmatch(Path(folder).name) is not None


def resume_point(args: TrainingArguments) -> str | None:
    """The checkpoint to go on from: that of the key `resume_from_checkpoint`, or else the last whole one.

    "no" as that key begins anew. Raises ModelError for a checkpoint that was asked for and is not whole.
    """
    asked = args.resume_from_checkpoint
    if asked is None or asked.lower() in ("true", "yes"):
        return last_checkpoint(str(args.output_dir), processes=args.world_size)
    if asked.lower() in ("no", "none", "false"):
        return None
    fault = _fault(Path(asked))
    if fault is not None:
        raise ModelError(f"{asked} is no checkpoint to go on from: {fault}.")
    _tell_processes(Path(asked), args.world_size)
    return asked


def last_checkpoint(output_dir: str | Path, *, processes: int = 1) -> str | None:
    """The folder of the last whole checkpoint, or None; later ones that are not whole are named in warnings.

    `processes`: how many go on from it. Where others wrote it, a warning says that random states begin anew.
    """
    folders = [p for p in Path(output_dir).glob("checkpoint-*") if is_checkpoint(p)]
    for folder in sorted(folders, key=_step, reverse=True):
        fault = _fault(folder)
        if fault is None:
            _tell_processes(folder, processes)
            return str(folder)
        logger.warning("%s is passed over: %s.", folder, fault)
    return None


def _step(folder: Path) -> int:
    match = _CHECKPOINT.fullmatch(folder.name)
    assert match is not None
    return int(match.group(1))


def _tell_processes(folder: Path, processes: int) -> None:
    writers = len(list(folder.glob("rng_state*.pth")))
    if writers != processes:
        logger.warning(
            "%s was written by %d processes and is read by %d: random states begin anew.",
            folder,
            writers,
            processes,
        )


def _fault(folder: Path) -> str | None:
    """What is missing or cut short. Every file's frame is checked; the numbers inside are not read."""
    # Each process that took part has left its random state.
    writers = len(list(folder.glob("rng_state_*.pth")))
    names = [f"rng_state_{rank}.pth" for rank in range(writers)] or ["rng_state.pth"]
    # The Trainer writes trainer_state.json last.
    for name in ["trainer_state.json", "scheduler.pt", *names]:
        if not (folder / name).is_file():
            return f"{name} is missing"
    for path in folder.rglob("*"):
        if not _is_whole(path):
            return f"{path.relative_to(folder)} is cut short"
    step = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["global_step"]
    if step != _step(folder):
        return f"trainer_state.json is of step {step}"
    return _missing_weights(folder)


def _missing_weights(folder: Path) -> str | None:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        missing = sorted(name for name in shards if not (folder / name).is_file())
        return f"{missing[0]} is missing" if missing else None
    if any(folder.glob("*.safetensors")) or any(
        p.is_dir() for p in folder.iterdir()
    ):  # FSDP and DeepSpeed: folders
        return None
    return "the weights are missing"


def _is_whole(path: Path) -> bool:
    """Whether the end of the file is there, by the format that its suffix names."""
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="numpy"):
                return True
        except (SafetensorError, OSError):
            return False
    if path.suffix in (".pt", ".pth"):  # torch.save writes a zip file, whose directory stands at its end
        return zipfile.is_zipfile(path)
    if path.suffix == ".json":
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            return False
    return True
