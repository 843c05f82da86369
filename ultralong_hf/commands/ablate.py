"""`ultralong ablate`: which parts of the recipe matter, arm against arm over several seeds."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

STUDIES = (
    "separator, rope, steps (the paper's three: paper), forms, scale, mixture, reach; all is all but reach"
)
EXAMPLE = """\
example: ultralong ablate --seeds 5 --output outputs/ablations
         ultralong ablate rope --recipe my.yaml --steps 100 --seeds 5 --output outputs/rope
         ultralong ablate rope --recipe my.yaml --output outputs/rope --commands   # to launch on GPUs"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `ultralong ablate`."""
    parser.epilog = EXAMPLE
    add = parser.add_argument
    add("studies", metavar="STUDY", nargs="*", help=f"{STUDIES} (default: paper)")
    add("--seeds", type=int, default=5, help="how many seeds each arm runs with (default: %(default)s)")
    add("--first-seed", type=int, default=0, metavar="N", help="the first of them (default: %(default)s)")
    add("--output", required=True, metavar="DIR", help="folder of results; the same command goes on there")
    add("--recipe", default="lab", metavar="NAME", help="preset or YAML file (default: the laptop lab)")
    add("--steps", type=int, help="CPT steps of every arm (default: cpt.max_steps; the lab: 36)")
    add("--learning-rate", type=float, metavar="RATE", help="of every arm (default: the recipe's)")
    add("--workers", type=int, metavar="N", help="runs at a time (default: the lab one a core, else 1)")
    add("--stop-after", type=float, metavar="MINUTES", help="begin no other run then; go on another time")
    add(
        "--commands", action="store_true", help="print the `accelerate launch` lines of all arms, run nothing"
    )
    add("--json", action="store_true", help="print report.json at the end")


def run(args: argparse.Namespace) -> int:
    """Runs the studies and prints their tables; raises AblationError and RecipeError on bad input."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from ultralong_hf.ablation.running import plan_ablation, run_ablation

    overrides: dict[str, Any] = {}
    if args.steps is not None:
        overrides["cpt.max_steps"] = args.steps
    if args.learning_rate is not None:
        overrides["cpt.learning_rate"] = args.learning_rate
    options: dict[str, Any] = {
        "output_dir": args.output,
        "seeds": range(args.first_seed, args.first_seed + args.seeds),
        "recipe": args.recipe,
        "overrides": overrides,
    }
    studies = tuple(args.studies) or ("paper",)
    if args.commands:
        from ultralong_hf.ablation.launching import launch_commands

        for line in launch_commands(plan_ablation(studies, **options).trials):
            print(line)
        return 0
    stop_after = None if args.stop_after is None else 60 * args.stop_after
    report = run_ablation(studies, workers=args.workers, stop_after=stop_after, **options)
    print(json.dumps(report.to_dict(), indent=1) if args.json else report.table())
    print(
        f"written to {Path(args.output)}: report.html, report.md, report.json, runs.csv, a PNG a study",
        file=sys.stderr,
    )
    return 0
