"""What the quickstart shows at its end: report.json, prompts.jsonl, heatmap.png and report.html."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultralong_hf.lengths import format_length

if TYPE_CHECKING:
    from ultralong_hf.lab.quickstart import SeedRun

SIDES = ("before", "after")
Cells = list[dict[str, Any]]


def write_report(output_dir: Path, runs: Sequence[SeedRun]) -> dict[str, Any]:
    """Writes the four files, report.json last; returns what that holds. Seeds are pooled."""
    from ultralong_hf.evaluation import before_after_heatmap, write_html_report
    from ultralong_hf.evaluation.ledger import write_json, write_lines

    results = {side: [run.results(side) for run in runs] for side in SIDES}
    window = max(cell["length"] for cell in results["after"][0]["cells"])
    report: dict[str, Any] = {
        "recall": {side: pool_cells([one["cells"] for one in results[side]]) for side in SIDES},
        "perplexity": {side: pool_perplexity([one["perplexity"] for one in results[side]]) for side in SIDES},
        "seconds": {
            stage: round(sum(r.seconds.get(stage, 0.0) for r in runs), 1) for stage in runs[-1].seconds
        },
        "peak_rss_bytes": peak_rss_bytes(),
        "model": str(runs[0].model),
        "seeds": [run.seed for run in runs],
    }
    write_lines(output_dir / "prompts.jsonl", merged_prompts(runs))
    before_after_heatmap(
        report["recall"]["before"],
        report["recall"]["after"],
        output_dir / "heatmap.png",
        titles=("Before: the base model", f"After: extended to {format_length(window)}"),
    )
    write_html_report(output_dir / "report.html", "UltraLong quickstart", _sections(report, window))
    write_json(output_dir / "report.json", report)
    return report


def pool_cells(runs: Sequence[Cells]) -> Cells:
    """Cells of several seeds as one: hits and samples of each are added, the interval is new."""
    from ultralong_hf.evaluation.intervals import wilson_interval

    pooled = []
    for same in zip(*runs, strict=True):
        hits, samples = sum(cell["hits"] for cell in same), sum(cell["samples"] for cell in same)
        low, high = wilson_interval(hits, samples)
        pooled.append(
            {**same[0], "hits": hits, "samples": samples, "low": round(low, 6), "high": round(high, 6)}
        )
    return pooled


def pool_perplexity(runs: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Buckets of several seeds as one: the mean loss, weighted by tokens, and its perplexity."""
    pooled = []
    for same in zip(*runs, strict=True):
        tokens = sum(bucket["tokens"] for bucket in same)
        loss = sum(bucket["loss"] * bucket["tokens"] for bucket in same) / tokens
        pooled.append({**same[0], "loss": loss, "value": math.exp(loss), "tokens": tokens})
    return pooled


def recall_by_length(cells: Iterable[Mapping[str, Any]]) -> dict[int, float]:
    """Length -> share found, all depths together."""
    totals: dict[int, list[int]] = {}
    for cell in cells:
        total = totals.setdefault(cell["length"], [0, 0])
        total[0] += cell["hits"]
        total[1] += cell["samples"]
    return {length: hits / samples for length, (hits, samples) in sorted(totals.items())}


def perplexity_beyond(buckets: Iterable[Mapping[str, Any]], position: int) -> float:
    """Perplexity of all tokens in the buckets that begin at `position` or after it."""
    beyond = [bucket for bucket in buckets if bucket["from"] >= position]
    tokens = sum(bucket["tokens"] for bucket in beyond)
    return math.exp(sum(bucket["loss"] * bucket["tokens"] for bucket in beyond) / tokens)


def merged_prompts(runs: Sequence[SeedRun]) -> Iterator[dict[str, Any]]:
    """Each prompt once, with the answer before and after; both sides were asked the same prompts."""
    for run in runs:
        before, after = (_lines(run.evaluations[side] / "prompts.jsonl") for side in SIDES)
        answers = {_place(record): record for record in before}
        for record in after:
            earlier = answers[_place(record)]
            assert earlier["prompt"] == record["prompt"], "the two sides were asked different prompts"
            yield {
                "seed": run.seed,
                **{
                    key: record[key]
                    for key in ("task", "length", "depth", "sample", "prompt_tokens", "prompt")
                },
                "expected": record["expected"],
                "before": earlier["answer"],
                "after": record["answer"],
                "hit_before": earlier["hit"],
                "hit_after": record["hit"],
            }


def summary(report: Mapping[str, Any], base_window: int) -> str:
    """The short table for the terminal: recall by length, perplexity beyond the base's window."""
    sides = {side: recall_by_length(report["recall"][side]) for side in SIDES}
    rows = [("tokens", "found before", "found after")]
    rows += [
        (format_length(length), f"{sides['before'][length]:.1%}", f"{share:.1%}")
        for length, share in sides["after"].items()
    ]
    lines = ["  ".join(f"{value:>14}" for value in row) for row in rows]
    before, after = (perplexity_beyond(report["perplexity"][side], base_window) for side in SIDES)
    lines.append(f"perplexity beyond position {base_window}: {before:.1f} before, {after:.1f} after")
    return "\n".join(lines)


def peak_rss_bytes() -> int:
    """The most memory that this process has held, bytes."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _sections(report: Mapping[str, Any], window: int) -> list[Any]:
    from ultralong_hf.evaluation.heatmap import heatmap_figure
    from ultralong_hf.evaluation.report import Table, perplexity_figure

    sides = {side: recall_by_length(report["recall"][side]) for side in SIDES}
    lengths = [
        (length, f"{sides['before'][length]:.1%}", f"{share:.1%}") for length, share in sides["after"].items()
    ]
    return [
        (
            "Facts found, by depth and length",
            [
                "A fact is hidden at a depth of a real document that no stage was trained on, and asked for "
                "at its end. Each cell is the share of prompts whose answer holds the fact.",
                heatmap_figure(
                    [("before", report["recall"]["before"]), ("after", report["recall"]["after"])]
                ),
                Table(("tokens", "found before", "found after"), lengths),
            ],
        ),
        (
            "Perplexity by position, on real documents that were held out",
            [perplexity_figure([(side, report["perplexity"][side]) for side in SIDES])],
        ),
        (
            "The run",
            [
                Table(("stage", "seconds"), list(report["seconds"].items())),
                f"Seeds {', '.join(map(str, report['seeds']))}; peak memory "
                f"{report['peak_rss_bytes'] / 2**20:,.0f} MiB; the model, which reads "
                f"{format_length(window)} tokens, is in {report['model']}.",
            ],
        ),
    ]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def _place(record: Mapping[str, Any]) -> tuple[str, int, float, int]:
    return record["task"], record["length"], record["depth"], record["sample"]
