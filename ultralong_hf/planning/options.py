"""The options of a recipe's section `memory` that a plan can turn, and their price."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from ultralong_hf.recipes.schema import LoraSection, MemorySection


@dataclass(frozen=True, kw_only=True)
class Option:
    """One change of the section, in the order in which it is worth a try."""

    key: str
    """As it is written on a command line or in a recipe."""
    value: str
    changes: dict[str, Any]
    price: str


OPTIONS = (
    Option(
        key="memory.tiled_mlp",
        value="true",
        changes={"tiled_mlp": True},
        price="no time where layers are recomputed",
    ),
    Option(
        key="memory.checkpoint_every",
        value="1",
        changes={"checkpoint_every": 1},
        price="the forward of all layers once more",
    ),
    Option(
        key="memory.recompute",
        value="all",
        changes={"recompute": "all"},
        price="attention's forward once more",
    ),
    Option(
        key="memory.checkpoint_storage",
        value="host",
        changes={"checkpoint_storage": "host"},
        price="host memory; copies run beside the work",
    ),
    Option(
        key="memory.offload_optimizer",
        value="true",
        changes={"offload_optimizer": True},
        price="host memory, and the state's copy there and back each step",
    ),
    Option(
        key="memory.optimizer",
        value="adamw_8bit",
        changes={"optimizer": "adamw_8bit"},
        price="the optimizer's state is rounded to 8 bits",
    ),
    Option(
        key="memory.offload_parameters",
        value="true",
        changes={"offload_parameters": True, "offload_optimizer": False},
        price="host memory, weights copied for each layer, the optimizer's step on the CPU",
    ),
    Option(
        key="memory.checkpoint_storage",
        value="disk",
        changes={"checkpoint_storage": "disk"},
        price="local disk, as fast as it writes; saves host memory alone",
    ),
    Option(
        key="memory.lora",
        value="{}",
        changes={"lora": LoraSection()},
        price="adapters, embeddings and norms train, not all weights",
    ),
)


def is_set(option: Option, memory: MemorySection) -> bool:
    return all(getattr(memory, name) == value for name, value in option.changes.items())


def choices(memory: MemorySection, *, host: bool) -> Iterator[MemorySection]:
    """Sections to choose from, beginning with the one given: the recomputation and the places of checkpoints
    and optimizer. `host`: whether host memory may be used."""
    for storage in ("device", "host") if host else ("device",):
        for recompute in ("all_but_attention", "all"):
            for offload in (False, True) if host else (False,):
                yield replace(
                    memory,
                    recompute=recompute,
                    checkpoint_storage=storage,
                    offload_optimizer=offload,
                )
