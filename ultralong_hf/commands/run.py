"""`ultralong run`: a recipe from documents to a checked release folder, as one command that resumes."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from functools import partial
from typing import TYPE_CHECKING

from ultralong_hf.commands.launch_config import add_slurm_options, slurm_settings

if TYPE_CHECKING:
    from ultralong_hf.pipeline.run import Run

EXAMPLE = """\
example: ultralong run lab                                   (documents to release, minutes on 2 cores)
         ultralong run my-1m.yaml --dry-run                  (stages, plan and disk need; nothing is done)
         ultralong run my-1m.yaml --launch "accelerate launch --num_processes 8"
         ultralong run my-1m.yaml --gpus 32 --slurm jobs && bash jobs/submit.sh
         ultralong run lab --output outputs/short --data.target_length 2K --skip evaluate-cpt

A stage is skipped when its output is whole and its inputs are as they were. After an interruption run the
same command again, or `ultralong run DIR`: every stage goes on where it was. Any key of the recipe can be
changed: --cpt.learning_rate 1e-5. `ultralong status` shows how far a run is."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `ultralong run`."""
    parser.epilog = EXAMPLE
    add = parser.add_argument
    add(
        "recipe", metavar="RECIPE|RUN", help="a preset, a recipe's YAML file, or a run's folder to go on with"
    )
    add("--output", metavar="DIR", help="folder for all of it (default: outputs/NAME, and the recipe's own)")
    add(
        "--only",
        nargs="+",
        default=[],
        metavar="STAGE",
        help="do these stages alone; what they need is there",
    )
    add("--skip", nargs="+", default=[], metavar="STAGE", help="leave these stages out of the run")
    add("--preference", metavar="STAGE", help="a stage after sft: preference (DPO), orpo or grpo")
    add("--name", metavar="NAME", help="of the release (default: the original's, with the window)")
    add("--launch", metavar="COMMAND", help='of stages that train (default: "accelerate launch")')
    add("--confirm-requests", action="store_true", help="send the requests of instruct.rewrite, which cost")
    add("--dry-run", action="store_true", help="print stages, plan and disk need, and do nothing")
    add("--json", action="store_true", help="print the state of all stages as one JSON object at the end")
    planned = parser.add_argument_group("of the plan (--dry-run, --slurm)")
    planned.add_argument("--gpus", type=int, metavar="N", help="in all (default: the least that fit)")
    planned.add_argument("--gpu", default="h100-80g", metavar="NAME", help="as for ultralong plan")
    planned.add_argument(
        "--gpus-per-node", type=int, metavar="N", help="default: as that GPU is usually built"
    )

    slurm = parser.add_argument_group("of batch jobs")
    slurm.add_argument(
        "--slurm", metavar="DIR", help="write the stages as a chain of SLURM jobs, run nothing"
    )
    add_slurm_options(slurm)


def run(args: argparse.Namespace) -> int:
    """Runs what is left. Raises RunError, RecipeError and StageFailed."""
    # Read when torch loads. Threads that wait by spinning make a busy machine of 2 cores four times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from ultralong_hf.pipeline.run import open_run

    opened = open_run(
        args.recipe,
        output_dir=args.output,
        overrides=args.overrides,
        preference=args.preference,
        skip=args.skip,
        name=args.name,
    )
    if args.dry_run:
        return _dry_run(args, opened)
    if args.slurm:
        return _write_jobs(args, opened)
    from ultralong_hf.pipeline.running import run_pipeline
    from ultralong_hf.pipeline.showing import run_facts, status_table

    states = run_pipeline(
        opened,
        only=args.only,
        launch=shlex.split(args.launch) if args.launch else None,
        confirm_requests=args.confirm_requests,
        say=partial(print, file=sys.stderr if args.json else sys.stdout, flush=True),
    )
    print(
        json.dumps(run_facts(opened, states), indent=2) if args.json else f"\n{status_table(opened, states)}"
    )
    return 0


def _dry_run(args: argparse.Namespace, opened: Run) -> int:
    from ultralong_hf.pipeline.dry_run import dry_run_text, look_ahead

    found = look_ahead(opened, gpus=args.gpus, gpu=args.gpu, gpus_per_node=args.gpus_per_node)
    print(json.dumps(found.to_dict(), indent=2) if args.json else dry_run_text(found))
    return 0


def _write_jobs(args: argparse.Namespace, opened: Run) -> int:
    """Binds the folder to the run, as its jobs find it there, and writes their scripts."""
    from ultralong_hf.pipeline.dry_run import plan_stages
    from ultralong_hf.pipeline.run import locked
    from ultralong_hf.pipeline.slurm import write_chain

    notes: list[str] = []
    plans = plan_stages(opened, notes, gpus=args.gpus, gpu=args.gpu, gpus_per_node=args.gpus_per_node)
    for note in notes:
        print(f"warning: {note}", file=sys.stderr)
    for name, found in plans.items():
        if not found.fits:
            print(f"warning: {name} does not fit as planned: see --dry-run.", file=sys.stderr)
    with locked(opened):
        opened.write()
        files = write_chain(
            opened,
            args.slurm,
            plans,
            slurm=slurm_settings(args),
            command=shlex.join(["ultralong", *args.words]),
        )
    if args.json:
        print(
            json.dumps({"run": str(opened.folder), "submit": str(files[0]), "files": list(map(str, files))})
        )
    else:
        print("\n".join(map(str, files)))
        print(f"submit them with: bash {files[0]}")
    return 0
