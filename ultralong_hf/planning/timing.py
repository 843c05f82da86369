"""Seconds of a step: work over what devices do a second, and copies that nothing hides."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from ultralong_hf.footprint import ModelShape, Setup, Work, step_work
from ultralong_hf.planning.gpus import Gpu

ASSUMED_HFU = 0.53
"""Share of a GPU's peak that a step does, recomputation and flash attention's second scores counted: the
median of the eight runs at 1M to 4M tokens that TRL publishes (docs/planning.md: 0.51 to 0.55, four models, 8
to 32 H100), their communication included."""

_CPU_ADAM_BYTES = 28
"""Read and written for each weight by Adam on the host: weight, gradient and two moments in float32."""

_CPU_ADAM_SPEED = 20e9
"""Bytes a second of host memory for one process of eight; an assumption."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Of one optimizer step over all devices."""

    work: Work
    rows: int
    """Rows of all devices, accumulation included."""
    tokens: int
    """Of those rows."""
    seconds: float | None
    """None: the GPU's peak is not stated."""
    mfu: float | None
    """Model FLOPs over the GPUs' peak for these seconds."""
    assumed: str
    """What the seconds rest on, a sentence."""

    @property
    def tokens_per_second(self) -> float | None:
        return None if self.seconds is None else self.tokens / self.seconds


def step_timing(
    shape: ModelShape, setup: Setup, gpu: Gpu, *, gpus: int, rows: int, mfu: float | None = None
) -> Timing:
    """`mfu`: what to assume; none: ASSUMED_HFU of the work that is done, so that options have their price."""
    work = step_work(shape, setup, rows=rows)
    made = partial(Timing, work=work, rows=rows, tokens=rows * setup.length)
    if gpu.flops is None:
        return made(seconds=None, mfu=None, assumed=f"{gpu.name} has no stated peak")
    peak = gpu.flops * gpus
    if mfu is not None:
        return made(seconds=work.model / (mfu * peak), mfu=mfu, assumed=f"an MFU of {mfu:.0%}, as given")
    seconds = work.hardware / (ASSUMED_HFU * peak) + copy_seconds(shape, setup, gpu)
    used = work.model / (seconds * peak)
    assumed = f"{ASSUMED_HFU:.0%} of the peak for all that is computed, which is an MFU of {used:.0%}"
    return made(seconds=seconds, mfu=used, assumed=assumed)


def copy_seconds(shape: ModelShape, setup: Setup, gpu: Gpu) -> float:
    """Of what nothing hides: the optimizer's state there and back; or gradients there, a step on the host,
    weights back. Checkpoints' copies run beside the work."""
    trained = shape.parameters if setup.trained is None else setup.trained
    if setup.offload_parameters:
        step = _CPU_ADAM_BYTES * trained / setup.weight_shards / _CPU_ADAM_SPEED
        copied = 2.0 * trained * setup.weight_bytes
    elif setup.offload_optimizer:
        step = 0.0
        copied = 2 * trained * setup.state_bytes
    else:
        return 0.0
    return step + copied / setup.weight_shards / gpu.host_link
