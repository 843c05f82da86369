"""What an ablation found: tables as text, Markdown and JSON, pictures, and one page."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ultralong_hf.ablation.arms import Setting, Study
from ultralong_hf.ablation.comparing import Comparison, Metric, Results, compare, metrics_of
from ultralong_hf.evaluation.differences import Difference
from ultralong_hf.evaluation.ledger import write_json
from ultralong_hf.evaluation.published import ABLATIONS, SOURCE

REPORT = "report.json"
READING = (
    "Every arm trains on equally many tokens and updates, with a seed's rows in the same order. After its "
    "mean comes the difference, arm minus base, prompt by prompt; in brackets its 95 % bootstrap interval "
    "over seeds and prompts; then on how many seeds the arm lies above and below the base. Recall and other "
    "scores are in percent, losses in nats a token."
)
FEWEST_SEEDS = 5
TOO_FEW_SEEDS = (
    f"With fewer than {FEWEST_SEEDS} seeds no bootstrap is wide enough: its bounds are then the extremes of "
    "the seeds, not 95 %."
)
PAPER_NOTE = (
    f"The paper's columns ({SOURCE}, second-hand, at 1M tokens on an 8B model, probably before SFT) are "
    "RULER up to 1M and InfiniteBench, percent: another model, another task and other lengths, so only the "
    "direction of a difference can be compared."
)


@dataclass(frozen=True)
class StudyOutcome:
    """One study with what each of its arms came to."""

    study: Study
    comparisons: list[Comparison]
    metrics: list[Metric]

    @property
    def headlines(self) -> list[Metric]:
        return [metric for metric in self.metrics if metric.is_headline]

    def find(self, arm: str, metric: str) -> Comparison | None:
        return next((c for c in self.comparisons if (c.arm, c.metric) == (arm, metric)), None)


@dataclass(frozen=True)
class AblationReport:
    """All studies of a run."""

    outcomes: list[StudyOutcome]
    seeds: list[int]
    results: Results
    recipe: str
    present_window: int

    @classmethod
    def of(
        cls, studies: Sequence[Study], seeds: Sequence[int], results: Results, setting: Setting
    ) -> AblationReport:
        """The report of finished results, by (arm, seed)."""
        outcomes = []
        for study in studies:
            metrics: dict[str, Metric] = {}
            for arm in study.all_arms:
                for metric in metrics_of(results[arm.key, seeds[0]], setting.present_window):
                    metrics.setdefault(metric.name, metric)
            found = compare(study, seeds, results, setting.present_window)
            outcomes.append(StudyOutcome(study, found, list(metrics.values())))
        return cls(outcomes, list(seeds), results, setting.recipe.origin, setting.present_window)

    @property
    def cpu_seconds(self) -> float:
        """Of training and measuring, all cores together, when each arm was run."""
        return sum(result["cpu_seconds"] for result in self.results.values())

    @property
    def reading(self) -> str:
        """How the tables are to be read; with few seeds, what their intervals are not."""
        if len(self.seeds) >= FEWEST_SEEDS:
            return READING
        return f"{READING} {TOO_FEW_SEEDS}"

    @property
    def summary(self) -> str:
        """What was run, in a sentence."""
        arms = len({arm for arm, _ in self.results})
        tokens = max(result["tokens"] for result in self.results.values())
        return (
            f"{arms} arms, seeds {', '.join(map(str, self.seeds))}, up to {tokens:,} training tokens each; "
            f"{self.cpu_seconds:,.0f} s of CPU time in all."
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe,
            "seeds": self.seeds,
            "cpu_seconds": round(self.cpu_seconds, 1),
            "studies": [
                {
                    "study": outcome.study.name,
                    "question": outcome.study.question,
                    "base": outcome.study.base.key if outcome.study.paired else None,
                    "arms": [
                        {"arm": arm.key, "title": arm.title, "published": _published(arm.key)}
                        for arm in outcome.study.all_arms
                    ],
                    "comparisons": [comparison.to_dict() for comparison in outcome.comparisons],
                }
                for outcome in self.outcomes
            ],
        }

    def markdown(self) -> str:
        """Headlines of every study as tables, with the paper's figures beside."""
        blocks = [f"# Ablations of {self.recipe}", self.summary, self.reading]
        for outcome in self.outcomes:
            blocks.append(f"## {outcome.study.name}: {outcome.study.question}")
            blocks.append(_markdown_table(*table_of(outcome, outcome.headlines)))
        if any(has_published(outcome.study) for outcome in self.outcomes):
            blocks.append(PAPER_NOTE)
        return "\n\n".join(blocks) + "\n"

    def table(self) -> str:
        """The headline tables for a terminal."""
        blocks = []
        for outcome in self.outcomes:
            columns, rows = table_of(outcome, outcome.headlines)
            blocks.append(f"{outcome.study.name}: {outcome.study.question}\n{_text_table(columns, rows)}")
        few = [TOO_FEW_SEEDS] if len(self.seeds) < FEWEST_SEEDS else []
        return "\n\n".join([*blocks, self.summary, *few])

    def save(self, output_dir: str | Path) -> Path:
        """Writes pictures, runs.csv, report.md, report.html, and report.json last."""
        from ultralong_hf.ablation.figures import draw_study
        from ultralong_hf.ablation.page import write_page

        folder = Path(output_dir)
        for outcome in self.outcomes:
            draw_study(outcome, self, folder / f"{outcome.study.name}.png")
        _write_runs(folder / "runs.csv", self)
        partial = folder / "report.md.partial"
        partial.write_text(self.markdown(), encoding="utf-8")
        os.replace(partial, folder / "report.md")
        write_page(self, folder / "report.html")
        write_json(folder / REPORT, self.to_dict())
        return folder


def table_of(outcome: StudyOutcome, metrics: Sequence[Metric]) -> tuple[list[str], list[list[str]]]:
    """Column names, and a row an arm: mean, then difference, of each metric; then the paper's two figures."""
    published = has_published(outcome.study)
    columns = ["arm", *(metric.name for metric in metrics)]
    if published:
        columns += ["paper: RULER <1M", "paper: InfiniteBench"]
    rows = []
    for arm in outcome.study.all_arms:
        cells = [arm.title, *(_cell(metric, outcome.find(arm.key, metric.name)) for metric in metrics)]
        if published:
            cells += [_optional(figure) for figure in _published(arm.key) or (None, None)]
        rows.append(cells)
    return columns, rows


def has_published(study: Study) -> bool:
    """Whether the paper has figures of an arm other than the base."""
    return study.paired and any(arm.key in ABLATIONS for arm in study.arms)


def _published(arm: str) -> tuple[float, float | None] | None:
    figures = ABLATIONS.get(arm)
    return (figures.ruler, figures.infinitebench) if figures else None


def _optional(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def number(metric: Metric, value: float, *, signed: bool = False) -> str:
    """Scores in percent, losses in nats; `signed` for differences."""
    sign = "+" if signed else ""
    return f"{value:{sign}.3f}" if metric.task == "loss" else f"{100 * value:{sign}.1f}"


def interval(metric: Metric, difference: Difference) -> str:
    """ "[-1.2, +3.4]"; a dash where one number of one seed has none."""
    if math.isinf(difference.low):
        return "-"
    bounds = (number(metric, bound, signed=True) for bound in (difference.low, difference.high))
    return f"[{', '.join(bounds)}]"


def _cell(metric: Metric, comparison: Comparison | None) -> str:
    if comparison is None:
        return "-"
    text = number(metric, comparison.mean.value)
    if (d := comparison.difference) is not None:
        text += f"; {number(metric, d.value, signed=True)} {interval(metric, d)} {d.above}:{d.below}"
    return text


def _markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _text_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A line an arm and metric: wide tables do not fit a terminal."""
    lines = []
    for name, *cells in rows:
        lines.append(f"  {name}")
        width = max(map(len, columns[1:]))
        lines += [f"    {column:<{width}}  {cell}" for column, cell in zip(columns[1:], cells, strict=True)]
    return "\n".join(lines)


def _write_runs(path: Path, report: AblationReport) -> None:
    """A line an arm, seed, task and length, and one a bucket of the loss."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("arm", "seed", "tokens", "task", "length", "unit", "score", "weight", "cpu_seconds"))
        for (arm, seed), result in report.results.items():
            head = (arm, seed, result["tokens"])
            for s in result["scores"]:
                writer.writerow(
                    (*head, s["task"], s["length"], s["unit"], s["score"], s["weight"], result["cpu_seconds"])
                )
            for bucket in result["loss"]:
                writer.writerow(
                    (
                        *head,
                        "loss",
                        bucket["to"],
                        bucket["from"],
                        bucket["loss"],
                        bucket["tokens"],
                        result["cpu_seconds"],
                    )
                )
    os.replace(partial, path)
