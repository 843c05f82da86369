"""Planned against measured peak memory on a CPU, over models, lengths, degrees and options.

python benchmarks/plan_accuracy.py [--quick]

Each case trains a recipe's CPT stage for two steps, in processes of its own. What torch's allocator hands out
is recorded by its profiler (every allocation and release, kernels' scratch included); the plan is the one
that the trainer prints. FSDP2 runs on gloo with the tests' shim, for accelerate gives it to GPUs alone.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from ultralong_hf.footprint import footprint
from ultralong_hf.lab.names import model_location
from ultralong_hf.recipes import load_recipe
from ultralong_hf.training import cpt_trainer

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "parallel"))
from launcher import Workers
from shims import FSDP_LAUNCH, gloo_counts_as_gpu

TARGET = 0.10
"""The issue's: planned within this share of measured."""

LAYER = {"num_attention_heads": 8, "num_key_value_heads": 2}
MODELS: dict[str, tuple[type, type, dict[str, Any]]] = {
    "wide": (
        LlamaConfig,
        LlamaForCausalLM,
        {**LAYER, "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "vocab_size": 2048},
    ),
    "deep": (
        LlamaConfig,
        LlamaForCausalLM,
        {**LAYER, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 12, "vocab_size": 2048},
    ),
    "heavy": (
        LlamaConfig,
        LlamaForCausalLM,
        {**LAYER, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 4, "vocab_size": 8192},
    ),
    "qwen3": (
        Qwen3Config,
        Qwen3ForCausalLM,
        {
            **LAYER,
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "vocab_size": 8192,
            "head_dim": 32,
            "tie_word_embeddings": True,
        },
    ),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    model: str
    length: int
    what: str
    """The options, in a word or two."""
    keys: dict[str, Any] = field(default_factory=dict)
    """Of the recipe."""
    processes: int = 1
    sharding: str = "none"


CHECKPOINTED = {"cpt.activation_checkpointing": True}
SPLIT = {"parallel.size": 2}


def cases(quick: bool) -> list[Case]:
    """A small grid, or the whole one."""
    few = [
        Case(model="wide", length=2048, what="recomputed", keys=CHECKPOINTED),
        Case(model="deep", length=1024, what="nothing recomputed"),
        Case(model="heavy", length=256, what="recomputed", keys=CHECKPOINTED),
    ]
    if quick:
        return few
    more = [
        Case(model=model, length=length, what=what, keys=keys)
        for model in MODELS
        for length in (512, 4096)
        for what, keys in (
            ("nothing recomputed", {}),
            ("recomputed", CHECKPOINTED),
        )
    ]
    options = {
        "every 2nd recomputed": {"memory.checkpoint_every": 2},
        "tiles of 512": {"memory.tiled_mlp": True, "memory.mlp_tile": 512},
        "attention kept": {"memory.recompute": "all_but_attention"},
        "checkpoints on disk": {"memory.checkpoint_storage": "disk"},
        "LM head 128 at a time": {"memory.lm_head_tile": 128},
        "whole logits": {"memory.lm_head": "whole"},
        "accumulation": {"cpt.gradient_accumulation_steps": 2},
        "2 rows": {"cpt.per_device_train_batch_size": 2},
        "LoRA": {"memory.lora": {"rank": 8}},
    }
    for model, length in (("wide", 2048), ("qwen3", 2048)):
        more += [
            Case(model=model, length=length, what=what, keys={**CHECKPOINTED, **keys})
            for what, keys in options.items()
        ]
    for sharding in ("ddp", "fsdp"):
        for model, length in (("wide", 2048), ("heavy", 512)):
            more.append(
                Case(
                    model=model,
                    length=length,
                    what="2 share a row",
                    keys={**CHECKPOINTED, **SPLIT},
                    processes=2,
                    sharding=sharding,
                )
            )
    return few + more


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three cases, under 45 s")
    parser.add_argument("--only", metavar="WORD", help="cases whose line has the word")
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} cores; {' '.join(sys.argv)}")
    print(f"{'model':<8}{'tokens':>7}  {'devices':<9}{'options':<24}{'planned':>9}{'measured':>10}  ratio")
    ratios = {}
    with tempfile.TemporaryDirectory() as folder:
        for case in cases(args.quick):
            name = f"{case.model} {case.length} {case.processes} {case.sharding} {case.what}"
            if args.only and args.only not in name:
                continue
            planned, measured = compare(case, folder)
            ratios[name] = planned / measured
            devices = f"{case.processes} {case.sharding}" if case.processes > 1 else "1"
            print(
                f"{case.model:<8}{case.length:>7}  {devices:<9}{case.what:<24}{planned / 2**20:>9.1f}"
                f"{measured / 2**20:>10.1f}  {planned / measured:.3f}",
                flush=True,
            )
    worst = max(abs(ratio - 1) for ratio in ratios.values())
    print(f"MiB of a device; the furthest off by {worst:.1%}")
    summary = {
        "benchmark": "plan_accuracy",
        "ratios": {name: round(ratio, 4) for name, ratio in ratios.items()},
        "targets": {"furthest from 1": TARGET},
        "met": worst <= TARGET,
    }
    print(json.dumps(summary))


def compare(case: Case, folder: str) -> tuple[int, int]:
    """Planned and measured bytes of the device that has the most."""
    workers = Workers(timeout=900)
    try:
        ranks = workers.run(case.processes, run, case, folder)
    finally:
        workers.stop()
    return ranks[0][0], max(measured for _, measured in ranks)


def run(case: Case, folder: str) -> tuple[int, int]:
    """One process's part: two steps under the profiler."""
    if case.sharding == "fsdp":
        os.environ.update(FSDP_LAUNCH)
    shim = gloo_counts_as_gpu() if case.sharding == "fsdp" else contextlib.nullcontext()
    recipe = load_recipe("lab", {**settings(case, folder), **case.keys})
    tokenizer = AutoTokenizer.from_pretrained(model_location("lab"))
    write_documents(folder)
    quiet = contextlib.redirect_stdout(io.StringIO())
    recorder = profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True)
    with shim, quiet, recorder as profiler:
        model = make_model(case.model)
        trainer = cpt_trainer(recipe, model=model, tokenizer=tokenizer)
        trainer.train()
    found = trainer.plan.footprint
    if case.sharding == "fsdp":  # the plan of a CPU knows DDP alone, as accelerate does
        setup = replace(trainer.plan.setup, sharding="fsdp", weight_shards=case.processes)
        found = footprint(trainer.plan.shape, setup)
    return found.total, measured_peak(profiler)


def measured_peak(profiler: profile) -> int:
    """Bytes at most of all tensors and scratch at once.

    By address: what gloo's threads release is not recorded, but an address that is given out again was free.
    """
    alive: dict[int, int] = {}
    total = most = 0
    events = sorted(allocations(profiler), key=lambda event: event[0])
    assert events, "the profiler has seen no allocation"
    for _, address, size in events:
        total -= alive.pop(address, 0)
        if size > 0:
            alive[address] = size
            total += size
            most = max(most, total)
    return most


def allocations(profiler: profile) -> Iterator[tuple[int, int, int]]:
    """(time, address, bytes) of each allocation, and of each release with its bytes below 0."""

    def walk(events: Any) -> Iterator[tuple[int, int, int]]:
        for event in events:
            if event.name == "[memory]":
                yield event.start_time_ns, event.extra_fields.ptr, event.extra_fields.alloc_size
            yield from walk(event.children)

    kineto = profiler.profiler
    assert kineto is not None
    assert kineto.kineto_results is not None
    yield from walk(kineto.kineto_results.experimental_event_tree())


def make_model(name: str) -> Any:
    config_class, model_class, sizes = MODELS[name]
    torch.manual_seed(0)
    return model_class(config_class(max_position_embeddings=128, **sizes)).float()


def settings(case: Case, folder: str) -> dict[str, Any]:
    """The lab's recipe on words, two steps, nothing saved and nothing evaluated."""
    return {
        "data.sources": [f"{folder}/documents.jsonl"],
        "data.target_length": case.length,
        "data.output_dir": f"{folder}/store-{case.length}",
        "data.eval_rows": 0,
        "data.engine": "tokenizers",
        "rope.scale": None,
        "evaluation.lengths": [256],
        "cpt.output_dir": f"{folder}/cpt",
        "cpt.use_cpu": case.sharding != "fsdp",
        "cpt.max_steps": 2,
        "cpt.eval_strategy": "no",
        "cpt.save_strategy": "no",
        "cpt.disable_tqdm": True,
    }


def write_documents(folder: str) -> None:
    """Enough for rows of every length, once."""
    path = Path(folder) / "documents.jsonl"
    if path.exists():
        return
    text = " ".join(f"word {number % 97} of many" for number in range(6000))
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.write_text("".join(json.dumps({"text": text}) + "\n" for _ in range(3)), encoding="utf-8")
    partial.replace(path)


if __name__ == "__main__":
    main()
