"""The page of an ablation: every study with its curves, its tables and the paper's figures."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultralong_hf.ablation.comparing import Metric
from ultralong_hf.ablation.figures import COLOURS, curve_of, tasks_of
from ultralong_hf.ablation.report import (
    PAPER_NOTE,
    AblationReport,
    StudyOutcome,
    has_published,
    interval,
    number,
)
from ultralong_hf.evaluation.pages import Preformatted, Section, Table, write_html_report
from ultralong_hf.evaluation.published import ABLATIONS
from ultralong_hf.lengths import format_length

if TYPE_CHECKING:
    import plotly.graph_objects as go


def write_page(report: AblationReport, path: Path) -> Path:
    """Writes one self-contained page and returns its path."""
    sections: list[Section] = [("What was run", [report.summary, report.reading])]
    for outcome in report.outcomes:
        arm = outcome.study.all_arms[0]
        blocks: list[Any] = [curves_figure(report, outcome, task) for task in tasks_of(report, arm)]
        blocks += [metric_table(outcome, metric) for metric in outcome.headlines]
        blocks += [metric_table(outcome, metric) for metric in outcome.metrics if not metric.is_headline]
        if has_published(outcome.study):
            blocks += [published_table(outcome), PAPER_NOTE]
        sections.append((f"{outcome.study.name}: {outcome.study.question}", blocks))
    arms = {arm.key: arm for outcome in report.outcomes for arm in outcome.study.all_arms}
    changes = "\n".join(f"{key}: {list(map(dict, arm.stages))}" for key, arm in arms.items())
    sections.append(("What each arm changes of the recipe", [Preformatted(changes)]))
    return write_html_report(path, f"Ablations of {report.recipe}", sections)


def metric_table(outcome: StudyOutcome, metric: Metric) -> Table:
    """One metric: a row an arm."""
    rows = []
    for arm in outcome.study.all_arms:
        found = outcome.find(arm.key, metric.name)
        if found is None:
            continue
        row = [arm.title, number(metric, found.mean.value)]
        if (d := found.difference) is not None:
            row += [number(metric, d.value, signed=True), interval(metric, d), f"{d.above} : {d.below}"]
        else:
            row += ["", "", ""]
        rows.append((*row, " / ".join(number(metric, value) for value in found.by_seed)))
    columns = ("arm", "mean", "difference", "95 % interval", "seeds above : below", "by seed")
    unit = "nats a token, lower is better" if metric.task == "loss" else "percent"
    return Table(columns, rows, caption=f"{metric.name}: {unit}")


def published_table(outcome: StudyOutcome) -> Table:
    """The paper's figures of the same arms."""
    rows = [
        (
            arm.title,
            f"{known.ruler:.2f}",
            "-" if known.infinitebench is None else f"{known.infinitebench:.2f}",
            known.remark,
        )
        for arm in outcome.study.all_arms
        if (known := ABLATIONS.get(arm.key)) is not None
    ]
    return Table(
        ("arm", "RULER up to 1M", "InfiniteBench", ""),
        rows,
        caption="The paper's own figures: published, not ours",
    )


def curves_figure(report: AblationReport, outcome: StudyOutcome, task: str) -> go.Figure:
    """Score by length, a curve an arm, with intervals; hovering shows them."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for arm, colour in zip(outcome.study.all_arms, cycle(("#7a869a", *COLOURS[1:])), strict=False):
        points = curve_of(report, arm, task)
        figure.add_trace(
            go.Scatter(
                x=[format_length(length) for length, _ in points],
                y=[100 * mean.value for _, mean in points],
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [100 * mean.reach[1] for _, mean in points],
                    "arrayminus": [100 * mean.reach[0] for _, mean in points],
                    "thickness": 1.2,
                },
                customdata=[f"{100 * mean.low:.1f} to {100 * mean.high:.1f}" for _, mean in points],
                hovertemplate="%{x} tokens: %{y:.1f} %<br>95 % interval %{customdata}"
                "<extra>%{fullData.name}</extra>",
                mode="lines+markers",
                name=arm.title,
                line={"color": colour, "width": 2.5},
            )
        )
    figure.update_xaxes(title_text="length, tokens", type="category")
    figure.update_yaxes(title_text=f"{task}, %", range=[-3, 103])
    legend = {"orientation": "h", "yanchor": "top", "y": -0.2, "x": 0}
    figure.update_layout(height=430, margin={"l": 60, "r": 20, "t": 20, "b": 60}, legend=legend)
    return figure
