"""How a model came about, read from what its recipe's stages left: settings, counts of data, cost.

Only what is there is told; what was looked for in vain is in `missing`. No path of this machine is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ultralong_hf.data.store import MANIFEST, read_manifest
from ultralong_hf.errors import UltraLongError
from ultralong_hf.evaluation.pages import Table
from ultralong_hf.lengths import format_length
from ultralong_hf.recipes import writing
from ultralong_hf.recipes.schema import Recipe

STAGES = {
    "cpt": "Continued pretraining",
    "sft": "Instruction tuning",
    "preference": "Preferences (DPO)",
    "orpo": "Preferences (ORPO)",
    "grpo": "GRPO",
}
_SHOWN = (
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "packing",
    "beta",
    "bf16",
    "seed",
)
"""TRL's keys that a card shows, where the recipe sets them."""


@dataclass(frozen=True)
class Cost:
    """What a stage took, summed over its logs. `seconds` are those of its steps alone."""

    steps: int
    tokens: int | None
    seconds: float | None
    tokens_per_second: float | None
    mfu: float | None
    peak_memory_gib: float | None


@dataclass(frozen=True)
class StageFacts:
    title: str
    settings: dict[str, str]
    cost: Cost | None


@dataclass(frozen=True)
class Provenance:
    """Everything that was found."""

    stages: list[StageFacts] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    datasets: list[str] = field(default_factory=list)
    """Hub ids of the sources."""
    versions: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def trace(recipe: Recipe, model: Path) -> Provenance:
    """What the stages of `recipe` left, each in the folder that it names, up to the one that left `model`.

    Where none did, all that were run are told, and that it is not known which the model comes from.
    """
    from ultralong_hf.training.configs import output_folder
    from ultralong_hf.training.samples import blend_folder

    found = Provenance()
    chain = _chain({stage: output_folder(recipe, stage) for stage in STAGES}, model)
    _trace_store(found, Path(recipe.data.output_dir), recipe)
    if "sft" in chain:
        _trace_blend(found, blend_folder(recipe))
    for stage, title in STAGES.items():
        if stage not in chain:
            continue
        section = getattr(recipe, stage)
        if not section:
            continue
        folder = output_folder(recipe, stage)
        state = _last_state(folder)
        if state is None and not (folder / "config.json").is_file():
            continue  # a stage of the recipe that was not run
        if state is None:
            found.missing.append(f"what the stage {stage} cost: it left no checkpoint with its logs")
        cost = None if state is None else cost_of(state)
        found.stages.append(StageFacts(title, _settings(section, cost), cost))
    if len(chain) == len(STAGES) and found.stages:
        found.missing.append("which of these stages the model comes from: its folder is none of theirs")
    sources = [*recipe.data.sources, *(recipe.instruct.sources if "sft" in chain else ())]
    ids = [source.path for source in sources if _is_hub_id(source.path)]
    found.datasets[:] = dict.fromkeys([*ids, *found.datasets])
    return found


def _chain(folders: Mapping[str, Path], model: Path) -> tuple[str, ...]:
    """The stages before the one that left `model`, or a checkpoint of it, and that one; all for another."""
    places = (model.resolve(), model.resolve().parent)
    own = next((stage for stage in STAGES if folders[stage].resolve() in places), None)
    if own is None:
        return tuple(STAGES)
    return tuple(stage for stage in dict.fromkeys(("cpt", "sft", own)) if own != "cpt" or stage == "cpt")


def cost_of(state: Mapping[str, Any]) -> Cost:
    """From the log of a trainer_state.json: tokens as TRL counts them, seconds by `tokens_per_second`."""
    logs = [log for log in state.get("log_history", ()) if "loss" in log]
    tokens, seconds, before = 0.0, 0.0, 0.0
    for log in logs:
        counted = float(log.get("num_tokens", 0.0))
        new = counted - before if counted >= before else counted  # counted anew after a resumption
        before = counted
        tokens += new
        seconds += new / log["tokens_per_second"] if log.get("tokens_per_second") else 0.0
    shares = [log["mfu"] for log in logs if "mfu" in log]
    peaks = [log["peak_memory_gib"] for log in logs if "peak_memory_gib" in log]
    return Cost(
        steps=int(state.get("global_step", 0)),
        tokens=round(tokens) or None,
        seconds=seconds or None,
        tokens_per_second=tokens / seconds if seconds else None,
        mfu=sum(shares) / len(shares) if shares else None,
        peak_memory_gib=max(peaks, default=None),
    )


def recipe_values(recipe: Recipe) -> dict[str, Any]:
    """The recipe's sections as plain values; of paths on this machine the last part alone."""
    return {name: _without_paths(value) for name, value in writing.recipe_values(recipe).items()}


def _trace_store(found: Provenance, folder: Path, recipe: Recipe) -> None:
    if not (folder / MANIFEST).is_file():
        found.missing.append("the documents of the continued pretraining: their token store is not there")
        return
    try:
        manifest = read_manifest(folder)
    except UltraLongError as error:
        found.missing.append(f"the documents of the continued pretraining: {error}")
        return
    settings, tokens, documents = manifest["settings"], manifest["tokens"], manifest["documents"]
    rows: list[tuple[str, str, str]] = []
    for source in manifest.get("composition", {}).get("sources", ()):
        after = source["after"]
        rows.append((source["label"], f"{sum(after['documents']):,}", f"{sum(after['tokens']):,}"))
    rows.append(("separators", "", f"{tokens['separators']:,}"))
    separator = settings["separator"]
    between = separator["value"] if separator["value"] is not None else separator["kind"]
    mask = "masked from each other" if recipe.data.mask_documents else "not masked from each other"
    caption = (
        f"Documents of the continued pretraining: {documents['used']:,} used of {documents['read']:,} read, "
        f"in {manifest['rows']:,} rows of {settings['target_length']:,} tokens, joined by {between!r}, {mask}"
    )
    found.tables.append(Table(("source", "documents", "tokens in rows"), rows, caption=caption))
    found.versions.update(manifest.get("versions", {}))


def _trace_blend(found: Provenance, folder: Path) -> None:
    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        rows = [
            (
                source["label"],
                source["domain"] or "-",
                source["licence"] or "not stated",
                f"{source['read']:,}",
                f"{source['kept']:,}",
                f"{source['tokens']:,}",
            )
            for source in report["sources"]
        ]
    except (OSError, ValueError, KeyError, TypeError):
        found.missing.append("the conversations of the instruction tuning: their report is not there")
        return
    caption = (
        f"Conversations of the instruction tuning: {report['samples']:,} of at most {report['max_length']:,} "
        f"tokens, {report['tokens']:,} tokens in all"
    )
    columns = ("source", "domain", "licence", "read", "kept", "tokens")
    found.datasets.extend(one["origin"] for one in report["sources"] if _is_hub_id(str(one.get("origin"))))
    found.tables.append(Table(columns, rows, caption=caption))


def _last_state(folder: Path) -> dict[str, Any] | None:
    """The trainer's state that was saved last."""
    best: dict[str, Any] | None = None
    for path in [folder / "trainer_state.json", *folder.glob("checkpoint-*/trainer_state.json")]:
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if best is None or state.get("global_step", 0) > best.get("global_step", 0):
            best = state
    return best


def _settings(section: Mapping[str, Any], cost: Cost | None) -> dict[str, str]:
    shown = {"steps": f"{cost.steps:,}"} if cost else {}
    return shown | {name: _shown(section[name]) for name in _SHOWN if section.get(name) is not None}


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _is_hub_id(path: str) -> bool:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    if path.count("/") != 1 or Path(path).exists():
        return False
    try:
        validate_repo_id(path)
    except HFValidationError:
        return False
    return "." not in path.rpartition("/")[2] and "*" not in path


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_paths(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_paths(one) for one in value]
    if isinstance(value, str) and value.startswith(("/", "~")):
        return Path(value).name
    return value


def rope_rows(record: Mapping[str, Any] | None, parameters: Mapping[str, Any], window: int) -> dict[str, str]:
    """The window and the stretch as a card tells them; `record`: what `extend_context` wrote, if it did."""
    rows = {"window": f"{format_length(window)} ({window:,} tokens)"}
    if record:
        rows["method"] = _METHODS.get(record["method"], record["method"])
        rows["scale"] = f"{record['scale']:g} on {record['original_length']:,} tokens"
        if record.get("exact_angles"):
            rows["angles"] = "trained with exact angles (float32 ones are off at this length)"
    rows["rope_parameters"] = ", ".join(
        f"{key} {value:g}" if isinstance(value, int | float) else f"{key} {value}"
        for key, value in parameters.items()
        if not isinstance(value, list | dict)
    )
    return rows


_METHODS = {
    "llama3": "llama3: the YaRN paper's ramp over turns, without a temperature",
    "yarn": "yarn: transformers' form of YaRN, a ramp over dimensions, with a temperature",
    "ntk": "NTK-aware: another base",
    "linear": "linear interpolation",
    "none": "none",
}
