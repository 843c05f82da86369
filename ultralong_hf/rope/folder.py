"""Model folders: found here or on the hub, carried to a new place, written whole or not at all.

Weights are hard-linked (copied to another file system) and never read. What is left out, and why, comes back
as sentences.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ultralong_hf.errors import ModelError
from ultralong_hf.rope.stretch import both_key_generations

CONFIG, TOKENIZER_CONFIG, GENERATION_CONFIG = "config.json", "tokenizer_config.json", "generation_config.json"

# Pickles: loading one can run any code that its author wrote into it.
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
_TRAINER_STATE = ("training_args", "optimizer", "scheduler", "scaler", "rng_state")
# Weights that carry their own RoPE settings, or are of other frameworks: a new config does not reach them.
OTHER_WEIGHTS = (".gguf", ".onnx", ".h5", ".msgpack", ".ot", ".tflite")
# The one subfolder that transformers reads with a tokenizer.
_TEMPLATES = "additional_chat_templates"


def find_model(model: str | os.PathLike[str], *, with_weights: bool, revision: str | None = None) -> Path:
    """The folder of `model`, a path or a hub id; of a hub id, its snapshot in the cache, fetched if need be.

    Without `with_weights` only the config of a hub model is fetched. `revision`: a commit or branch of one.
    Raises ModelError if it is neither, has no config.json, or the hub cannot be read.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / CONFIG).is_file():
            raise ModelError(f"{folder} is no model folder: it has no {CONFIG}.")
        return folder
    if folder.exists():
        raise ModelError(f"{folder} is a file. Give the model's folder, or a hub id such as 'org/name'.")
    return _snapshot(str(model), with_weights, revision)


@contextmanager
def whole_folder(output: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder to fill, which becomes `output` when the block ends and vanishes if it raises.

    It stands beside `output` as `.NAME.partial`; one that a killed process left there is taken away first.
    Raises ModelError if `output` exists and is not an empty folder.
    """
    target = Path(output).expanduser().absolute()
    if target.is_file() or target.is_symlink() or (target.is_dir() and any(target.iterdir())):
        raise ModelError(f"{target} exists and is not an empty folder. Remove it, or choose another output.")
    partial = target.with_name(f".{target.name}.partial")
    try:
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir(parents=True)
        yield partial
        if target.is_dir():
            target.rmdir()
        partial.rename(target)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise ModelError(f"{target} could not be written: {error}.") from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def carry_files(source: Path, target: Path) -> list[str]:
    """Carries the model in `source` to `target`; returns a sentence for each kind of thing left out.

    Safetensors files are hard-linked, or copied where the file system does not link; links such as the hub
    cache's are followed. All other files at the top are copied, and the tokenizer's extra chat templates.
    Raises ModelError for weights that are pickles only, for shards that are missing and for dangling links.
    """
    names = sorted(os.listdir(source))
    _check_weights(source, names)
    left_out: dict[str, list[str]] = {}
    for name in names:
        path = source / name
        if path.is_dir():
            if name == _TEMPLATES:
                shutil.copytree(path, target / name)
            elif not name.startswith("."):
                left_out.setdefault("subfolders", []).append(name)
        elif name.endswith(PICKLES):
            left_out.setdefault("pickles, which can run code when loaded", []).append(name)
        elif name.endswith(OTHER_WEIGHTS):
            left_out.setdefault("weights that the new config does not reach", []).append(name)
        elif not path.exists():
            raise ModelError(f"{path} is a link to nothing. Fetch the model again.")
        elif name.endswith(".safetensors"):
            link_or_copy(path.resolve(), target / name)
        elif not (name.startswith(".") or name.endswith((".bin.index.json", ".h5.index.json"))):
            shutil.copyfile(path, target / name)
    return [f"left out {kind}: {', '.join(found)}." for kind, found in left_out.items()]


def follow_window(folder: Path, *, window_before: int, target_length: int) -> None:
    """Lets the tokenizer's and the generation config's limits in `folder` follow the window, in place.

    `model_max_length` becomes `target_length`. A generation `max_length` that was the old window or more
    becomes `target_length` too; a shorter one is a choice of its maker's and stays.
    """
    tokenizer, generation = folder / TOKENIZER_CONFIG, folder / GENERATION_CONFIG
    if tokenizer.is_file():
        edit_json(tokenizer, lambda keys: {**keys, "model_max_length": target_length})
    if generation.is_file():
        edit_json(generation, lambda keys: longer_generation(keys, window_before, target_length))


def longer_generation(keys: Mapping[str, Any], window_before: int, target_length: int) -> dict[str, Any]:
    """The dict of a generation config whose `max_length` follows the window if it was bound to it."""
    limit = keys.get("max_length")
    bound = isinstance(limit, int) and window_before <= limit < target_length
    return {**keys, "max_length": target_length} if bound else dict(keys)


def finish_model_folder(folder: str | os.PathLike[str]) -> None:
    """Writes the keys of transformers 4 beside those of transformers 5 into the config.json of `folder`.

    `save_pretrained` of transformers 5 writes `rope_parameters` alone, which older readers take no notice of:
    call this after saving a model, or a checkpoint. Calling it again changes nothing.
    Raises ModelError if there is no config.json that can be read.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise ModelError(f"{folder} is no model folder: it has no {CONFIG}.")
    edit_json(path, both_key_generations)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ModelError if it is not one."""
    try:
        keys = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}.") from error
    if not isinstance(keys, dict):
        raise ModelError(f"{path} holds a JSON {type(keys).__name__}, not an object with keys.")
    return keys


def edit_json(path: Path, edit: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
    """Replaces the object in a JSON file by `edit` of it: whole, or not at all."""
    text = json.dumps(edit(read_json(path)), indent=2, ensure_ascii=False) + "\n"
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _check_weights(source: Path, names: list[str]) -> None:
    weights = [name for name in names if name.endswith(".safetensors")]
    pickles = [name for name in names if name.endswith(PICKLES) and not name.startswith(_TRAINER_STATE)]
    if pickles and not weights:
        raise ModelError(
            f"{source} holds its weights as pickles alone ({pickles[0]}), and loading those can run any "
            "code. Save the model as safetensors first (`save_pretrained` writes it)."
        )
    for index in (name for name in names if name.endswith(".safetensors.index.json")):
        shards = read_json(source / index).get("weight_map", {}).values()
        missing = sorted(set(shards) - set(weights))
        if missing:
            raise ModelError(
                f"{source / index} names {missing[0]}, which is not there. Fetch the model again."
            )


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link of a file; a copy of it on another file system, or one without hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _snapshot(hub_id: str, with_weights: bool, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(hub_id)
    except HFValidationError:
        raise ModelError(f"{hub_id!r} is no folder here, and no hub id such as 'org/name' either.") from None
    unwanted = [f"*{ending}" for ending in PICKLES + OTHER_WEIGHTS] + ["*/*.safetensors"]
    try:
        snapshot = Path(
            snapshot_download(
                hub_id,
                revision=revision,
                allow_patterns=None if with_weights else [CONFIG],
                ignore_patterns=unwanted,
            )
        )
    except Exception as error:  # the hub client raises its own, its HTTP library's and OSError alike
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"{hub_id!r} is no folder here, and the hub did not give it: {reason} Check the spelling, the "
            "network, HF_HUB_OFFLINE, and whether the model asks for a login."
        ) from None
    if not (snapshot / CONFIG).is_file():
        raise ModelError(f"{hub_id!r} on the hub is no model: it has no {CONFIG}.")
    if with_weights and not any(snapshot.glob("*.safetensors")):
        raise ModelError(f"{hub_id!r} on the hub holds no safetensors weights; pickles are not fetched.")
    return snapshot
