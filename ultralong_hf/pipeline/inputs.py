"""All that decides what a stage leaves: its part of the recipe, and the digests of what it reads."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ultralong_hf.data.reading.files import find_files, fingerprint_files
from ultralong_hf.lab.names import model_location
from ultralong_hf.pipeline.run import Run
from ultralong_hf.pipeline.stages import PREFERENCES, Stage
from ultralong_hf.recipes.schema import LAB, ModelSection, Source
from ultralong_hf.recipes.writing import recipe_values

Inputs = dict[str, Any]

_FREE_OF_DATA = {"output_dir", "workers", "engine", "on_error", "max_bad_share"}
_OF_TRAINING = ("loss_on_separators", "mask_documents", "eval_rows")
"""Keys of `data` that change no row."""
_FREE_OF_TRAINING = ("output_dir", "report_to", "run_name", "disable_tqdm", "ddp_timeout", "save_total_limit")
_FREE_PREFIXES = ("logging_", "log_", "hub_", "push_to_hub", "dataloader_", "save_", "resume_from")
"""TRL's keys that change no weight."""
_OF_MEMORY = ("lora", "optimizer", "master_weights")
"""Keys of `memory` that change more than rounding."""


def stage_inputs(run: Run, stage: Stage, digests: Mapping[str, str | None]) -> Inputs:
    """What the output of `stage` depends on, as it comes back from JSON.

    `digests`: of the outputs of the stages before it; None for one that is not done.
    """
    inputs = {**_own_inputs(run, stage), "needs": {name: digests.get(name) for name in stage.needs}}
    plain: Inputs = json.loads(json.dumps(inputs, default=str))
    return plain


def differing_keys(before: Any, now: Any, path: str = "") -> Iterator[str]:
    """The keys, dotted, in which two inputs differ.

    >>> list(differing_keys({"cpt": {"seed": 1, "bf16": True}}, {"cpt": {"seed": 2, "bf16": True}}))
    ['cpt.seed']
    """
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*before, *now]):
            yield from differing_keys(before.get(key), now.get(key), f"{path}.{key}" if path else key)
    elif before != now:
        yield path


def _own_inputs(run: Run, stage: Stage) -> Inputs:
    recipe = run.recipe
    if stage.kind == "store":
        data = {
            key: value
            for key, value in asdict(recipe.data).items()
            if key not in _FREE_OF_DATA and key not in _OF_TRAINING and key != "sources"
        }
        return {
            "data": data,
            "documents": [_source_identity(one) for one in recipe.data.sources],
            "tokenizer": _tokenizer_identity(recipe.model),
        }
    if stage.kind == "blend":
        return _blend_inputs(run)
    if stage.kind == "model":
        return {"rope": asdict(recipe.rope), "window": recipe.window, "base": model_identity(recipe.model)}
    if stage.kind == "evaluation":
        return _evaluation_inputs(run, stage)
    if stage.kind == "release":
        return {"recipe": recipe_values(recipe), "name": run.release_name}
    return _training_inputs(run, stage)


def _blend_inputs(run: Run) -> Inputs:
    free = {"sources", "output_dir", "eval_samples", "packed_length", "on_error", "max_bad_share"}
    section = run.recipe.instruct
    kept = {key: value for key, value in asdict(section).items() if key not in free}
    return {
        "instruct": kept,
        "conversations": [_source_identity(one) for one in section.sources],
        "template": None if section.chat_template is None else path_identity(section.chat_template),
        "tokenizer": _tokenizer_identity(run.recipe.model),
    }


def _training_inputs(run: Run, stage: Stage) -> Inputs:
    recipe = run.recipe
    section = getattr(recipe, stage.name)
    inputs: Inputs = {
        "model": {key: getattr(recipe.model, key) for key in ("dtype", "attn_implementation")},
        "memory": {key: value for key, value in asdict(recipe.memory).items() if key in _OF_MEMORY},
        "rows_of_step": recipe.rows_of_step(stage.name),
        stage.name: {
            key: value
            for key, value in section.items()
            if key not in _FREE_OF_TRAINING and not key.startswith(_FREE_PREFIXES)
        },
    }
    if stage.name == "cpt":
        inputs["data"] = {key: getattr(recipe.data, key) for key in _OF_TRAINING}
        if not recipe.data.sources:
            inputs["rows"] = path_identity(Path(recipe.data.output_dir) / "manifest.json")
    elif stage.name == "sft":
        keys = ("eval_samples", "packed_length", "max_length")
        inputs["instruct"] = {key: getattr(recipe.instruct, key) for key in keys}
        if not recipe.instruct.sources:
            inputs["samples"] = path_identity(Path(str(recipe.instruct.output_dir)) / "blend.json")
    elif stage.name in PREFERENCES:
        name = "grpo_data" if stage.name == "grpo" else "preference_data"
        inputs[name] = asdict(getattr(recipe, name))
        if inputs[name].get("grounded") is not None:
            del inputs[name]["grounded"]["output_dir"]
        if stage.name != "grpo":
            inputs["pairs"] = [_source_identity(one) for one in recipe.preference_data.sources]
    return inputs


def _evaluation_inputs(run: Run, stage: Stage) -> Inputs:
    section = run.recipe.evaluation
    files = {
        key: path_identity(path)
        for key in ("haystack", "data_dir")
        if (path := getattr(section, key)) is not None
    }
    base = {"base": model_identity(run.recipe.model)} if stage.model is None else {}
    return {"evaluation": asdict(section), "files": files, **base}


def model_identity(section: ModelSection) -> Inputs:
    """Of a folder, a fingerprint of its files; of a hub model, its name and revision."""
    location = Path(model_location(section.name_or_path))
    if not location.is_dir():
        return {"hub": section.name_or_path, "revision": section.revision}
    return {"files": _fingerprint(location, _top_files(location))}


def path_identity(path: str | Path) -> str | None:
    """A fingerprint of the files of a path or glob; None where nothing is there."""
    from ultralong_hf.errors import DocumentError

    try:
        return fingerprint_files(*find_files(str(path)))
    except DocumentError:
        return None


def _tokenizer_identity(section: ModelSection) -> Inputs:
    location = Path(model_location(section.name_or_path))
    if not location.is_dir():
        return {"hub": section.name_or_path, "revision": section.revision}
    names = [name for name in _top_files(location) if not name.endswith(".safetensors") and "token" in name]
    return {"files": _fingerprint(location, names)}


def _source_identity(source: Source) -> Inputs:
    """The entry as the recipe has it, and of files that are here a fingerprint.

    What a hub dataset holds today is not looked up: without network a run must know its own outputs. The
    lab's documents are the standard library's of this Python.
    """
    entry = {key: value for key, value in asdict(source).items() if value is not None}
    if source.path == LAB:
        return {**entry, "python": ".".join(map(str, sys.version_info[:3]))}
    return {**entry, "files": path_identity(source.path)}


def _top_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def _fingerprint(folder: Path, names: Sequence[str]) -> str:
    return fingerprint_files(str(folder), list(names))
