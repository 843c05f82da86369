"""plan(): the sizes and options for a model or a recipe on some GPUs, by arithmetic alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from typing import Any

from ultralong_hf.errors import ParallelSizeError, PlanError
from ultralong_hf.lengths import parse_budget
from ultralong_hf.parallel.sizes import Sizes
from ultralong_hf.planning.candidates import Candidate, Machine, make_candidate
from ultralong_hf.planning.gpus import CPU, Gpu, find_gpu
from ultralong_hf.planning.options import OPTIONS, choices, is_set
from ultralong_hf.planning.plan import Change, Plan
from ultralong_hf.planning.timing import Timing
from ultralong_hf.planning.wish import Wish, read_wish
from ultralong_hf.recipes.schema import MemorySection

MOST_GPUS = 4096
"""Beyond which no least number is looked for."""


def plan(
    model_or_recipe: Any,
    *,
    length: int | str | None = None,
    gpus: int | None = None,
    gpu: str = "h100-80g",
    gpus_per_node: int | None = None,
    stage: str = "cpt",
    mfu: float | None = None,
    host_memory: int | None = None,
    tokens: int | str | None = None,
    overrides: dict[str, Any] | None = None,
) -> Plan:
    """What training on rows of `length` tokens takes, and how to set it up.

    `model_or_recipe`: a recipe, a preset's name or a YAML file, whose options are taken as they stand; or a
    model folder, Hub id, config or mapping, for which options are chosen: the fastest that fit. `length`:
    none: the recipe's. `gpus`: none: the least that fit. `gpu`: a name of the table `planning.gpus.GPUS`, or
    "cpu". `stage`: cpt, sft or preference. `mfu`: to assume; none: `timing.ASSUMED_HFU` of all work.
    `host_memory`: bytes of a node that may be filled; none: not checked, and options of a model are chosen
    for `candidates.HOST_MEMORY_PER_GPU`. `tokens`: to train on; none: the
    recipe's steps. `overrides`: keys of the recipe, as {"memory.recompute": "all_but_attention"}.

    Raises PlanError, ModelError, RecipeError or ParallelSizeError for input that no plan can be made for.
    """
    _check(gpus, gpus_per_node, mfu)
    found = find_gpu(gpu)
    machine = Machine(gpu=found, per_node=gpus_per_node or found.per_node, host_memory=host_memory, mfu=mfu)
    budget = None if tokens is None else parse_budget(tokens)
    wish = read_wish(model_or_recipe, length=length, stage=stage, tokens=budget, overrides=overrides)
    if gpus is None:
        candidate, reason = _least(wish, machine)
    else:
        candidate, reason = _best(wish, machine, gpus), f"{gpus} GPUs, as asked."
    return build_plan(wish, machine, candidate, reason)


def plan_as_launched(wish: Wish, sizes: Sizes, *, gpus: int, gpu: Gpu, gpus_per_node: int) -> Plan:
    """The plan of a stage that was launched on so many devices, whose sizes are chosen already."""
    machine = Machine(gpu=gpu, per_node=gpus_per_node, host_memory=None, mfu=None)
    candidate = make_candidate(wish, machine, gpus, wish.memory, sizes)
    return build_plan(wish, machine, candidate, f"{gpus} devices, as launched.")


def build_plan(wish: Wish, machine: Machine, candidate: Candidate, reason: str) -> Plan:
    reasons = (reason, *candidate.sizes.reasons)
    return Plan(
        name=wish.name,
        stage=wish.stage,
        shape=wish.shape,
        length=wish.length,
        gpus=candidate.gpus,
        gpu=machine.gpu,
        gpus_per_node=machine.per_node,
        usable=machine.usable,
        sizes=candidate.sizes,
        setup=candidate.setup,
        options=_turned(candidate.memory),
        footprint=candidate.footprint,
        timing=candidate.timing,
        steps=_steps(wish, candidate.timing.rows),
        disk=_disk(wish, candidate),
        host_memory=machine.host_memory,
        changes=tuple(_changes(wish, machine, candidate)),
        notes=(*wish.notes, *_schedule_notes(wish, candidate.timing)),
        reasons=reasons,
    )


def _check(gpus: int | None, per_node: int | None, mfu: float | None) -> None:
    faults = [
        f"{name} is {value}; expected a whole number of at least 1."
        for name, value in (("gpus", gpus), ("gpus_per_node", per_node))
        if value is not None and value < 1
    ]
    if mfu is not None and not 0 < mfu <= 1:
        faults.append(f"mfu is {mfu:g}; expected a share above 0 and up to 1.")
    if faults:
        raise PlanError(*faults)


def _best(wish: Wish, machine: Machine, gpus: int) -> Candidate:
    """The recipe as it stands; or of the options that fit the fastest, else what is least too large."""
    if not wish.is_free:
        return make_candidate(wish, machine, gpus, wish.memory)
    found: list[Candidate] = []
    for sections in _sections(wish, machine):
        found += [make_candidate(wish, machine, gpus, memory) for memory in sections]
        fitting = [one for one in found if one.fits and one.host <= machine.host_to_choose_by]
        if fitting:
            return min(fitting, key=_price)
    return min(found, key=lambda candidate: candidate.footprint.total)


def _price(candidate: Candidate) -> float:
    """Seconds for a row, or the work where a device's speed is not stated."""
    timing = candidate.timing
    return (timing.work.hardware if timing.seconds is None else timing.seconds) / timing.rows


def _sections(wish: Wish, machine: Machine) -> Iterator[list[MemorySection]]:
    """Sections to choose from; those with a disk, whose speed no plan knows, where none other fits."""
    on_gpus = machine.gpu.name != CPU
    sections = list(choices(wish.memory, host=on_gpus))
    if not on_gpus:
        yield sections
        return
    offloaded = replace(wish.memory, offload_parameters=True)
    sections += [replace(one, offload_optimizer=False) for one in choices(offloaded, host=True)]
    yield sections
    yield [replace(one, checkpoint_storage="disk") for one in sections]


def _least(wish: Wish, machine: Machine) -> tuple[Candidate, str]:
    """The least number of GPUs that fit, whole nodes above one."""
    last: Candidate | None = None
    for gpus in _counts(machine.per_node):
        try:
            candidate = _best(wish, machine, gpus)
        except ParallelSizeError:
            continue
        if candidate.fits:
            fewer = (
                ""
                if last is None
                else f", for {last.gpus} would need {last.footprint.total / 2**30:.1f} GiB each"
            )
            return candidate, f"{gpus} GPUs: the least that fit{fewer}."
        last = candidate
    if last is None:
        raise PlanError(f"rows of {wish.length:,} tokens split over no number of GPUs up to {MOST_GPUS}.")
    return last, f"{last.gpus} GPUs: it fits on none up to {MOST_GPUS} {machine.gpu.name}."


def _counts(per_node: int) -> Iterator[int]:
    gpus = 1
    while gpus <= MOST_GPUS:
        yield gpus
        gpus = gpus * 2 if gpus * 2 <= per_node or gpus >= per_node else per_node


def _changes(wish: Wish, machine: Machine, chosen: Candidate) -> Iterator[Change]:
    """Each option that is not on, alone; and twice the devices. Those that change nothing are left out."""
    on_cpu = machine.gpu.name == CPU
    for option in OPTIONS:
        if is_set(option, chosen.memory) or (on_cpu and option.value == "host"):
            continue
        changed = make_candidate(
            wish, machine, chosen.gpus, replace(chosen.memory, **option.changes), chosen.sizes
        )
        if changed.footprint != chosen.footprint or changed.timing != chosen.timing:
            yield _change(option.key, option.value, option.price, changed)
    if not chosen.setup.keeps_attention and chosen.setup.checkpoint_every:
        memory = replace(chosen.memory, recompute="all_but_attention")
        changed = make_candidate(wish, machine, chosen.gpus, memory, chosen.sizes)
        yield _change(
            "memory.recompute",
            "all_but_attention",
            "the checkpoints' bytes once more, and less time",
            changed,
        )
    try:
        doubled = make_candidate(wish, machine, 2 * chosen.gpus, chosen.memory)
    except ParallelSizeError:
        return
    yield _change("gpus", str(2 * chosen.gpus), "twice the GPUs, the same GPU-hours", doubled)


def _change(key: str, value: str, price: str, candidate: Candidate) -> Change:
    return Change(
        key=key,
        value=value,
        price=price,
        total=candidate.footprint.total,
        parts=dict(candidate.footprint.parts),
        fits=candidate.fits,
        tokens_per_second=candidate.timing.tokens_per_second,
        host_bytes=candidate.host,
    )


def _turned(memory: MemorySection) -> dict[str, Any]:
    defaults = MemorySection()
    turned = {
        f.name: getattr(memory, f.name)
        for f in fields(memory)
        if getattr(memory, f.name) != getattr(defaults, f.name)
    }
    if memory.lora is not None:
        turned["lora"] = asdict(memory.lora)
    return {f"memory.{name}": value for name, value in turned.items()}


def _steps(wish: Wish, rows: int) -> int | None:
    tokens = wish.tokens
    if tokens is None and int(wish.settings.get("max_steps", -1)) > 0:
        return int(wish.settings["max_steps"])
    if tokens is None and wish.store_tokens:
        tokens = int(wish.store_tokens * float(wish.settings.get("num_train_epochs", 3)))
    return None if tokens is None else max(1, math.ceil(tokens / (rows * wish.length)))


def _schedule_notes(wish: Wish, timing: Timing) -> list[str]:
    """Where steps and rows come to more tokens than there are."""
    steps = _steps(wish, timing.rows)
    if not wish.store_tokens or not steps or steps * timing.tokens < 1.1 * wish.store_tokens:
        return []
    fitting = max(1, wish.store_tokens // timing.tokens)
    return [
        f"{steps:,} steps of {timing.rows} rows are {steps * timing.tokens / 1e9:.2f}B tokens, but the store "
        f"has {wish.store_tokens / 1e9:.2f}B: rows come again. {wish.stage}.max_steps {fitting:,} is one "
        f"pass; parallel.global_batch.{wish.stage} holds the rows of a step whatever the devices."
    ]


def _disk(wish: Wish, candidate: Candidate) -> dict[str, int]:
    """Of all devices: the token store, checkpoints of training, the model, and layers' checkpoints."""
    setup, shape = candidate.setup, wish.shape
    trained = shape.parameters if setup.trained is None else setup.trained
    disk = {}
    if wish.store_tokens:
        disk["token store"] = wish.store_tokens * (2 if shape.vocab_size <= 2**16 else 4)
    disk["a checkpoint of training"] = int(trained * (setup.weight_bytes + setup.state_bytes))
    disk["the model"] = shape.parameters * setup.weight_bytes
    if candidate.footprint.disk:
        disk["layers' checkpoints"] = candidate.footprint.disk * candidate.gpus
    return disk
