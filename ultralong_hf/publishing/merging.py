"""Merging: weights of several folders into one, or an adapter into its base.

A weighted mean is all that averaging of checkpoints and a linear merge with the base are, so it is some lines
here, on safetensors alone and in constant memory. mergekit (LGPL) has the same sum, and more methods.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultralong_hf.errors import ModelError, ReleaseError
from ultralong_hf.lab.names import model_location
from ultralong_hf.publishing.carrying import ADAPTER, INDEX, TEMPLATES, is_carried, weight_files
from ultralong_hf.publishing.shards import Place, read_blocks, read_places, rewrite_shard
from ultralong_hf.rope.folder import CONFIG, find_model, read_json, whole_folder

if TYPE_CHECKING:
    import torch

_INTEGERS = ("BOOL", "U8", "I8", "I16", "I32", "I64", "U16", "U32", "U64")
_NAMED = 5
"""Tensors that a message names of those that differ."""


@dataclass(frozen=True)
class Merged:
    """A merged model's folder; `told` is one sentence on how it came about, `notes` what to know."""

    folder: Path
    told: str
    notes: tuple[str, ...]
    base: str | None = None
    """Of an adapter: the hub id or folder that it was merged into."""


def merge_models(
    models: Sequence[str | Path], *, output_dir: str | Path, weights: Sequence[float] | None = None
) -> Merged:
    """The weighted mean of models, in a folder with the config, tokenizer and shards of the first.

    `weights`: one a model, none negative, made to sum to 1; None: all alike. Every tensor has the first
    model's type; it is summed in float32, or in float64 where the type is float32 or wider. Integer tensors
    must be equal. Memory does not grow with the model. Raises ReleaseError that names all tensors which one
    has and another lacks, or has in another shape.
    """
    if len(models) < 2:
        raise ReleaseError("A merge needs two models at least, or an adapter: name them after --merge.")
    shares = _shares(weights, len(models))
    folders = [find_model(model_location(str(model)), with_weights=True) for model in models]
    places = [read_places(folder) for folder in folders]
    _check_alike(folders, places)
    notes = _notes(folders, places)
    with whole_folder(output_dir) as target:
        _carry_first(folders[0], target)
        for name in weight_files(folders[0]):
            if name == INDEX:
                shutil.copyfile(folders[0] / name, target / name)
                continue
            rewrite_shard(folders[0] / name, target / name, lambda one: _mean(one, places, shares))
    parts = [f"{share:.4g} of {folder.name}" for share, folder in zip(shares, folders, strict=True)]
    alike = len(set(shares)) == 1
    names = ", ".join(folder.name for folder in folders)
    told = f"Its weights are the mean of {names}." if alike else f"Its weights are a sum: {', '.join(parts)}."
    return Merged(Path(output_dir), told, notes)


def merge_adapter(adapter: str | Path, *, output_dir: str | Path, base: str | None = None) -> Merged:
    """The model that a PEFT adapter makes of its base, whole; `base`: None, the one that the adapter names.

    The base is loaded in its own type and fits in memory; sums are made in float32. Window and RoPE are the
    base's. Raises ReleaseError for what is no adapter or has its weights as a pickle.
    """
    folder = Path(adapter).expanduser()
    if not is_adapter(folder):
        raise ReleaseError(f"{folder} is no adapter: it has no {ADAPTER}.")
    if not (folder / "adapter_model.safetensors").is_file():
        raise ReleaseError(f"{folder} has no adapter_model.safetensors; pickles are not read.")
    named = base or read_json(folder / ADAPTER).get("base_model_name_or_path")
    if not named:
        raise ReleaseError(f"{folder / ADAPTER} does not name its base: give it by --base.")
    source = find_model(model_location(str(named)), with_weights=True)
    with whole_folder(output_dir) as target:
        _carry_first(source, target)
        window = _merge_with_peft(source, folder, target)
    note = (
        f"the window is that of {source.name}, {window:,} tokens. Where the adapter was trained on a "
        "stretched model, name that one by --base."
    )
    told = f"Its weights are those of {source.name} with the adapter {folder.name}."
    return Merged(Path(output_dir), told, (note,), str(named))


def is_adapter(folder: str | Path) -> bool:
    """Whether a folder holds a PEFT adapter in place of a model."""
    folder = Path(folder).expanduser()
    return (folder / ADAPTER).is_file() and not (folder / CONFIG).is_file()


def _shares(weights: Sequence[float] | None, models: int) -> list[float]:
    given = [1.0] * models if weights is None else [float(weight) for weight in weights]
    if len(given) != models:
        raise ReleaseError(f"--weights has {len(given)} numbers for {models} models: give one each.")
    if any(not weight >= 0 or weight == float("inf") for weight in given) or sum(given) == 0:
        raise ReleaseError(f"--weights {given}: they must be 0 or more, and not all 0.")
    return [weight / sum(given) for weight in given]


def _check_alike(folders: Sequence[Path], places: Sequence[Mapping[str, Place]]) -> None:
    """All differences at once, each with the names of some tensors."""
    faults = []
    first, head = folders[0], places[0]
    for folder, other in zip(folders[1:], places[1:], strict=True):
        for names, what in (
            ([name for name in head if name not in other], f"{folder} lacks tensors of {first}"),
            ([name for name in other if name not in head], f"{folder} has tensors that {first} lacks"),
            (
                [name for name in head if name in other and head[name].shape != other[name].shape],
                f"{folder} has tensors of other shapes than {first}",
            ),
            (
                [
                    name
                    for name in head
                    if name in other and (head[name].dtype in _INTEGERS) != (other[name].dtype in _INTEGERS)
                ],
                f"{folder} has integers where {first} has none, or the reverse",
            ),
        ):
            if names:
                faults.append(f"{what}: {_named(names, head, other)}")
    if faults:
        raise ReleaseError(*faults)


def _named(names: Sequence[str], head: Mapping[str, Place], other: Mapping[str, Place]) -> str:
    def shown(name: str) -> str:
        if name in head and name in other and head[name].shape != other[name].shape:
            return f"{name} {list(other[name].shape)} against {list(head[name].shape)}"
        return name

    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    hint = ""
    if any("lm_head" in name for name in names):
        hint = " One may have its LM head tied to the embedding."
    elif any("embed" in name for name in names):
        hint = " One may have got a new token."
    return f"{', '.join(map(shown, names[:_NAMED]))}{more}.{hint}"


def _notes(folders: Sequence[Path], places: Sequence[Mapping[str, Place]]) -> tuple[str, ...]:
    notes = []
    types = [sorted({place.dtype for place in one.values()}) for one in places]
    if any(one != types[0] for one in types):
        pairs = zip(folders, types, strict=True)
        listed = "; ".join(f"{folder.name} {', '.join(one)}" for folder, one in pairs)
        notes.append(f"types differ ({listed}): the merge has those of {folders[0].name}.")
    texts = [_text(read_json(folder / CONFIG)) for folder in folders]
    for key in ("rope_parameters", "max_position_embeddings"):
        if any(text.get(key) != texts[0].get(key) for text in texts):
            notes.append(f"{key} differs: the merge has that of {folders[0].name}.")
    return tuple(notes)


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    return config.get("text_config") or config


def _carry_first(source: Path, target: Path) -> None:
    """All of the first model but its weights."""
    for path in sorted(source.iterdir()):
        if path.is_file() and is_carried(path.name):
            shutil.copyfile(path, target / path.name)
        elif path.is_dir() and path.name == TEMPLATES:
            shutil.copytree(path, target / path.name)


def _mean(
    name: str, places: Sequence[Mapping[str, Place]], shares: Sequence[float]
) -> Iterator[torch.Tensor]:
    """The blocks of the mean of one tensor, in the first model's type."""
    import torch

    streams = [read_blocks(one[name], name) for one in places]
    is_integer = places[0][name].dtype in _INTEGERS
    for blocks in zip(*streams, strict=True):
        kind = blocks[0].dtype
        if is_integer:
            if any(not torch.equal(block, blocks[0]) for block in blocks[1:]):
                raise ReleaseError(
                    f"{name} holds integers that differ between the models: they have no mean."
                )
            yield blocks[0]
            continue
        wide = torch.float64 if kind in (torch.float32, torch.float64) else torch.float32
        total = torch.zeros(blocks[0].shape, dtype=wide)
        for block, share in zip(blocks, shares, strict=True):
            total.add_(block.to(wide), alpha=share)
        yield total.to(kind)


def _merge_with_peft(source: Path, adapter: Path, target: Path) -> int:
    """Saves the merged weights in `target`; the window."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from ultralong_hf.memory.adapters import save_merged

    try:
        model = AutoModelForCausalLM.from_pretrained(source, dtype="auto", use_safetensors=True)
        adapted = PeftModel.from_pretrained(model, str(adapter))
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"{adapter} does not go with {source}: {reason}") from error
    save_merged(adapted, str(target))
    return int(model.config.get_text_config().max_position_embeddings)
