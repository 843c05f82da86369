"""One H100 or H200: the longest row, tokens a second and MFU of Llama-3.1-8B's shape, ours against peers.

python benchmarks/gpu.py [--quick] [--device cpu] [--layers N] [--folder DIR]

Needs torch 2.11, transformers 5.17, accelerate and peft, all or newer, and these wheels: trl, without which
only plain transformers is measured; flash-attn (2 or 3) and liger-kernel, without which torch's attention and
layers are. Weights are random, in bfloat16; full training has float32 master weights and AdamW's state on the
host for every contestant alike, 12 bytes a weight, so that lengths show what activations take. Where time is
short, --layers takes fewer of the 32: times are then scaled up by work, lengths are of those layers alone.

MFU counts the model's own work, forward once and backward twice, causal attention at half of the square, and
no recomputation, over the card's dense bfloat16 peak.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from statistics import median
from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from ultralong_hf.memory.checkpointing import make_storage, set_checkpointing
from ultralong_hf.memory.tiling import tile_modules, tile_tokens

LLAMA_8B = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
TINY = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 224,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
}
PEAKS = {"H100": 989e12, "H200": 989e12, "B200": 2250e12, "A100": 312e12}
"""Dense bfloat16 FLOPs a second, of the cards' data sheets (SXM)."""

TARGETS = {
    "longest row, full, ours / 1.2M": 1.0,
    "longest row, LoRA, ours / 2M": 1.0,
    "MFU at 256K and beyond, the least, full, ours": 0.5,
}
M = 1 << 20


@dataclass(frozen=True)
class Contestant:
    """How the model is set up; `ours` names what of this package is used."""

    name: str
    checkpointing: dict[str, Any] = field(default_factory=dict)
    liger: bool = False
    trl_head: bool = True
    ours: dict[str, Any] = field(default_factory=dict)


CONTESTANTS = (
    Contestant("transformers", trl_head=False),
    Contestant("TRL, defaults"),
    Contestant("TRL, long-context settings", checkpointing={"offload": True}),
    Contestant("TRL, offload and Liger", checkpointing={"offload": True}, liger=True),
    Contestant("ours", liger=True, ours={"place": "host", "recompute": "all_but_attention"}),
    Contestant("ours, all recomputed", liger=True, ours={"place": "host"}),
    Contestant("ours, on disk", liger=True, ours={"place": "disk", "recompute": "all_but_attention"}),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two lengths, one step each, no search")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="cpu: a tiny shape")
    parser.add_argument("--layers", type=int, help="fewer than 32, where time is short")
    parser.add_argument("--folder", default=None, help="a folder on an NVMe disk")
    parser.add_argument("--minutes", type=float, default=60.0, help="no length is begun after this many")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU here; --device cpu runs a tiny shape, to check the program alone.")
    bench = Bench(args)
    bench.tell()
    results = [bench.measure(who, lora) for lora in (False, True) for who in CONTESTANTS if bench.has(who)]
    print(json.dumps(summary(results, bench)))


class Bench:
    """Measures one contestant after the other on one device."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.device = torch.device(args.device)
        self.on_cpu = args.device == "cpu"
        shape = dict(TINY if self.on_cpu else LLAMA_8B)
        self.all_layers = shape["num_hidden_layers"]
        self.layers = args.layers or self.all_layers
        self.shape = {**shape, "num_hidden_layers": self.layers}
        self.folder = args.folder or tempfile.gettempdir()
        self.ends = time.perf_counter() + 60 * args.minutes
        self.quick = args.quick
        if self.on_cpu:
            self.lengths = [128] if args.quick else [128, 256, 512]
        else:
            self.lengths = [32768, 262144] if args.quick else [32768, 65536, 131072, 262144, 524288, M]
        self.steps = 1 if args.quick else 3
        flash = {"flash_attention_3": "flash_attn_interface", "flash_attention_2": "flash_attn"}
        at_hand = [name for name, module in flash.items() if find_spec(module) and not self.on_cpu]
        self.attention = (at_hand or ["sdpa"])[0]

    def tell(self) -> None:
        name = platform.processor() or "CPU" if self.on_cpu else torch.cuda.get_device_name()
        versions = [f"{module} {version(module)}" for module in ("trl", "flash_attn", "liger_kernel")]
        print(
            f"{name}; torch {torch.__version__}, transformers {transformers.__version__}, "
            f"{', '.join(versions)}; attention {self.attention}; {self.layers} of "
            f"{self.all_layers} layers; {' '.join(sys.argv)}",
            flush=True,
        )

    def has(self, who: Contestant) -> bool:
        """Whether the wheels of a contestant are here."""
        if who.trl_head and find_spec("trl") is None:
            print(f"{who.name}: left out, trl is not installed")
            return False
        return not (self.on_cpu and who.checkpointing.get("offload"))

    def measure(self, who: Contestant, lora: bool) -> dict[str, Any]:
        """Speed at each length that fits, and the longest that does."""
        found: dict[str, Any] = {"name": who.name, "lora": lora, "seconds": {}, "longest": 0}
        for length in self.lengths:
            seconds = self.step(who, lora, length)
            if seconds is None:
                break
            found["seconds"][length], found["longest"] = seconds, length
            self.print_row(who, lora, length, seconds)
        if found["longest"] == self.lengths[-1] and not self.quick:
            found["longest"] = self.search(who, lora, found["longest"])
        elif found["longest"] and not self.quick:
            found["longest"] = self.search(who, lora, found["longest"], 2 * found["longest"])
        print(f"{who.name:<28} {kind(lora):<5} longest row {found['longest']:>10,}", flush=True)
        return found

    def search(self, who: Contestant, lora: bool, low: int, high: int | None = None) -> int:
        """The longest row that trains one step, to within an eighth."""
        while time.perf_counter() < self.ends and (high is None or high - low > low // 8):
            trial = low * 2 if high is None else (low + high) // 2 // 64 * 64
            if self.on_cpu and trial > 1024:
                break
            if self.step(who, lora, trial, steps=0) is None:
                high = trial
            else:
                low = trial
        return low

    def step(self, who: Contestant, lora: bool, length: int, steps: int | None = None) -> float | None:
        """Seconds of a training step after one that is not counted; None where memory did not suffice."""
        steps = self.steps if steps is None else steps
        try:
            with training(self, who, lora) as run:
                times = [run(length) for _ in range(steps + 1)]
                return median(times[1:] or times)
        except (torch.OutOfMemoryError, MemoryError):
            return None
        finally:
            gc.collect()
            if not self.on_cpu:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()

    def print_row(self, who: Contestant, lora: bool, length: int, seconds: float) -> None:
        scaled = self.scaled(length, seconds)
        columns = [
            f"{who.name:<28} {kind(lora):<5} {length:>9,} tokens  {scaled:9.2f} s a step",
            f"{length / scaled:9.0f} tokens/s",
        ]
        if not self.on_cpu:
            columns.append(f"MFU {self.mfu(length, seconds, lora):6.1%}")
            columns.append(f"{torch.cuda.max_memory_reserved() / 2**30:6.1f} GiB")
        print("  ".join(columns), flush=True)

    def scaled(self, length: int, seconds: float) -> float:
        """Of all layers, by work."""
        return seconds * flops(self.shape, length, self.all_layers) / flops(self.shape, length, self.layers)

    def mfu(self, length: int, seconds: float, lora: bool) -> float:
        """Model FLOPs utilization of the layers that ran. Under LoRA the frozen weights have no gradient."""
        if self.on_cpu:
            return float("nan")
        name = torch.cuda.get_device_name()
        peak = next((value for part, value in PEAKS.items() if part in name), float("nan"))
        return flops(self.shape, length, self.layers, lora=lora) / seconds / peak


def kind(lora: bool) -> str:
    return "LoRA" if lora else "full"


def version(module: str) -> str:
    return getattr(__import__(module), "__version__", "?") if find_spec(module) else "absent"


def flops(shape: dict[str, int], length: int, layers: int, *, lora: bool = False) -> float:
    """Of one step on one row: 2 a weight and token forward, twice that backward; causal attention halved."""
    hidden, mlp = shape["hidden_size"], shape["intermediate_size"]
    head = hidden // shape["num_attention_heads"]
    projections = hidden * head * 2 * (shape["num_attention_heads"] + shape["num_key_value_heads"])
    weights = layers * (projections + 3 * hidden * mlp) + shape["vocab_size"] * hidden
    attention = layers * 2 * 2 * length * hidden / 2
    return length * (2 * weights * (2 if lora else 3) + 3 * attention)


@contextlib.contextmanager
def training(bench: Bench, who: Contestant, lora: bool) -> Iterator[Callable[[int], float]]:
    """A function that trains one step on a row of a length, and gives its seconds."""
    torch.manual_seed(0)
    dtype = torch.float32 if bench.on_cpu else torch.bfloat16
    config = LlamaConfig(**bench.shape, max_position_embeddings=8 * M, attn_implementation=bench.attention)
    with torch.device(bench.device):
        default = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            model: Any = LlamaForCausalLM(config).train()
        finally:
            torch.set_default_dtype(default)
    base = model
    set_up(bench, who, model)
    if lora:
        wanted = ["q_proj", "k_proj", "v_proj", "o_proj"]
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=16, target_modules=wanted))
    if who.name != "transformers":
        enable_checkpoints(base, offload=bool(who.checkpointing.get("offload")))
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    try:
        yield partial(one_step, bench, who, model, HostAdam(trained))
    finally:
        del model, base, trained


def enable_checkpoints(model: Any, *, offload: bool) -> None:
    """By the name that the release of transformers has for it."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False}, **({"offload": True} if offload else {}))


class HostAdam:
    """AdamW over float32 copies of the weights on the host, one weight at a time."""

    def __init__(self, weights: list[torch.Tensor]) -> None:
        self._weights = weights
        self._masters = [weight.detach().to("cpu", torch.float32, copy=True) for weight in weights]
        self._optimizers = [torch.optim.AdamW([master], lr=1e-5, fused=True) for master in self._masters]

    def step(self) -> None:
        for weight, master, optimizer in zip(self._weights, self._masters, self._optimizers, strict=True):
            if weight.grad is None:
                continue
            master.grad = weight.grad.to("cpu", torch.float32)
            weight.grad = None
            optimizer.step()
            master.grad = None
            weight.data.copy_(master)


def set_up(bench: Bench, who: Contestant, model: Any) -> None:
    if who.trl_head:
        from trl.trainer.utils import add_fused_lm_head

        add_fused_lm_head(model)
    if who.liger and not bench.on_cpu and find_spec("liger_kernel"):
        from ultralong_hf.memory.kernels import apply_liger_kernels

        apply_liger_kernels(model)
    if who.ours:
        tile_modules(model, 64 if bench.on_cpu else tile_tokens(bench.shape["hidden_size"]))
        storage = make_storage(who.ours["place"], bench.folder, bench.device)
        set_checkpointing(model, recompute=who.ours.get("recompute", "all"), storage=storage)


def one_step(bench: Bench, who: Contestant, model: Any, optimizer: Any, length: int) -> float:
    ids = torch.randint(bench.shape["vocab_size"], (1, length), device=bench.device)
    wait(bench)
    begun = time.perf_counter()
    head = {"fused_lm_head": True} if who.trl_head else {}
    loss = model(input_ids=ids, labels=ids, use_cache=False, **head).loss
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss.detach())
    wait(bench)
    return time.perf_counter() - begun


def wait(bench: Bench) -> None:
    if not bench.on_cpu:
        torch.cuda.synchronize()


def summary(results: list[dict[str, Any]], bench: Bench) -> dict[str, Any]:
    """Ratios to the targets and to the best peer; on a CPU or with fewer layers no target is met."""
    ratios: dict[str, float] = {}
    for lora, wanted in ((False, 1.2e6), (True, 2e6)):
        mine = [found for found in results if found["lora"] is lora and found["name"].startswith("ours")]
        others = [
            found for found in results if found["lora"] is lora and not found["name"].startswith("ours")
        ]
        longest = max(found["longest"] for found in mine)
        ratios[f"longest row, {kind(lora)}, ours / {wanted / 1e6:g}M"] = longest / wanted
        best = max(found["longest"] for found in others)
        ratios[f"longest row, {kind(lora)}, ours / the best peer"] = longest / best if best else float("inf")
    mine = [found["seconds"] for found in results if found["name"].startswith("ours") and not found["lora"]]
    utilized = [
        max(bench.mfu(length, seconds[length], False) for seconds in mine if length in seconds)
        for length in bench.lengths
        if length >= 262144 and any(length in seconds for seconds in mine)
    ]
    ratios["MFU at 256K and beyond, the least, full, ours"] = min(utilized, default=0.0)
    whole = not bench.on_cpu and bench.layers == bench.all_layers
    met = whole and all(ratios[name] >= target for name, target in TARGETS.items())
    return {
        "benchmark": "gpu",
        "device": "cpu" if bench.on_cpu else torch.cuda.get_device_name(),
        "layers": bench.layers,
        "ratios": {name: round(value, 3) for name, value in ratios.items()},
        "targets": TARGETS,
        "met": bool(met),
    }


if __name__ == "__main__":
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    main()
