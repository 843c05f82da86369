"""`ultralong eval report RUN [RUN ...]`: finished runs of one or several models in one report."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ultralong_hf.errors import EvaluationError

EXAMPLE = (
    "example: ultralong eval report outputs/base outputs/extended --names base,1M --output outputs/report"
)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options that follow `ultralong eval report`."""
    parser = argparse.ArgumentParser(
        prog="ultralong eval report",
        description="run folders of `ultralong eval` -> one page, Markdown, JSON and model-card metadata; "
        "the first model is what the others are held to",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "runs",
        nargs="+",
        metavar="RUN",
        help="output folder of `ultralong eval`; those of one model are joined",
    )
    add("--output", metavar="DIR", help="folder of the report (default: report in the first RUN)")
    add("--names", metavar="A,B", help="what to call the models, in the order of their first runs")
    add("--card", metavar="FILE", help="model card (README.md) that gets the results of the last model")
    add("--json", action="store_true", help="print comparison.json")
    return parser.parse_args(arguments)


def run(arguments: list[str]) -> int:
    """Writes the report; raises EvaluationError on bad input."""
    args = parse(arguments)
    from ultralong_hf.evaluation.reporting import write_comparison
    from ultralong_hf.evaluation.reporting.model_index import update_card
    from ultralong_hf.evaluation.reporting.models import read_models

    names = [name.strip() for name in args.names.split(",")] if args.names else None
    if names is not None and not all(names):
        raise EvaluationError(f"--names {args.names!r} holds an empty name.")
    output = Path(args.output) if args.output else Path(args.runs[0]) / "report"
    content = write_comparison(args.runs, output, names=names)
    if args.json:
        print(json.dumps(content, indent=1))
    else:
        print((output / "report.md").read_text(encoding="utf-8"), end="")
    print(f"written to {output}: report.html, report.md, comparison.json, model-index", file=sys.stderr)
    if args.card:
        print(
            f"results put into {update_card(args.card, read_models(args.runs, names)[-1])}", file=sys.stderr
        )
    return 0
