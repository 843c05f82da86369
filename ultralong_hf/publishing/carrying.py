"""A model's own files, and no others, carried to a release folder: weights linked, settings put right."""

from __future__ import annotations

import fnmatch
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ultralong_hf.errors import ModelError, ReleaseError
from ultralong_hf.publishing.licences import LICENCE_FILES
from ultralong_hf.rope.folder import (
    CONFIG,
    GENERATION_CONFIG,
    TOKENIZER_CONFIG,
    edit_json,
    link_or_copy,
    read_json,
    whole_folder,
)
from ultralong_hf.rope.stretch import both_key_generations

RELEASE_FILE = "release.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
_CARRIED = (
    CONFIG,
    GENERATION_CONFIG,
    TOKENIZER_CONFIG,
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.model",  # sentencepiece
    "*.tiktoken",
    "tekken.json",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
)
TEMPLATES = "additional_chat_templates"
_OF_THIS_MACHINE = ("_name_or_path", "name_or_path", "is_local", "local_files_only")
"""How a config or tokenizer was loaded; a path among it would be a path of this machine."""
_NO_LIMIT = 10**9  # transformers writes 1e30 into tokenizers without a limit of their own


@contextmanager
def release_folder(output: str | Path) -> Iterator[Path]:
    """A folder to fill, which becomes `output` when the block ends and vanishes if it raises.

    An earlier release there is replaced once the new one is whole. Raises ModelError for a folder with
    anything else in it.
    """
    target = Path(output).expanduser().absolute()
    earlier = target.with_name(f".{target.name}.earlier")
    if not target.exists() and (earlier / RELEASE_FILE).is_file():
        earlier.rename(target)  # a kill between the two renames below
    if not (target / RELEASE_FILE).is_file():
        with whole_folder(target) as folder:
            yield folder
        return
    fresh = target.with_name(f".{target.name}.next")
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(earlier, ignore_errors=True)
    with whole_folder(fresh) as folder:
        yield folder
    target.rename(earlier)
    fresh.rename(target)
    shutil.rmtree(earlier)


def weight_files(source: Path) -> list[str]:
    """Names of the safetensors files with the weights, and of their index where there is one.

    Raises ReleaseError for an adapter and for pickles alone, ModelError for a shard that is missing.
    """
    if (source / WEIGHTS).is_file():  # which transformers looks for first
        return [WEIGHTS]
    if (source / INDEX).is_file():
        shards = sorted(set(read_json(source / INDEX).get("weight_map", {}).values()))
        missing = [name for name in shards if not (source / name).is_file()]
        if missing or not shards:
            raise ModelError(f"{source / INDEX} names {(missing or ['no file'])[0]}, which is not there.")
        if any(Path(name).name != name for name in shards):
            raise ReleaseError(f"{source / INDEX} names files outside the folder.")
        return [*shards, INDEX]
    if (source / ADAPTER).is_file():
        raise ReleaseError(
            f"{source} is an adapter, which loads with its base alone. Merge it first: "
            f"`ultralong publish --merge {source} --output DIR`."
        )
    raise ReleaseError(
        f"{source} holds no {WEIGHTS} and no {INDEX}. Save the model by `save_pretrained`, which writes "
        "them; pickles are not released."
    )


def carry_model(source: Path, target: Path) -> list[str]:
    """Carries weights, config, tokenizer, templates and licences to `target`; returns notes on what was not.

    Training leaves more in a folder (optimizer state, cards, logs, checkpoints), which stays behind.
    """
    weights = weight_files(source)
    left = []
    for name in sorted(os.listdir(source)):
        path = source / name
        if name in weights:
            _carry_weights(path, target / name)
        elif path.is_file() and is_carried(name):
            shutil.copyfile(path, target / name)
        elif path.is_dir() and name == TEMPLATES:
            shutil.copytree(path, target / name)
        elif not name.startswith("."):
            left.append(f"{name}/" if path.is_dir() else name)
    return [f"left out of the release: {', '.join(left)}."] if left else []


def is_carried(name: str) -> bool:
    """Whether a file beside the weights belongs to the model: settings, tokenizer, templates, licences."""
    return any(fnmatch.fnmatch(name, one) for one in _CARRIED) or bool(LICENCE_FILES.match(name))


def settle_settings(folder: Path) -> list[str]:
    """Puts the settings in `folder` right for those who load it, in place; returns what was changed.

    The KV cache is on, the keys of both generations of transformers are there, no path of this machine is;
    the tokenizer's and the generation config's limits are the window.
    """
    config, notes = read_json(folder / CONFIG), []
    text = config.get("text_config") or config
    for keys in (config, text):
        if keys.get("use_cache") is False:
            keys["use_cache"] = True
            notes.append("config.json had use_cache false, as training leaves it: now true.")
    for name in _OF_THIS_MACHINE:
        config.pop(name, None)
    settled = both_key_generations(config)
    edit_json(folder / CONFIG, lambda _: settled)
    window = text.get("max_position_embeddings")
    if isinstance(window, int):
        notes += _settle_tokenizer(folder / TOKENIZER_CONFIG, window)
    notes += _settle_generation(folder / GENERATION_CONFIG, settled)
    return list(dict.fromkeys(notes))


def _settle_tokenizer(path: Path, window: int) -> list[str]:
    if not path.is_file():
        return []
    keys = read_json(path)
    limit = keys.get("model_max_length")
    settled = {k: v for k, v in keys.items() if k not in _OF_THIS_MACHINE} | {"model_max_length": window}
    edit_json(path, lambda _: settled)
    if isinstance(limit, int | float) and limit != window and limit < _NO_LIMIT:
        return [f"the tokenizer's model_max_length was {limit:,.0f}: now the window, {window:,}."]
    return []


def _settle_generation(path: Path, config: Mapping[str, Any]) -> list[str]:
    text = config.get("text_config") or config
    if not path.is_file():
        ids = {
            name: text[name]
            for name in ("bos_token_id", "eos_token_id", "pad_token_id")
            if text.get(name) is not None
        }
        path.write_text(json.dumps(ids, indent=2) + "\n", encoding="utf-8")
        return [f"there was no {path.name}: made from the config's special tokens."]
    keys = read_json(path)
    if keys.get("use_cache") is not False:
        return []
    edit_json(path, lambda keys: {**keys, "use_cache": True})
    return [f"{path.name} had use_cache false: now true."]


def _carry_weights(path: Path, target: Path) -> None:
    if path.name.endswith(".json"):
        shutil.copyfile(path, target)
    else:
        link_or_copy(path.resolve(), target)
