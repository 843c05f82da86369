"""Plans against runs that others have published: memory, seconds of a step, hours.

python benchmarks/plan_published.py [--quick]

Arithmetic alone, a second. Each run is set up as its source says; where that leaves a setting open, the line
says so. `ratio` is planned over published; of a run with a bound only that it fitted is known.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from typing import Any

from ultralong_hf.footprint import ModelShape, Setup, footprint
from ultralong_hf.planning.gpus import GPUS
from ultralong_hf.planning.shapes import KNOWN
from ultralong_hf.planning.timing import step_timing

K, M = 1024, 1024**2
LLAMA, QWEN = KNOWN["meta-llama/Llama-3.1-8B"], "Qwen/Qwen3-"
TRL = "TRL, pull request 6845 and docs/source/long_context_training.md"
ALST = "ArcticTraining, projects/sequence-parallelism"
PAPER = "arXiv 2504.06214, second-hand"
MEMORY_TARGET, TIME_TARGET = 0.10, 0.10


@dataclass(frozen=True, kw_only=True)
class Run:
    """One published run. `gigabytes` by 10^9; `limit`: it fitted in that."""

    what: str
    source: str
    shape: ModelShape
    gpus: int
    setup: dict[str, Any]
    gpu: str = "h100-80g"
    gigabytes: float | None = None
    limit: float | None = None
    seconds: float | None = None
    hours: float | None = None
    tokens: float = 0
    """Of the hours."""
    note: str = ""
    options: dict[str, Any] = field(default_factory=dict)


def ring(gpus: int, **more: Any) -> dict[str, Any]:
    """As TRL's example: FSDP2, torch's ring, every layer recomputed, checkpoints in host memory."""
    return {"ring": gpus, "weight_shards": gpus, "storage": "host", **more}


def alst(gpus: int, **more: Any) -> dict[str, Any]:
    """As ALST's recipes: ZeRO-3 in bfloat16, Liger, optimizer in host memory."""
    one = {"offload_parameters": True} if gpus == 1 else {"offload_optimizer": True}
    return {"ulysses": gpus, "weight_shards": gpus, "weight_bytes": 2, "liger": True, **one, **more}


RUNS = (
    *(
        Run(
            what=f"Qwen3-{size}, {length // M}M",
            source=TRL,
            shape=KNOWN[QWEN + size],
            gpus=gpus,
            setup={"length": length, **ring(gpus)},
            gigabytes=gigabytes,
            seconds=seconds,
            note=note,
        )
        for size, length, gpus, seconds, gigabytes, note in (
            ("8B", M, 8, 380, 56.2, "the documented run; 364 s in the pull request"),
            ("8B", 2 * M, 16, 696, None, ""),
            ("8B", 4 * M, 32, 1346, None, ""),
            ("0.6B", M, 8, 137, 27.9, "whether checkpoints left the device is not said"),
            ("0.6B", 4 * M, 8, 2135, 73.7, ""),
            ("32B", M, 8, 1295, None, "60.8 GB with tiles and a way of offloading that is not said"),
            ("30B-A3B", M, 8, 483, None, "experts; 46.0 GB, less than float32 state: how is not said"),
        )
    ),
    Run(
        what="Llama-8B, 0.5M",
        source=ALST,
        shape=LLAMA,
        gpus=1,
        setup={"length": 500_000, "storage": "host", "tile": 4096, **alst(1)},
        limit=80,
        note="run-h100-sp1-llama-8b.yml",
    ),
    Run(
        what="Llama-8B, 3.8M",
        source=ALST,
        shape=LLAMA,
        gpus=8,
        setup={"length": 3_800_000, "storage": "host", "tile": 4096, **alst(8)},
        limit=80,
        note="run-h100-sp8-llama-8b.yml",
    ),
    Run(
        what="Llama-8B, 15M",
        source=ALST,
        shape=LLAMA,
        gpus=32,
        setup={"length": 15_000_000, "storage": "host", "tile": 4096, **alst(32)},
        limit=80,
        note="arXiv 2506.13996, abstract",
    ),
    Run(
        what="Llama-8B, 300K",
        source=ALST,
        shape=LLAMA,
        gpus=1,
        gpu="h200-141g",
        setup={"length": 300_000, **alst(1)},
        gigabytes=134.96,
        note="run-h200-sp1-llama-8b-liger.yml",
    ),
    Run(
        what="Llama-8B, 650K",
        source=ALST,
        shape=LLAMA,
        gpus=1,
        gpu="h200-141g",
        setup={"length": 650_000, "storage": "host", **alst(1)},
        gigabytes=126.81,
        note="run-h200-sp1-llama-8b-liger-offload.yml",
    ),
    Run(
        what="Llama-8B, 1.2M",
        source=ALST,
        shape=LLAMA,
        gpus=1,
        gpu="h200-141g",
        setup={"length": 1_200_000, "storage": "host", "tile": 4096, **alst(1)},
        gigabytes=136.15,
        note="run-h200-sp1-llama-8b-liger-offload-tiled-mlp.yml",
    ),
    *(
        Run(
            what=f"UltraLong {length // M}M, 1B tokens",
            source=PAPER,
            shape=LLAMA,
            gpus=256,
            setup={"length": length, "ulysses": 8, "ring": cp, "weight_shards": 256},
            hours=hours,
            tokens=1e9 if length < 4 * M else 150 * 2 * 4 * M,
            note="Megatron-LM, TP 8; start-up, saving and evaluation are in the hours",
        )
        for length, cp, hours in ((M, 4, 5), (2 * M, 16, 6), (4 * M, 16, 13))
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the same: it is arithmetic")
    parser.parse_args()
    print(f"{'run':<26}{'GPUs':<18}{'published':>12}{'planned':>10}  ratio  note")
    memory, seconds, hours = {}, {}, {}
    for run in RUNS:
        for kind, published, planned in figures(run):
            name = f"{run.what}, {kind}"
            ratio = planned / published
            bound = kind == "GB at most"
            {"GB": memory, "GB at most": {}, "s": seconds, "h": hours}[kind][name] = round(ratio, 3)
            shown = f"{ratio:>6.2f}" if not bound else "  fits" if planned < published else "   NOT"
            unit = "GB" if kind.startswith("GB") else kind
            given = f"{'< ' if bound else ''}{published:g} {unit}"
            print(
                f"{run.what:<26}{f'{run.gpus} x {run.gpu}':<18}{given:>12}{f'{planned:,.4g} {unit}':>10} "
                f"{shown}  {run.note}"
            )
    worst_memory = max(abs(value - 1) for value in memory.values())
    worst_time = max(abs(value - 1) for value in seconds.values())
    print(f"the furthest off: memory by {worst_memory:.0%}, seconds of a step by {worst_time:.0%}")
    summary = {
        "benchmark": "plan_published",
        "ratios": {**memory, **seconds, **hours},
        "targets": {"memory": MEMORY_TARGET, "step": TIME_TARGET},
        "met": worst_memory <= MEMORY_TARGET and worst_time <= TIME_TARGET,
    }
    print(json.dumps(summary))


def figures(run: Run) -> list[tuple[str, float, float]]:
    """(kind, published, planned) of what the source gives."""
    setup = Setup(**run.setup)
    gigabytes = footprint(run.shape, setup).total / 1e9
    rows = run.tokens / setup.length if run.tokens else 1
    timing = step_timing(run.shape, setup, GPUS[run.gpu], gpus=run.gpus, rows=rows)
    assert timing.seconds is not None
    found = [
        ("GB", run.gigabytes, gigabytes),
        ("GB at most", run.limit, gigabytes),
        ("s", run.seconds, timing.seconds),
        ("h", run.hours, timing.seconds / 3600),
    ]
    return [(kind, published, planned) for kind, published, planned in found if published is not None]


if __name__ == "__main__":
    main()
