"""The longest row that trains under one cap of memory, and the time of a step: ours, TRL's, transformers'.

python benchmarks/longest_sequence.py [--quick]

Every contestant trains the same model, one row a step, with AdamW in float32, in a process of its own. A
length fits if the most that was resident in two steps, above what the libraries take, is at most the cap, as
a cgroup counts. (A limit on addresses would count against TRL a buffer that it allocates and does not touch;
there is one at four times the cap, as a stop.) The model has the widths of Llama-3.1-8B over 32, and 8 of its
layers. The search stops at 6 times what TRL's settings reach.
"""

# ruff: noqa: E402 -- libraries read their settings from the environment when they are imported
from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import json
import multiprocessing
import os
import platform
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # or threads that wait for a busy core take another
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
warnings.filterwarnings("ignore")

import torch
import transformers
import trl
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Trainer, TrainingArguments
from trl import SFTConfig, SFTTrainer

from ultralong_hf.memory.checkpointing import make_storage, set_checkpointing
from ultralong_hf.memory.lm_head import keep_whole_logits, set_lm_head_tile
from ultralong_hf.memory.tiling import tile_modules

SHAPE = {
    "hidden_size": 128,
    "intermediate_size": 448,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "vocab_size": 4008,
}
SEARCHED = 6
"""The search ends at this many times the length of TRL's own settings."""

TARGETS = {"length, ours / TRL's defaults": 4.0, "length, ours / TRL's long-context settings": 1.5}
SLOWEST = 1.05


@dataclass(frozen=True)
class Contestant:
    """How a trainer is set up. `ours`: what of this package is used, by name."""

    name: str
    trainer: str = "trl"
    settings: dict[str, Any] = field(default_factory=dict)
    ours: dict[str, Any] = field(default_factory=dict)


TRANSFORMERS = Contestant("transformers", "transformers")
DEFAULTS = Contestant("TRL, defaults")
LONG = Contestant(
    # docs/source/long_context_training.md of TRL 1.16, without its parallelism and its offload to the host,
    # which is an error on a CPU; the fused loss and checkpoints of every layer are TRL's defaults
    "TRL, long-context settings",
    settings={"activation_checkpointing": True, "pad_to_multiple_of": 16},
)
SELECTIVE = Contestant(
    "TRL, selective checkpoints", settings={"activation_checkpointing_kwargs": {"selective": True}}
)
HEAD = Contestant("ours: LM head's tile alone", ours={"lm_head": True})
TILES = Contestant("ours: and tiled MLP", ours={"lm_head": True, "tile": 1024})
OURS = Contestant("ours: and checkpoints on disk", ours={"lm_head": True, "tile": 1024, "place": "disk"})
FAST = Contestant(
    "ours: and attention kept",
    ours={"lm_head": True, "tile": 1024, "place": "disk", "recompute": "all_but_attention"},
)
SHORT = Contestant(
    "ours: no checkpoints, whole logits",
    settings={"activation_checkpointing": False},
    ours={"whole_logits": True},
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a lower cap and a coarser search, under 45 s")
    parser.add_argument("--cap", type=int, help="MiB that may be resident above the imported libraries")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    args = parser.parse_args()
    cap = args.cap or (256 if args.quick else 480)
    quantum, steps = (128, 2) if args.quick else (512, 3)
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, trl {trl.__version__}, "
        f"{platform.machine()}, {args.threads} threads, cap {cap} MiB; {' '.join(sys.argv)}",
        flush=True,
    )
    bench = Bench(cap, args.threads, quantum)
    bench.import_all()
    theirs: dict[str, int] = {}
    for who in (DEFAULTS, LONG, TRANSFORMERS):
        theirs[who.name] = bench.longest(who, theirs.get(DEFAULTS.name, 4 * quantum))
    limit = SEARCHED * max(theirs[DEFAULTS.name], theirs[LONG.name])
    ours = (FAST,) if args.quick else (SELECTIVE, HEAD, TILES, OURS, FAST)
    lengths = {**theirs, **{who.name: bench.longest(who, limit, limit) for who in ours}}
    times = {}
    equal = {min(theirs[DEFAULTS.name], theirs[LONG.name])} | (
        set() if args.quick else {min(theirs.values())}
    )
    for length in sorted(equal):
        times[f"{length:,} tokens"] = bench.compare(lengths, length, steps, rounds=2)
    report(lengths, limit, times)
    print(json.dumps(summary(lengths, times)))


class Bench:
    """Runs contestants in processes of their own, all with the same cap of memory."""

    def __init__(self, cap: int, threads: int, quantum: int) -> None:
        self.cap, self.threads, self.quantum = cap << 20, threads, quantum
        # a fork has the libraries already, and nothing has used torch's threads yet
        self._context = multiprocessing.get_context("fork")

    def import_all(self) -> None:
        """Imports here, once, what training imports late; every process then has the same to begin with."""
        for name in self._call(_modules) or []:
            with contextlib.suppress(Exception):
                importlib.import_module(name)
        gc.freeze()

    def longest(self, who: Contestant, first: int, limit: int | None = None) -> int:
        """Tokens of the longest row, a multiple of the quantum, to within a tenth; at most `limit`."""
        low, high, trial = 0, None, first
        while high is None or high - low > max(self.quantum, low // 10):
            answer = self.train(who, trial, 2)  # the second has the optimizer's state beside it
            if answer is None or answer[1] > self.cap:
                high = trial
            else:
                low = trial
                if trial == limit:
                    break
            trial = 2 * low if high is None else (low + high) // 2 // self.quantum * self.quantum
        print(f"{who.name:<32} {low:>8,} tokens", flush=True)
        return low

    def compare(
        self, lengths: dict[str, int], length: int, steps: int, rounds: int
    ) -> dict[str, tuple[float, int]]:
        """Seconds a step at a length, and the peak of memory, of all that train it.

        In turn, and the least of all steps: what else the machine does only ever adds. The peak is of
        resident bytes above the imported libraries.
        """
        times: dict[str, list[float]] = {}
        peaks: dict[str, int] = {}
        for _ in range(rounds):
            for who in (TRANSFORMERS, DEFAULTS, LONG, SELECTIVE, HEAD, TILES, OURS, FAST, SHORT):
                known = lengths.get(who.name)
                if (known is None and who is not SHORT) or (known is not None and known < length):
                    continue
                answer = self.train(who, length, steps + 1)
                if answer is not None:
                    times.setdefault(who.name, []).extend(answer[0][1:])  # the first is slower
                    peaks[who.name] = max(peaks.get(who.name, 0), answer[1])
        return {name: (min(values), peaks[name]) for name, values in times.items()}

    def train(self, who: Contestant, length: int, steps: int) -> tuple[list[float], int] | None:
        """Seconds of each step and the peak of memory; None where it did not suffice."""
        answer = self._call(train, who, length, steps)
        if isinstance(answer, str):
            raise RuntimeError(f"{who.name}, {length} tokens: {answer}")
        return answer

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        """What it gives in a process of its own; None where memory did not suffice, a text for errors."""
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(target=self._serve, args=(theirs, function, args))
        process.start()
        theirs.close()
        try:
            return ours.recv()
        except EOFError:  # an allocation failed where no exception can leave
            return None
        finally:
            process.join()

    def _serve(self, pipe: Any, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        torch.set_num_threads(self.threads)
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        cap = memory_bytes("VmData") + 4 * self.cap
        resource.setrlimit(resource.RLIMIT_DATA, (cap, cap))
        try:
            pipe.send(function(*args))
        except Exception as error:
            told = f"{type(error).__name__}: {error}"
            signs = ("can't allocate memory", "not enough memory", "bad_alloc", "out of memory")
            short = isinstance(error, MemoryError) or any(sign in told for sign in signs)
            pipe.send(None if short else told)
        finally:
            os._exit(0)


def _modules() -> list[str]:
    """What is imported after a step of each kind."""
    for who in (TRANSFORMERS, DEFAULTS, FAST):
        train(who, 64, 1)
    return list(sys.modules)


def train(who: Contestant, length: int, steps: int) -> tuple[list[float], int]:
    """Seconds of each step, and the peak of resident bytes above those of the begin."""
    begin = memory_bytes("VmRSS")
    torch.manual_seed(0)
    config = LlamaConfig(**SHAPE, max_position_embeddings=length, attn_implementation="sdpa")
    model = LlamaForCausalLM(config)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(who, model, length, steps, folder)
        clock = Clock()
        trainer.add_callback(clock)
        trainer.train()
        assert torch.isfinite(torch.tensor(trainer.state.log_history[0]["loss"]))
    return clock.seconds, memory_bytes("VmHWM") - begin


def make_trainer(who: Contestant, model: Any, length: int, steps: int, folder: str) -> Trainer:
    ids = torch.randint(SHAPE["vocab_size"], (length,))
    rows = Dataset.from_dict({"input_ids": [ids.numpy()] * steps}).with_format("torch")
    common = {
        "output_dir": folder,
        "max_steps": steps,
        "per_device_train_batch_size": 1,
        "use_cpu": True,
        "bf16": False,  # TRL's default; torch's CPU kernels for it are many times slower here
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "dataloader_pin_memory": False,
        "remove_unused_columns": False,
    }
    if who.trainer == "transformers":
        return Trainer(model, TrainingArguments(**common), data_collator=collate, train_dataset=rows)
    prepare(model, who.ours, folder)
    prepared = {"max_length": None, "dataset_kwargs": {"skip_prepare_dataset": True}}
    trainer = SFTTrainer(
        model,
        args=SFTConfig(**common, **prepared, **who.settings),
        train_dataset=rows,
        data_collator=collate,
        processing_class=tokenizer(),
    )
    if "whole_logits" in who.ours:
        keep_whole_logits(model)
    return trainer


def prepare(model: Any, ours: dict[str, Any], folder: str) -> None:
    """As the recipe's section `memory` does it: see ultralong_hf/training/memory.py."""
    if "lm_head" in ours:
        set_lm_head_tile(None, "cpu")
    if "tile" in ours:
        tile_modules(model, ours["tile"])
    if "place" in ours:
        storage = make_storage(ours["place"], folder, torch.device("cpu"))
        set_checkpointing(model, recompute=ours.get("recompute", "all"), storage=storage)


def collate(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    ids = torch.stack([row["input_ids"] for row in rows])
    return {"input_ids": ids, "labels": ids.clone(), "attention_mask": torch.ones_like(ids)}


def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="a", eos_token="b")


class Clock(transformers.TrainerCallback):
    """Seconds between the begin and the end of each step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self._begun = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.seconds.append(time.perf_counter() - self._begun)


def memory_bytes(name: str) -> int:
    """Of this process: VmData is what RLIMIT_DATA counts, VmRSS what is resident, VmHWM the most of it."""
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))


def report(lengths: dict[str, int], limit: int, times: dict[str, dict[str, tuple[float, int]]]) -> None:
    print(f"longest row ({limit:,} is where the search ended)")
    for name, length in lengths.items():
        print(f"  {name:<32} {length:>8,}")
    for length, found in times.items():
        print(f"at {length:<32}  s a step    peak MiB")
        for name, (seconds, peak) in sorted(found.items(), key=lambda pair: pair[1]):
            print(f"  {name:<32} {seconds:>10.2f} {peak >> 20:>11,}")


def summary(lengths: dict[str, int], times: dict[str, dict[str, tuple[float, int]]]) -> dict[str, Any]:
    longest = max(lengths.get(OURS.name, 0), lengths[FAST.name])
    ratios = {
        "length, ours / TRL's defaults": longest / lengths[DEFAULTS.name],
        "length, ours / TRL's long-context settings": longest / lengths[LONG.name],
        "length, ours / transformers": longest / lengths[TRANSFORMERS.name],
    }
    slowest = {}
    for length, found in times.items():
        best = {
            ours: min(seconds for name, (seconds, _) in found.items() if name.startswith("ours") is ours)
            for ours in (True, False)
        }
        name = f"step at {length}, ours / the best of them"
        ratios[name], slowest[name] = best[True] / best[False], SLOWEST
    met = all(ratios[name] >= target for name, target in TARGETS.items())
    met = met and all(ratios[name] <= most for name, most in slowest.items())
    return {
        "benchmark": "longest_sequence",
        "ratios": {name: round(value, 3) for name, value in ratios.items()},
        "targets": {**TARGETS, **slowest},
        "met": met,
    }


if __name__ == "__main__":
    main()
