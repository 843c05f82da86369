"""A plan: what was chosen, what it takes, and what else could be."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from ultralong_hf.footprint import Footprint, ModelShape, Setup
from ultralong_hf.parallel.sizes import Sizes
from ultralong_hf.planning.gpus import Gpu
from ultralong_hf.planning.timing import Timing


@dataclass(frozen=True, kw_only=True)
class Change:
    """An option turned, or more devices, and what comes of it."""

    key: str
    value: str
    price: str
    total: int
    """Bytes of a device."""
    parts: dict[str, int]
    fits: bool
    tokens_per_second: float | None
    host_bytes: int
    """Of a node."""

    def sentence(self) -> str:
        """As advice where the plan does not fit."""
        verdict = "it fits then" if self.fits else "it saves the most alone, and does not fit yet"
        return f"next: {self.key} {self.value}: {verdict}. Price: {self.price}."


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A training stage on so many GPUs. Bytes are of one device, but for `disk`."""

    name: str
    stage: str
    shape: ModelShape
    length: int
    gpus: int
    gpu: Gpu
    gpus_per_node: int
    usable: int
    """Bytes of a device that may be filled."""
    sizes: Sizes
    setup: Setup
    options: dict[str, Any]
    """Keys of the recipe's section `memory` that are not as they are by default."""
    footprint: Footprint
    timing: Timing
    steps: int | None
    """Optimizer steps; None: not said."""
    disk: dict[str, int]
    """Bytes of all devices, by what for."""
    host_memory: int | None = None
    """Bytes of a node that may be filled; None: not checked."""
    changes: tuple[Change, ...] = ()
    notes: tuple[str, ...] = ()
    reasons: tuple[str, ...] = field(default=())

    @property
    def fits_device(self) -> bool:
        return self.footprint.total <= self.usable

    @property
    def host_bytes(self) -> int:
        """Of a node, for all its devices."""
        return sum(self.footprint.host.values()) * min(self.gpus, self.gpus_per_node)

    @property
    def fits(self) -> bool:
        """Whether devices, and host memory where its size was given, hold it."""
        return self.fits_device and (self.host_memory is None or self.host_bytes <= self.host_memory)

    @property
    def hours(self) -> float | None:
        """Of all steps."""
        if self.steps is None or self.timing.seconds is None:
            return None
        return self.steps * self.timing.seconds / 3600

    @property
    def gpu_hours(self) -> float | None:
        return None if self.hours is None else self.hours * self.gpus

    @property
    def step_tokens(self) -> int:
        return self.timing.tokens

    @property
    def tokens_per_second(self) -> float | None:
        return self.timing.tokens_per_second

    def next_change(self) -> Change | None:
        """Where it does not fit: the first change that makes it fit, else the one that saves the most."""
        fitting = [change for change in self.changes if change.fits]
        if fitting:
            return fitting[0]
        saving = [change for change in self.changes if change.total < self.footprint.total]
        return min(saving, key=lambda change: change.total, default=None)

    def table(self, *, changes: bool = True) -> str:
        """The plan as text; `changes`: with what else could be."""
        from ultralong_hf.planning.text import plan_table

        return plan_table(self, changes=changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        sizes, timing, work = self.sizes, self.timing, self.timing.work
        return {
            "name": self.name,
            "stage": self.stage,
            "model": {**asdict(self.shape), "parameters": self.shape.parameters},
            "length": self.length,
            "gpus": self.gpus,
            "gpu": asdict(self.gpu),
            "parallel": {
                "size": sizes.degree,
                "backend": sizes.backend,
                "ulysses_size": sizes.ulysses,
                "ring_size": sizes.ring,
                "dp_shard": sizes.dp_shard,
                "dp_replicate": sizes.dp_replicate,
                "gpus_per_node": self.gpus_per_node,
            },
            "options": self.options,
            "memory": {
                "parts": dict(self.footprint.parts),
                "most": dict(self.footprint.most),
                "total": self.footprint.total,
                "usable": self.usable,
                "moment": self.footprint.moment,
                "moments": dict(self.footprint.moments),
                "host": dict(self.footprint.host),
                "host_of_a_node": self.host_bytes,
                "disk": self.disk,
            },
            "fits": self.fits,
            "work": {
                "model_flops": work.model,
                "hardware_flops": work.hardware,
                "forward_flops": work.forward,
                "attention_share": work.attention_share,
                "rows": timing.rows,
                "tokens": self.step_tokens,
            },
            "time": {
                "step_seconds": timing.seconds,
                "tokens_per_second": self.tokens_per_second,
                "mfu": timing.mfu,
                "assumed": timing.assumed,
                "steps": self.steps,
                "hours": self.hours,
                "gpu_hours": self.gpu_hours,
            },
            "changes": [asdict(change) for change in self.changes],
            "reasons": list(self.reasons),
            "notes": list(self.notes),
        }

    def plot(self, path: str | PathLike[str]) -> Path:
        """A picture of the memory by part, with what else could be; PNG, or what the suffix says."""
        from ultralong_hf.planning.picture import draw_plan

        return draw_plan(self, Path(path))
