"""One way to train a stage on so many devices: sizes, memory and time of a section `memory`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ultralong_hf.footprint import Footprint, Setup, footprint
from ultralong_hf.parallel.sizes import USABLE, Sizes, choose_sizes, setup_on
from ultralong_hf.planning.gpus import CPU, Gpu
from ultralong_hf.planning.settings import stage_setup
from ultralong_hf.planning.timing import Timing, step_timing
from ultralong_hf.planning.wish import Wish
from ultralong_hf.recipes.schema import MemorySection

HOST_MEMORY_PER_GPU = 237_500_000_000
"""Bytes: 1.9 TB for 8 GPUs, as ALST's nodes have (ArcticTraining, projects/sequence-parallelism)."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    gpu: Gpu
    per_node: int
    host_memory: int | None
    mfu: float | None

    @property
    def host_to_choose_by(self) -> int:
        """Bytes of a node's memory that options may be chosen for, where nobody has said how much it has."""
        return self.host_memory or HOST_MEMORY_PER_GPU * self.per_node

    @property
    def usable(self) -> int:
        return int(self.gpu.memory * USABLE)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A section `memory` and sizes on so many devices."""

    gpus: int
    memory: MemorySection
    sizes: Sizes
    setup: Setup
    footprint: Footprint
    timing: Timing
    host: int
    """Bytes of a node's memory."""
    fits: bool


def make_candidate(
    wish: Wish, machine: Machine, gpus: int, memory: MemorySection, sizes: Sizes | None = None
) -> Candidate:
    setup = wish_setup(wish, memory, gpus=gpus, on_cpu=machine.gpu.name == CPU)
    sizes = sizes or _sizes(wish, machine, gpus, setup)
    setup = setup_on(
        setup,
        length=wish.length,
        world_size=gpus,
        dp_replicate=sizes.dp_replicate,
        ulysses=sizes.ulysses,
        ring=sizes.ring,
        batch=wish.batch,
    )
    needed = footprint(wish.shape, setup)
    # pairs of preference data are run through the reference too: one forward more, not counted
    groups = gpus // sizes.degree
    rows = setup.rows * wish.accumulation(groups) * groups
    host = sum(needed.host.values()) * min(gpus, machine.per_node)
    return Candidate(
        gpus=gpus,
        memory=memory,
        sizes=sizes,
        setup=setup,
        footprint=needed,
        timing=step_timing(wish.shape, setup, machine.gpu, gpus=gpus, rows=rows, mfu=machine.mfu),
        host=host,
        fits=needed.total <= machine.usable and (machine.host_memory is None or host <= machine.host_memory),
    )


def _sizes(wish: Wish, machine: Machine, gpus: int, setup: Setup) -> Sizes:
    parallel = wish.parallel
    size = parallel.size
    length = wish.length
    if wish.stage != "cpt":  # batches are padded to what splits
        length = -(-length // (2 * gpus)) * 2 * gpus
    if gpus == 1 or (size == "auto" and not wish.splits_rows):
        size = 1
    return choose_sizes(
        wish.shape,
        length=length,
        world_size=gpus,
        gpus_per_node=parallel.gpus_per_node or machine.per_node,
        gpu_memory=machine.gpu.memory,
        size=size,
        backend=parallel.backend,
        ulysses_size=parallel.ulysses_size,
        ring_size=parallel.ring_size,
        dp_replicate=parallel.dp_replicate,
        setup=setup,
        batch=wish.batch,
    )


def wish_setup(wish: Wish, memory: MemorySection, *, gpus: int, on_cpu: bool) -> Setup:
    """How the wish's stage is trained on so many devices, before sizes are chosen."""
    setup = stage_setup(
        wish.shape,
        model=wish.model,
        memory=memory,
        settings=wish.settings,
        length=wish.length,
        processes=gpus,
        device=CPU if on_cpu else "gpu",
        rotation=wish.parallel.rotation,
    )
    if wish.stage == "preference" and memory.lora is None:
        setup = replace(setup, trained=wish.shape.parameters, frozen=wish.shape.parameters)
    return replace(setup, rows=wish.rows)
