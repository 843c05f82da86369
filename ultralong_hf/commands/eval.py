"""`ultralong eval`: needle grids, RULER and other benchmarks, loss by position; any prompt shown."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.tasks import FAMILIES
from ultralong_hf.lengths import parse_length

DEFAULT_LENGTHS = "1K,2K,4K"
DEFAULT_COUNT = 8
PRESETS = ("paper",)
EXAMPLE = """\
example: ultralong eval needle outputs/quickstart/model --lengths 1K,2K,4K --output outputs/needle
         ultralong eval passkey MODEL --preset paper --max-length 1M --output outputs/passkey-1m
         ultralong eval ruler,needle MODEL --lengths 128K --engine http://127.0.0.1:8000/v1
         ultralong eval ruler/vt MODEL --lengths 4K --show 3
runs as one report: ultralong eval report RUN [RUN ...] (see ultralong eval report --help)"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `ultralong eval`."""
    parser.epilog = EXAMPLE
    add = parser.add_argument
    add("task", metavar="TASK", help=f"one, or several with commas: {', '.join(FAMILIES)}; or as ruler/vt")
    add("model", metavar="MODEL", help="model folder or hub id")
    add(
        "--lengths",
        help=f"lengths in tokens, such as 1K,2K,4K; 0 beside others: the shortest prompt "
        f"(default: {DEFAULT_LENGTHS})",
    )
    add("--max-length", help="the longest of --count evenly spaced lengths, such as 1M")
    add("--count", type=int, help=f"how many lengths up to --max-length (default: {DEFAULT_COUNT})")
    add("--depths", help="where the needle stands, percent of the text (default: 0,25,50,75,100)")
    add(
        "--samples",
        type=int,
        help="prompts a cell, or rows for perplexity (default: 20; paper: 1)",
    )
    add("--preset", metavar="paper", help="the paper's grid: 40 lengths from 0 to --max-length, 10 depths")
    add(
        "--haystack",
        metavar="PATH",
        help="text file or folder of them (default: documents of the lab)",
    )
    add("--data", metavar="DIR", help="folder with benchmarks' official files (default: from the hub)")
    add("--include-path", metavar="DIR", help="standard side: lm-eval task files of your own")
    add("--allow-code-execution", action="store_true", help="standard side: run the model's code (HumanEval)")
    add("--baseline", metavar="MODEL_OR_RUN", help="standard side: the original, for the retention")
    add("--seed", type=int, default=0, help="the same seed gives the same prompts (default: 0)")
    add(
        "--prompt",
        default="auto",
        metavar="STYLE",
        help="chat, plain, or auto: chat if there is a template",
    )
    add("--beyond-window", action="store_true", help="measure lengths beyond the model's window too")
    add("--show", type=int, metavar="N", help="print the Nth prompt, exactly, and run no model")
    add("--cache", metavar="DIR", help="answers by content, of any engine (default: the user's cache folder)")
    add("--no-cache", action="store_true", help="ask every prompt anew")
    add(
        "--engine",
        default="transformers",
        metavar="ENGINE",
        help="transformers, or the URL of an OpenAI-compatible server; MODEL then gives the tokenizer",
    )
    add("--engine-model", metavar="NAME", help="the model's name at the server (default: its only one)")
    add("--concurrency", type=int, help="requests to the server at a time (default: 8)")
    add("--timeout", type=float, metavar="SECONDS", help="for an answer of the server (default: 1800)")
    add("--batch-size", default="auto", help="prompts at a time (default: what the memory holds)")
    add(
        "--prefill-chunk-size",
        type=int,
        metavar="TOKENS",
        help="tokens a forward pass of the prompt",
    )
    add("--kv-cache", default="model", help="model, offloaded (to the host), fp8 or int4 (default: model)")
    add("--device", help="cuda:0, cpu, or auto: all GPUs (default: the first GPU, else the CPU)")
    add("--dtype", default="auto", help="such as bfloat16 (default: as the weights are stored)")
    add("--output", metavar="DIR", help="folder for prompts, cells and pictures; a stopped run goes on there")
    add("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Evaluates and prints the report; raises EvaluationError and ModelError on bad input."""
    if args.cache and args.no_cache:
        raise EvaluationError("--cache excludes --no-cache: give one or the other.")
    options: dict[str, Any] = {
        **_grid(args),
        "seed": args.seed,
        "prompt": args.prompt,
        "haystack": args.haystack,
        "data_dir": args.data,
        "cache": args.cache or not args.no_cache,
        "beyond_window": args.beyond_window,
    }
    if args.show is not None:
        return _show(args, options)
    from ultralong_hf.evaluation.running import evaluate

    report = evaluate(
        args.model,
        _task_names(args),
        engine=args.engine,
        engine_model=args.engine_model,
        concurrency=args.concurrency,
        timeout=args.timeout,
        output_dir=args.output,
        include_path=args.include_path,
        allow_code_execution=args.allow_code_execution,
        baseline=args.baseline,
        batch_size=args.batch_size if args.batch_size == "auto" else _whole_number(args.batch_size),
        prefill_chunk_size=args.prefill_chunk_size,
        kv_cache=args.kv_cache,
        device=args.device,
        dtype=args.dtype,
        **options,
    )
    if args.json:
        print(json.dumps(report.to_dict(), indent=1))
    else:
        print(report.table())
    if args.output:
        print(f"written to {args.output}: report.html, report.json, prompts.jsonl", file=sys.stderr)
    return 0


def _show(args: argparse.Namespace, options: dict[str, Any]) -> int:
    from ultralong_hf.evaluation.showing import describe_sample, show_sample

    sample, text = show_sample(args.model, _task_names(args), args.show, **options)
    if args.json:
        shown = {
            name: getattr(sample, name)
            for name in ("task", "length", "depth", "sample", "references", "max_new_tokens", "notes")
        }
        print(json.dumps(shown | {"prompt_tokens": len(sample.ids), "prompt": text}, ensure_ascii=False))
    else:
        print(f"{describe_sample(sample)}\n\n{text}")
    return 0


def _grid(args: argparse.Namespace) -> dict[str, Any]:
    """lengths, depths and samples of the options. Raises EvaluationError where they contradict each other."""
    from ultralong_hf.evaluation.arguments import DEFAULT_DEPTHS
    from ultralong_hf.evaluation.needle import PAPER_DEPTHS, even_lengths, paper_lengths
    from ultralong_hf.evaluation.tasks import check_names, fill_lengths

    if args.preset not in (None, *PRESETS):
        raise EvaluationError(f"{args.preset!r} is no preset. There is: paper.")
    if args.lengths and (args.max_length or args.preset):
        raise EvaluationError("--lengths excludes --max-length and --preset: give one or the other.")
    if args.count is not None and (args.preset or not args.max_length):
        raise EvaluationError("--count goes with --max-length, and without --preset.")
    if args.preset:
        if not args.max_length:
            raise EvaluationError("--preset paper needs --max-length, the longest of its 40 lengths.")
        depths = _depths(args.depths) if args.depths else list(PAPER_DEPTHS)
        lengths = paper_lengths(parse_length(args.max_length))
        return {"lengths": lengths, "depths": depths, "samples": args.samples or 1, "clamp_short": True}
    depths = _depths(args.depths) if args.depths else list(DEFAULT_DEPTHS)
    if args.max_length:
        count = DEFAULT_COUNT if args.count is None else args.count
        if count < 1:
            raise EvaluationError(f"--count {count} must be at least 1.")
        lengths = even_lengths(parse_length(args.max_length), count)
    elif args.lengths or fill_lengths(check_names(_task_names(args))):
        lengths = [
            0 if length.strip() == "0" else parse_length(length)
            for length in (args.lengths or DEFAULT_LENGTHS).split(",")
        ]
    else:
        lengths = []
    return {"lengths": lengths, "depths": depths, "samples": args.samples}


def _task_names(args: argparse.Namespace) -> list[str]:
    return [task.strip() for task in args.task.split(",")]


def _depths(text: str) -> list[float]:
    try:
        return [float(depth) for depth in text.split(",")]
    except ValueError as error:
        raise EvaluationError(f"--depths {text!r} are no numbers: write percents like 0,50,100.") from error


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise EvaluationError(f"--batch-size {text!r} is neither 'auto' nor a whole number.") from error
