"""A benchmark's part of the report: curves, heat maps, tables by task and length."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from ultralong_hf.evaluation.heatmap import draw_heatmap, heatmap_figure
from ultralong_hf.evaluation.pages import Block, Drawing, Table
from ultralong_hf.evaluation.report import count_cells
from ultralong_hf.evaluation.reporting.cells import interval, length_text, percent, percent_of, title_of
from ultralong_hf.evaluation.reporting.figures import curves_figure, draw_curves, family_curve
from ultralong_hf.evaluation.reporting.models import FAMILY_TITLES, WITHOUT_MEAN, ModelResults, Score
from ultralong_hf.evaluation.reporting.standing import RULER_THRESHOLD, ruler_standing


def family_blocks(models: Sequence[ModelResults], family: str) -> list[Block]:
    title = FAMILY_TITLES.get(family, family)
    there = [model for model in models if model.tasks_of(family)]
    line = 100 * RULER_THRESHOLD if family == "ruler" else None
    blocks: list[Block] = []
    lengths = {n for model in there for task in model.tasks_of(family) for n in model.lengths(task)}
    if family in WITHOUT_MEAN:
        return _rate_blocks(there, family)
    if family != "infinitebench" and len(lengths) > 1:
        curves = [family_curve(model, family) for model in there]
        blocks.append(
            Drawing(
                f"{family}-by-length",
                f"{title} by length",
                curves_figure(curves, title, line),
                partial(draw_curves, curves, title, line_at=line),
            )
        )
    for task in dict.fromkeys(task for model in there for task in model.tasks_of(family)):
        if any(task in model.grids() for model in there):
            blocks.append(_heat_map(there, task))
    for model in there:
        blocks.append(_by_task(model, family, several=len(models) > 1))
    if family == "ruler":
        blocks += [_ruler_table(there)]
    return blocks


def _rate_blocks(models: Sequence[ModelResults], family: str) -> list[Block]:
    """A table a task, a row a model: nothing is averaged over the tasks."""
    blocks: list[Block] = []
    for task in dict.fromkeys(task for model in models for task in model.tasks_of(family)):
        there = [model for model in models if task in model.records]
        lengths = sorted({length for model in there for length in model.lengths(task)})
        rows = [(model.name, *(_rate(model.score(task, length)) for length in lengths)) for model in there]
        caption = f"{title_of(task)}: percent by length, 95 % interval, prompts"
        blocks.append(Table(("model", *map(length_text, lengths)), rows, caption=caption))
    return blocks


def _rate(score: Score | None) -> str:
    return "-" if score is None else f"{percent(score.mean)} ({interval(score)}), {score.samples:,}"


def _heat_map(models: Sequence[ModelResults], task: str) -> Drawing:
    panels: list[tuple[str, list[dict[str, Any]]]] = []
    for model in models:
        records = [
            {**record, "hit": record["score"] == 1}
            for cell in model.records[task].values()
            for record in cell
        ]
        panels.append((model.name, count_cells(records, model.window)))
    return Drawing(
        f"{task.replace('/', '-')}-by-depth",
        f"{task}: found by depth and length",
        heatmap_figure(panels),
        partial(_draw_heat_map, panels),
    )


def _draw_heat_map(panels: Any, path: Any) -> Any:
    return draw_heatmap(panels, path)


def _by_task(model: ModelResults, family: str, *, several: bool) -> Table:
    """A family's scores by length; InfiniteBench's tasks have a length each."""
    if family == "infinitebench":
        return _infinitebench_table(model)
    tasks = model.tasks_of(family)
    lengths = sorted({length for task in tasks for length in model.lengths(task)})
    beyond = [length for length in lengths if model.window is not None and length > model.window]
    marks = [f"{length_text(length)}{' >' if length in beyond else ''}" for length in lengths]
    rows: list[tuple[str, ...]] = []
    if len(tasks) > 1:
        rows += [
            (title_of(task), *(percent_of(model.score(task, length)) for length in lengths)) for task in tasks
        ]
    points = family_curve(model, family).points
    name = "mean of the tasks" if len(tasks) > 1 else "found" if tasks[0] in model.grids() else "score"
    rows.append((name, *(percent(points[length].mean) for length in lengths)))
    rows.append(("95 % interval", *(interval(points[length]) for length in lengths)))
    rows.append(("prompts", *(f"{points[length].samples:,}" for length in lengths)))
    caption = (f"{model.name}: " if several else "") + "percent by length"
    return Table(
        ("task", *marks), rows, caption=caption + ("; > beyond the model's window" if beyond else "")
    )


def _infinitebench_table(model: ModelResults) -> Table:
    rows: list[tuple[str | int | float, ...]] = [
        (title_of(task), length, score.samples, percent(score.mean), interval(score))
        for task in model.tasks_of("infinitebench")
        for length in model.lengths(task)
        if (score := model.score(task, length)) is not None
    ]
    rows.append(("mean of the tasks", "", "", percent(model.family_mean("infinitebench")), ""))
    columns = ("task", "mean input tokens", "prompts", "score", "95 % interval")
    return Table(columns, rows, caption=f"{model.name}: percent")


def _ruler_table(models: Sequence[ModelResults]) -> Table:
    rows = []
    for model in models:
        standing = ruler_standing(model)
        if standing is None:
            continue
        rows.append(
            (
                model.name,
                standing.effective,
                percent(standing.average),
                percent(standing.increasing),
                percent(standing.decreasing),
            )
        )
    return Table(
        ("model", "effective length", "mean", "weighted, increasing", "weighted, decreasing"),
        rows,
        caption=f"RULER's summary; a length is effective where the mean is above {100 * RULER_THRESHOLD:g} %",
    )
