"""A plan as text for a terminal."""

from __future__ import annotations

from ultralong_hf.footprint import Setup
from ultralong_hf.lengths import format_length
from ultralong_hf.planning.plan import Change, Plan

_BAR = 30


def plan_table(plan: Plan, *, changes: bool) -> str:
    """Head, memory by part with bars, what lies elsewhere, time, and what else could be."""
    blocks = [_head(plan), _memory(plan), _elsewhere(plan), _time(plan)]
    if changes and plan.changes:
        blocks.append(_changes(plan))
    if plan.notes:
        blocks.append("\n".join(f"note: {note}" for note in plan.notes))
    return "\n\n".join(block for block in blocks if block)


def summary_lines(plan: Plan) -> list[str]:
    """The plan in a few lines, for an error or a log."""
    parts = ", ".join(
        f"{part} {gigabytes(size)}"
        for part, size in plan.footprint.parts.items()
        if size >= plan.footprint.total / 50
    )
    lines = [
        f"{plan.name}, {format_length(plan.length)} tokens a row, {plan.setup.rows} at once, {devices(plan)}",
        f"planned: {gigabytes(plan.footprint.total)} a device of {gigabytes(plan.usable)} usable, at the "
        f"{plan.footprint.moment}: {parts}",
    ]
    return lines


def gigabytes(count: float) -> str:
    """As GPUs are sold and torch reports: GiB."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 / 20 else f"{count / 2**20:,.1f} MiB"


def devices(plan: Plan) -> str:
    what = plan.gpu.name if plan.gpus > 1 else f"{plan.gpu.name} alone"
    return f"{plan.gpus} x {what}" if plan.gpus > 1 else what


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:,.3g} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:,.1f} min"
    return f"{seconds / 3600:,.1f} h"


def _head(plan: Plan) -> str:
    verdict = "fits" if plan.fits else "DOES NOT FIT"
    weights = plan.shape.parameters
    size = f"{weights / 1e9:.2f}B" if weights >= 1e8 else f"{weights / 1e6:.2f}M"
    lines = [
        f"{plan.name}, stage {plan.stage}: {size} weights, {format_length(plan.length)} tokens a row, "
        f"{devices(plan)}: {verdict}",
        *plan.reasons,
    ]
    options = ", ".join(f"{key} {_value(value)}" for key, value in plan.options.items())
    lines += [f"options: {options or 'as by default'}", training_line(plan.setup)]
    return "\n".join(lines)


def training_line(setup: Setup) -> str:
    """How a step is trained, in words."""
    names = {4: "float32", 2: "half precision"}
    words = [f"{names[setup.value_bytes]} over {names[setup.weight_bytes]} weights"]
    words.append(
        {"none": "one device", "ddp": "DDP", "fsdp": f"FSDP2 over {setup.weight_shards}"}[setup.sharding]
    )
    if not setup.checkpoint_every:
        words.append("no layer recomputed")
    else:
        each = "every layer" if setup.checkpoint_every == 1 else f"one layer of {setup.checkpoint_every}"
        but = " but for attention" if setup.keeps_attention else ""
        where = {"device": "on the device", "host": "in host memory", "disk": "on disk"}[setup.storage]
        words.append(f"{each} recomputed{but}, checkpoints {where}")
    if setup.tiled:
        words.append(f"norms and MLPs in tiles of {setup.tiled:,}")
    if setup.offload_parameters:
        words.append("weights and optimizer in host memory")
    elif setup.offload_optimizer:
        words.append("optimizer in host memory")
    return "; ".join(words)


def _value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _memory(plan: Plan) -> str:
    total = max(plan.footprint.total, 1)
    lines = [f"{'a device, GiB':<16}{'at once':>10}{'':>6}{'at most':>10}"]
    for part, size in plan.footprint.parts.items():
        bar = "#" * round(_BAR * size / total)
        most = plan.footprint.most[part]
        lines.append(
            f"{part:<16}{size / 2**30:>10,.2f}{size / total:>6.0%}{most / 2**30:>10,.2f}  {bar}".rstrip()
        )
    lines.append(
        f"{'in all':<16}{total / 2**30:>10,.2f}      of {plan.usable / 2**30:,.1f} usable ({plan.gpu.name})"
    )
    lines.append(f"the fullest moment: {plan.footprint.moment}; at most: each part at its own")
    return "\n".join(lines)


def _elsewhere(plan: Plan) -> str:
    lines = []
    if plan.footprint.host:
        what = ", ".join(f"{name} {gigabytes(size)}" for name, size in plan.footprint.host.items())
        node = min(plan.gpus, plan.gpus_per_node)
        limit = "" if plan.host_memory is None else f" of {gigabytes(plan.host_memory)}"
        lines.append(f"host memory of a node: {gigabytes(plan.host_bytes)}{limit} ({node} x: {what})")
    if plan.disk:
        what = ", ".join(f"{name} {gigabytes(size)}" for name, size in plan.disk.items())
        lines.append(f"disk: {what}")
    return "\n".join(lines)


def _time(plan: Plan) -> str:
    timing = plan.timing
    work = timing.work
    lines = [
        f"a step: {timing.rows} {'row' if timing.rows == 1 else 'rows'}, {plan.step_tokens:,} tokens, "
        f"{work.model:.3g} FLOPs (attention {work.attention_share:.0%}), {work.hardware:.3g} with what is "
        "computed again"
    ]
    if timing.seconds is None:
        lines.append(f"time: not said, {timing.assumed}")
    else:
        lines.append(
            f"time: {duration(timing.seconds)} a step, {plan.tokens_per_second:,.0f} tokens/s, assuming "
            f"{timing.assumed}"
        )
    if plan.hours is not None:
        lines.append(
            f"all {plan.steps:,} steps: {duration(plan.hours * 3600)}, {plan.gpu_hours:,.1f} GPU-hours, "
            f"{plan.steps * plan.step_tokens / 1e9:.3g}B tokens"  # type: ignore[operator]
        )
    return "\n".join(lines)


def _changes(plan: Plan) -> str:
    title = "what else could be" if plan.fits else "what would change it"
    rows = [(title, "GiB a device", "host a node", "tokens/s", "", "price")]
    rows += [_change(change) for change in plan.changes]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [
        f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}  {e:<{widths[4]}}  {f}"
        for a, b, c, d, e, f in rows
    ]
    following = plan.next_change()
    if not plan.fits and following is not None:
        lines.append(following.sentence())
    return "\n".join(lines)


def _change(change: Change) -> tuple[str, str, str, str, str, str]:
    speed = "-" if change.tokens_per_second is None else f"{change.tokens_per_second:,.0f}"
    fits = "fits" if change.fits else "too large"
    host = f"{change.host_bytes / 2**30:,.0f}" if change.host_bytes else "-"
    return f"{change.key} {change.value}", f"{change.total / 2**30:,.1f}", host, speed, fits, change.price
