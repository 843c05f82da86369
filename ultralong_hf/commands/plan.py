"""`ultralong plan`: memory, work, time and sizes of a recipe or a model, before anything is trained."""

from __future__ import annotations

import argparse
import json
import re
from typing import Any

from ultralong_hf.errors import PlanError

EXAMPLE = """\
example: ultralong plan ultralong-1m --gpus 8
         ultralong plan meta-llama/Llama-3.1-8B-Instruct --length 4M --gpu h200-141g --png plan.png
         ultralong plan ultralong-1m --gpus 8 --set memory.recompute=all_but_attention --json"""

_SIZE_UNITS = {"": 1, "G": 10**9, "T": 10**12}


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `ultralong plan`."""
    parser.epilog = EXAMPLE
    add = parser.add_argument
    add(
        "what",
        nargs="?",
        metavar="RECIPE|MODEL",
        help="a preset, a recipe's YAML file, a model folder or a hub id",
    )
    add("--length", metavar="TOKENS", help="of a row, such as 4M (default: the recipe's)")
    add("--gpus", type=int, metavar="N", help="how many there are (default: the least that fit)")
    add("--gpu", default="h100-80g", metavar="NAME", help="which; --gpu list shows them (default: h100-80g)")
    add("--gpus-per-node", type=int, metavar="N", help="default: as that GPU is usually built, 8")
    add("--stage", default="cpt", help="cpt, sft or preference (default: cpt)")
    add("--tokens", metavar="BUDGET", help="to train on, such as 1B (default: the recipe's steps)")
    add("--mfu", type=float, help="to assume, such as 0.4 (default: what published runs reach)")
    add("--host-memory", metavar="BYTES", help="of a node, such as 1.5T; checked if given")
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a key of the recipe, such as memory.recompute=all_but_attention (repeat)",
    )
    add("--png", metavar="FILE", help="draw the memory by part, and each option beside it")
    add("--json", action="store_true", help="print one JSON object instead of tables")


def run(args: argparse.Namespace) -> int:
    """Prints the plan; status 0 whether it fits or not. Raises PlanError and the like on bad input."""
    if args.gpu == "list":
        print(_gpu_table())
        return 0
    if args.what is None:
        raise PlanError("name a recipe, such as ultralong-1m, or a model with --length.")
    from ultralong_hf.planning import plan

    found = plan(
        args.what,
        length=args.length,
        gpus=args.gpus,
        gpu=args.gpu,
        gpus_per_node=args.gpus_per_node,
        stage=args.stage,
        mfu=args.mfu,
        host_memory=None if args.host_memory is None else parse_bytes(args.host_memory),
        tokens=args.tokens,
        overrides=parse_overrides(args.set),
    )
    png = None if args.png is None else str(found.plot(args.png))
    if args.json:
        print(json.dumps({**found.to_dict(), "png": png}, indent=2))
        return 0
    print(found.table())
    if png is not None:
        print(f"\ndrawn: {png}")
    return 0


def parse_overrides(pairs: list[str]) -> dict[str, Any]:
    """["a.b=1"] -> {"a.b": 1}, values as a recipe reads them."""
    from ultralong_hf.recipes.located_yaml import parse_value

    overrides = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or "." not in key:
            raise PlanError(f"--set {pair}: write SECTION.KEY=VALUE, such as memory.tiled_mlp=true.")
        overrides[key] = parse_value(text)
    return overrides


def parse_bytes(text: str) -> int:
    """ "1.5T" -> 1,500,000,000,000: by thousands, G or T."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([GgTt]?)[Bb]?", text.strip())
    if match is None or float(match[1]) == 0:
        raise PlanError(f"--host-memory {text}: write bytes, or a number with G or T, such as 1.5T.")
    return int(float(match[1]) * _SIZE_UNITS[match[2].upper()])


def _gpu_table() -> str:
    from ultralong_hf.planning.gpus import GPUS
    from ultralong_hf.rope.tables import aligned

    rows = [["name", "GiB", "bf16 TFLOP/s", "memory TB/s", "source"]]
    for gpu in GPUS.values():
        flops, bandwidth = gpu.flops or 0, gpu.bandwidth or 0
        rows.append(
            [
                gpu.name,
                f"{gpu.memory / 2**30:.1f}",
                f"{flops / 1e12:,.0f}",
                f"{bandwidth / 1e12:.2f}",
                gpu.source,
            ]
        )
    return aligned(rows, left=1)
