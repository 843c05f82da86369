"""`ultralong launch-config`: accelerate's YAML and a SLURM batch script for a recipe on so many GPUs."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ultralong_hf.planning.launch_files import SlurmSettings

EXAMPLE = """\
example: ultralong launch-config ultralong-1m --gpus 8 --output launch
         accelerate launch --config_file launch/8-gpus.yaml examples/cpt.py --recipe ultralong-1m
example: ultralong launch-config ultralong-4m --gpus 256 --time 48:00:00 --partition h100 --output launch
         sbatch launch/256-gpus.sbatch"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `ultralong launch-config`."""
    parser.epilog = EXAMPLE
    add = parser.add_argument
    add("recipe", metavar="RECIPE", help="a preset, or a recipe's YAML file")
    add("--gpus", type=int, metavar="N", help="in all (default: the least that fit)")
    add("--gpu", default="h100-80g", metavar="NAME", help="as for ultralong plan (default: h100-80g)")
    add("--gpus-per-node", type=int, metavar="N", help="default: as that GPU is usually built, 8")
    add("--stage", default="cpt", help="cpt, sft or preference (default: cpt)")
    add("--output", default="launch", metavar="DIR", help="folder for the files (default: launch)")
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a key of the recipe, handed on (repeat)",
    )
    add_slurm_options(parser.add_argument_group("of the batch script"))
    parser.add_argument("--json", action="store_true", help="print the files' names and the plan as JSON")


def add_slurm_options(group: argparse._ArgumentGroup) -> None:
    """What a batch script says of its job beside the plan."""
    group.add_argument(
        "--time", default="24:00:00", help="of one job; it is queued again (default: 24:00:00)"
    )
    group.add_argument("--partition", metavar="NAME")
    group.add_argument("--account", metavar="NAME")
    group.add_argument("--cpus-per-gpu", type=int, default=8, metavar="N", help="default: 8")
    group.add_argument("--environment", metavar="LINE", help="such as 'source .venv/bin/activate'")


def slurm_settings(args: argparse.Namespace) -> SlurmSettings:
    """The settings of `add_slurm_options`."""
    from ultralong_hf.planning.launch_files import SlurmSettings

    return SlurmSettings(
        time=args.time,
        partition=args.partition,
        account=args.account,
        cpus_per_gpu=args.cpus_per_gpu,
        environment=args.environment,
    )


def run(args: argparse.Namespace) -> int:
    """Writes both files; a plan that does not fit is told on stderr. Raises PlanError on bad input."""
    from ultralong_hf.commands.plan import parse_overrides
    from ultralong_hf.planning import plan
    from ultralong_hf.planning.launch_files import sbatch_text, write_files, yaml_text
    from ultralong_hf.planning.wish import require_recipe

    require_recipe(args.recipe)
    found = plan(
        args.recipe,
        gpus=args.gpus,
        gpu=args.gpu,
        gpus_per_node=args.gpus_per_node,
        stage=args.stage,
        overrides=parse_overrides(args.set),
    )
    command = shlex.join(["ultralong", "launch-config", *_words(args)])
    words = shlex.join([args.recipe, *(word for pair in args.set for word in _option(pair))])
    stem = "1-gpu" if found.gpus == 1 else f"{found.gpus}-gpus"
    config, batch = Path(args.output) / f"{stem}.yaml", Path(args.output) / f"{stem}.sbatch"
    slurm = slurm_settings(args)
    write_files(
        {
            config: yaml_text(found, recipe=words, command=command, file=str(config)),
            batch: sbatch_text(found, recipe=words, command=command, config=str(config), slurm=slurm),
        }
    )
    if not found.fits:
        following = found.next_change()
        advice = "" if following is None else f" {following.sentence()}"
        print(f"warning: as planned it does not fit.{advice}", file=sys.stderr)
    if args.json:
        print(json.dumps({"yaml": str(config), "sbatch": str(batch), "plan": found.to_dict()}, indent=2))
        return 0
    print(f"{config}\n{batch}")
    return 0


def _words(args: argparse.Namespace) -> list[str]:
    """The command line in one order, without what is as by default."""
    words = [args.recipe]
    defaults = {"gpu": "h100-80g", "stage": "cpt", "output": "launch", "time": "24:00:00", "cpus_per_gpu": 8}
    names = (
        "gpus",
        "gpu",
        "gpus_per_node",
        "stage",
        "output",
        "time",
        "partition",
        "account",
        "cpus_per_gpu",
    )
    for name in (*names, "environment"):
        value = getattr(args, name)
        if value is not None and value != defaults.get(name):
            words += [f"--{name.replace('_', '-')}", str(value)]
    for pair in args.set:
        words += ["--set", pair]
    return words


def _option(pair: str) -> list[str]:
    key, _, value = pair.partition("=")
    return [f"--{key}", value]
