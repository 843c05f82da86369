"""`ultralong lab`: the quickstart, and the making of the lab's corpus, tokenizer and base model."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from ultralong_hf.errors import InputError


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example: ultralong lab quickstart --seeds 3"
    jobs = parser.add_subparsers(dest="job", metavar="JOB", required=True)

    quickstart = jobs.add_parser("quickstart", help="the whole recipe, 256 -> 4,096 tokens, with a report")
    quickstart.add_argument("--output", default="outputs/quickstart", help="folder (default: %(default)s)")
    quickstart.add_argument("--seeds", type=int, default=1, help="how many seeds to run (default: 1)")
    quickstart.add_argument("--recipe", default="lab", help="preset or YAML file (default: lab)")
    quickstart.add_argument("--json", action="store_true", help="print report.json at the end")

    train = jobs.add_parser("train", help="make tokenizer and base model from nothing")
    train.add_argument("--output", required=True, help="folder that is not there yet")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--json", action="store_true", help="print the training log")

    corpus = jobs.add_parser("corpus", help="write the documents that the lab's CPT trains on, as JSON Lines")
    corpus.add_argument("--output", required=True, help="file, such as documents.jsonl")
    corpus.add_argument("--target-length", default="4K", help="tokens in a row (default: 4K)")
    corpus.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> int:
    return {"quickstart": _quickstart, "train": _train, "corpus": _corpus}[args.job](args)


def _quickstart(args: argparse.Namespace) -> int:
    # Read when torch loads. Threads that wait by spinning make a busy machine of 2 cores four times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from ultralong_hf.lab.base import WINDOW
    from ultralong_hf.lab.quickstart import run_quickstart
    from ultralong_hf.lab.report import summary

    if args.seeds < 1:
        raise InputError(f"--seeds {args.seeds}: at least one seed is run.")
    report = run_quickstart(args.output, seeds=range(args.seeds), recipe=args.recipe)
    if args.json:
        print(json.dumps(report))
        return 0
    print(f"\n{summary(report, WINDOW)}")
    print(
        f"Report: {Path(args.output) / 'report.html'}. Next: ultralong eval needle {report['model']} "
        "--lengths 1K,4K --haystack FOLDER_OF_YOUR_TEXT"
    )
    return 0


def _train(args: argparse.Namespace) -> int:
    from ultralong_hf.lab import train_base

    log = train_base(args.output, seed=args.seed)
    if args.json:
        print(json.dumps(log))
    else:
        recall = ", ".join(f"{share:.1%} at {length}" for length, share in log["recall"].items())
        print(
            f"{args.output}: {log['parameters']:,} parameters, {log['seconds']:.0f} s; recall {recall} tokens"
        )
    return 0


def _corpus(args: argparse.Namespace) -> int:
    from ultralong_hf.lab.corpus import training_documents
    from ultralong_hf.lengths import parse_length

    output = Path(args.output)
    partial = output.with_name(f".{output.name}.partial")
    documents = list(training_documents(parse_length(args.target_length), args.seed))
    output.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in documents)
    partial.replace(output)
    print(f"{output}: {len(documents):,} documents")
    return 0
