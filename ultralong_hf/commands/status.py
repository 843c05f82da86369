"""`ultralong status`: how far each stage of a run is."""

from __future__ import annotations

import argparse
import json

EXAMPLE = """\
example: ultralong status outputs/lab
         ultralong status my-1m.yaml --json

The states: done; running; interrupted, with the step or prompt that it goes on from; stale: made with other
inputs, which are named; damaged: a file of the output is missing or changed; waiting."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `ultralong status`."""
    parser.epilog = EXAMPLE
    parser.add_argument("what", metavar="RUN|RECIPE", help="the folder of a run, or the recipe that it is of")
    parser.add_argument(
        "--output", metavar="DIR", help="of a recipe, where its run is (default: outputs/NAME)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Prints the table; status 0 whether all is done or not. Raises RunError and RecipeError."""
    from ultralong_hf.pipeline.run import find_run
    from ultralong_hf.pipeline.showing import run_facts, status_table
    from ultralong_hf.pipeline.states import survey

    found = find_run(args.what, args.output)
    states = survey(found)
    print(json.dumps(run_facts(found, states), indent=2) if args.json else status_table(found, states))
    return 0
