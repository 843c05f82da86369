"""How many devices share one sequence, and how: sizes and backend from plain numbers, with the reasons.

Letters: `P` devices that share a sequence (the degree) = `U` of Ulysses x `R` of the ring.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from ultralong_hf.errors import ParallelSizeError
from ultralong_hf.footprint import ModelShape, Setup, footprint
from ultralong_hf.lengths import format_length
from ultralong_hf.parallel.global_batch import GlobalBatch

Backend = Literal["none", "ulysses", "ring", "hybrid", "deepspeed"]
"""none: every device holds whole sequences."""

BACKENDS = ("auto", "ulysses", "ring", "hybrid", "deepspeed")
"""What a user may ask for."""

USABLE = 0.9
"""Share of a device's memory that a plan may fill; the rest goes to fragments, buffers of collectives and
what `footprint` does not count."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The chosen set-up. `ulysses * ring * dp_shard * dp_replicate` is the number of processes."""

    backend: Backend
    ulysses: int
    ring: int
    dp_shard: int
    dp_replicate: int
    reasons: tuple[str, ...]
    """A sentence each, for the log."""

    @property
    def degree(self) -> int:
        """Devices that share one sequence; accelerate's cp_size, or sp_size for deepspeed."""
        return self.ulysses * self.ring

    @property
    def parts(self) -> int:
        """A sequence must split into this many parts."""
        return required_parts(self.ulysses, self.ring)


class _Split(NamedTuple):
    """A degree as factors, and the reason."""

    backend: Backend
    ulysses: int
    ring: int
    why: str


@dataclass(frozen=True, kw_only=True)
class _Request:
    """The arguments of `choose_sizes`, as they are worked with."""

    shape: ModelShape
    length: int
    world_size: int
    per_node: int
    usable: int | None
    """Bytes of a device that a plan may fill."""
    backend: str
    ulysses_size: int | None
    ring_size: int | None
    dp_replicate: int
    setup: Setup
    batch: GlobalBatch | None


def choose_sizes(
    shape: ModelShape,
    *,
    length: int,
    world_size: int,
    gpus_per_node: int | None = None,
    gpu_memory: int | None = None,
    size: int | Literal["auto"] = "auto",
    backend: str = "auto",
    ulysses_size: int | None = None,
    ring_size: int | None = None,
    dp_replicate: int = 1,
    setup: Setup | None = None,
    batch: GlobalBatch | None = None,
) -> Sizes:
    """Sizes and backend for rows of `length` tokens on `world_size` devices.

    `gpu_memory`: bytes of one device; none: not known. `size`: the degree, or the least one that fits.
    `ulysses_size`, `ring_size`: the factors of a hybrid, where they are not to be chosen. `setup`: how a step
    is trained, of which the length and the sizes are replaced; none: FSDP2, layers recomputed. `batch`: the
    rows of a step, which the groups of devices must divide; none: as many as they come to.
    Raises ParallelSizeError with all that does not divide.
    """
    request = _Request(
        shape=shape,
        length=length,
        world_size=world_size,
        per_node=min(gpus_per_node or world_size, world_size),
        usable=int(gpu_memory * USABLE) if gpu_memory else None,
        backend=backend,
        ulysses_size=ulysses_size,
        ring_size=ring_size,
        dp_replicate=dp_replicate,
        setup=setup or Setup(length=length),
        batch=batch,
    )
    _check_request(request)
    degree, why = _least_degree(request) if size == "auto" else (size, f"{_sharers(size)}, as asked.")
    if fault := _group_fault(request, degree):
        raise ParallelSizeError(fault)
    split = _split(request, degree)
    if faults := size_faults(shape, split.backend, ulysses=split.ulysses, ring=split.ring, length=length):
        raise ParallelSizeError(*faults)
    return Sizes(
        backend=split.backend,
        ulysses=split.ulysses,
        ring=split.ring,
        dp_shard=world_size // degree // dp_replicate,
        dp_replicate=dp_replicate,
        reasons=(why, *([split.why] if degree > 1 else []), *_why_accumulation(request, degree)),
    )


def required_parts(ulysses: int, ring: int) -> int:
    """Parts that a sequence must split into evenly: the ring gives a device one from either end."""
    return ulysses * (2 * ring if ring > 1 else 1)


def repeated_kv_heads(kv_heads: int, ulysses: int) -> int:
    """KV heads after they are repeated to the least count that `ulysses` divides.

    >>> repeated_kv_heads(8, 4), repeated_kv_heads(8, 32), repeated_kv_heads(2, 3)
    (8, 32, 6)
    """
    return math.lcm(kv_heads, ulysses)


def size_faults(
    shape: ModelShape, backend: Backend, *, ulysses: int, ring: int, length: int | None
) -> list[str]:
    """What does not divide, a sentence a fault with what to change; `length` none: not checked."""
    faults = []
    if shape.heads % ulysses:
        good = [u for u in _divisors(shape.heads) if u <= ulysses]
        faults.append(
            f"{backend} spreads the {shape.heads} attention heads over {ulysses} devices, which does not "
            f"divide them. Use {_listed(good)} devices, or backend hybrid or ring."
        )
    parts = required_parts(ulysses, ring)
    if length is not None and length % parts:
        below, above = length // parts * parts, (length // parts + 1) * parts
        better = f"{below:,} or {above:,}" if below else f"{above:,}"
        how = f"2 x {ring} of the ring" + (f" x {ulysses} of Ulysses" if ulysses > 1 else "")
        how = f"{parts} parts" + (f" ({how})" if ring > 1 else "")
        faults.append(
            f"rows of {length:,} tokens do not split into {how}. Use {better} tokens, or another size."
        )
    return faults


def _check_request(request: _Request) -> None:
    if request.backend not in BACKENDS:
        raise ParallelSizeError(f"{request.backend!r} is no backend. Use one of {_listed(BACKENDS)}.")
    if (request.ulysses_size or request.ring_size) and request.backend not in ("auto", "hybrid"):
        raise ParallelSizeError(
            f"ulysses_size and ring_size belong to backend hybrid, not to {request.backend}. Give size alone."
        )


def _group_fault(request: _Request, degree: int) -> str | None:
    """What is wrong with making groups of `degree` of all processes."""
    world = request.world_size
    if degree < 1 or world % degree:
        return (
            f"{degree} devices cannot share a sequence: that does not divide the {world} processes. "
            f"Use one of {_listed(_divisors(world))}, or another number of processes."
        )
    groups, replicas = world // degree, request.dp_replicate
    if replicas < 1 or groups % replicas:
        return (
            f"dp_replicate {replicas} does not divide the {groups} groups that {world} processes make of "
            f"{degree} each. Use one of {_listed(_divisors(groups))}."
        )
    if degree > 1 and replicas > 1 and groups == replicas:
        return (
            f"dp_replicate {replicas} leaves no dp_shard: accelerate refuses replicas beside devices that "
            "share a sequence unless the weights are sharded over more than one group. Use dp_replicate 1."
        )
    if request.batch and not request.batch.divides_over(groups):
        return request.batch.fault(groups, degree)
    return None


def _least_degree(request: _Request) -> tuple[int, str]:
    """The least degree whose estimate fits, and why; the greatest possible one where none is known to fit."""
    degrees = [degree for degree in _divisors(request.world_size) if _is_possible(request, degree)]
    if not degrees:
        if request.batch:
            free = [d for d in _divisors(request.world_size) if _is_possible(replace(request, batch=None), d)]
            if free:
                raise ParallelSizeError(request.batch.fault(request.world_size // free[-1], free[-1]))
        raise ParallelSizeError(
            f"no size fits the {request.world_size} processes, the {request.shape.heads} attention heads and "
            f"rows of {request.length:,} tokens. Use rows of a multiple of {2 * request.world_size:,} tokens."
        )
    most = degrees[-1]
    if request.usable is None:
        return most, f"{_sharers(most)}, the most there can be: the memory of a device is not known."
    length, usable = format_length(request.length), _gib(request.usable)
    for degree in degrees:
        need = _need(request, degree)
        if need <= request.usable:
            least = "" if degree == degrees[0] else ", and fewer devices would need more than there is"
            fits = f"{length} tokens need about {_gib(need)} a device of the {usable} usable{least}."
            return degree, f"{_sharers(degree)}: {fits}"
    remedy = "more devices"
    if request.setup.storage == "device":
        remedy += ", or keep activation checkpoints off them"
    return most, (
        f"{_sharers(most)}, the most there can be. {length} tokens need about {_gib(need)} each, but only "
        f"{usable} are usable: it will most likely not fit. Use {remedy}."
    )


def _is_possible(request: _Request, degree: int) -> bool:
    if _group_fault(request, degree):
        return False
    try:
        split = _split(request, degree)
    except ParallelSizeError:
        return False
    return not size_faults(
        request.shape, split.backend, ulysses=split.ulysses, ring=split.ring, length=request.length
    )


def _need(request: _Request, degree: int) -> int:
    split = _split(request, degree)
    setup = setup_on(
        request.setup,
        length=request.length,
        world_size=request.world_size,
        dp_replicate=request.dp_replicate,
        ulysses=split.ulysses,
        ring=split.ring,
        batch=request.batch,
    )
    return footprint(request.shape, setup).total


def setup_on(
    setup: Setup,
    *,
    length: int,
    world_size: int,
    dp_replicate: int,
    ulysses: int,
    ring: int,
    batch: GlobalBatch | None = None,
) -> Setup:
    """The same training on so many devices of these sizes."""
    shards = world_size // dp_replicate if setup.sharding == "fsdp" else 1
    accumulates = setup.accumulates
    if batch:
        accumulates = batch.accumulation(world_size // (ulysses * ring)) > 1
    return replace(
        setup, length=length, weight_shards=shards, ulysses=ulysses, ring=ring, accumulates=accumulates
    )


def _split(request: _Request, degree: int) -> _Split:
    """The backend for a degree, and its factors."""
    heads = request.shape.heads
    if request.ulysses_size or request.ring_size:
        return _hybrid(degree, request.ulysses_size, request.ring_size, request.per_node)
    if degree == 1:
        return _Split("none", 1, 1, "")
    if request.backend == "ulysses":
        return _Split("ulysses", degree, 1, "ulysses, as asked.")
    if request.backend == "deepspeed":
        return _Split("deepspeed", degree, 1, "deepspeed, as asked.")
    if request.backend == "ring":
        return _Split("ring", 1, degree, "ring, as asked.")
    # the most devices that divide the degree, the heads and a node
    ulysses = math.gcd(degree, heads, request.per_node)
    if request.backend == "hybrid":
        if ulysses == degree:  # leave some for a ring
            ulysses = _divisors(degree)[-2]
        return _hybrid(degree, ulysses, None, request.per_node)
    if heads % degree == 0:
        return _Split("ulysses", degree, 1, _why_ulysses(request.shape, degree))
    cannot = f"{degree} devices do not divide the {heads} attention heads"
    if ulysses == 1:
        return _Split("ring", 1, degree, f"ring: {cannot}, nor does any part of them within a node.")
    split = _hybrid(degree, ulysses, None, request.per_node)
    return split._replace(why=f"{split.why[:-1]}: {cannot}.")


def _hybrid(degree: int, ulysses: int | None, ring: int | None, per_node: int) -> _Split:
    """At least one of the factors is given."""
    ulysses = ulysses or max(degree // (ring or 1), 1)
    ring = ring or max(degree // ulysses, 1)
    if ulysses * ring != degree:
        raise ParallelSizeError(
            f"ulysses_size {ulysses} x ring_size {ring} is not {degree}, the devices that share a sequence. "
            "Give one of the two, or other sizes."
        )
    if degree == 1:
        return _Split("none", 1, 1, "")
    if ring == 1:
        return _Split("ulysses", ulysses, 1, "ulysses: a hybrid whose ring is one device wide.")
    if ulysses == 1:
        return _Split("ring", 1, ring, "ring: a hybrid whose Ulysses is one device wide.")
    where = "within a node" if per_node % ulysses == 0 else "across nodes"
    why = f"hybrid: Ulysses over {ulysses} devices {where}, a ring over {ring} such groups."
    return _Split("hybrid", ulysses, ring, why)


def _why_accumulation(request: _Request, degree: int) -> list[str]:
    batch = request.batch
    if batch is None:
        return []
    groups = request.world_size // degree
    return [
        f"{batch.rows} rows a step: {groups} at a time x {batch.at_once} a pass x "
        f"{batch.accumulation(groups)} of gradient accumulation."
    ]


def _why_ulysses(shape: ModelShape, degree: int) -> str:
    repeated = repeated_kv_heads(shape.kv_heads, degree)
    why = f"ulysses: {degree} devices divide the {shape.heads} attention heads, so that each runs any exact "
    why += "attention on whole sequences"
    if repeated != shape.kv_heads:
        why += f"; the {shape.kv_heads} KV heads are repeated to {repeated}"
    return f"{why}."


def _sharers(degree: int) -> str:
    return "one device holds a sequence" if degree == 1 else f"{degree} devices share a sequence"


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(map(str, values))


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
