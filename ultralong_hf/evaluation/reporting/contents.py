"""What the report says, section by section; pages and Markdown are written from the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from ultralong_hf.evaluation.pages import Block, Callout, Drawing, Section, Table
from ultralong_hf.evaluation.report import perplexity_figure
from ultralong_hf.evaluation.reporting.against import against
from ultralong_hf.evaluation.reporting.cells import (
    how_asked,
    percent,
    place_of,
    shortened,
    title_of,
    with_error,
)
from ultralong_hf.evaluation.reporting.families import family_blocks
from ultralong_hf.evaluation.reporting.figures import draw_perplexities
from ultralong_hf.evaluation.reporting.models import (
    FAMILY_SIZES,
    FAMILY_TITLES,
    WITHOUT_MEAN,
    ModelResults,
    family_of,
)
from ultralong_hf.evaluation.reporting.pairing import setting_differences
from ultralong_hf.evaluation.reporting.standing import paper_table, ruler_standing
from ultralong_hf.lengths import format_length

NOT_COMPARABLE = (
    "None of these results compares with the paper's tables (arXiv 2504.06214): RULER and LV-Eval need all "
    "of their tasks at a length of the table (128K and above), InfiniteBench all 12 tasks, the standard side "
    "whole benchmarks."
)
INTERVALS = (
    "Intervals are of 95 %: Wilson's for shares of hits, Newcombe's for paired differences of hits, "
    "bootstrapped over prompts for other scores. They tell of the prompts' number, not of other seeds or "
    "another training."
)


def build_sections(models: Sequence[ModelResults]) -> list[Section]:
    """All sections that these models have something for; the first model is what the others are held to."""
    sections: list[Section] = []
    if warnings := list(_warnings(models)):
        sections.append(("Read this first", warnings))
    sections.append(("At a glance", [_glance(models), INTERVALS]))
    paper = paper_table(models)
    sections.append(("Beside the paper", [paper or NOT_COMPARABLE]))
    there = {family_of(task): None for model in models for task in model.records}
    families = sorted(there, key=lambda family: place_of(family))
    sections += [(FAMILY_TITLES.get(family, family), family_blocks(models, family)) for family in families]
    if standard := _standard(models):
        sections.append(("The standard side", standard))
    for other in models[1:]:
        sections += against(models[0], other)
    if any(model.perplexity for model in models):
        sections.append(("Perplexity by position", _perplexity(models)))
    sections.append(("What was run", [_runs(models)]))
    return sections


def _warnings(models: Sequence[ModelResults]) -> Iterator[Block]:
    for model in models:
        points = [*model.notes]
        for family in FAMILY_SIZES:
            if model.tasks_of(family) and (missing := model.missing_tasks(family)):
                points.append(
                    f"{FAMILY_TITLES[family]}: {missing} of {FAMILY_SIZES[family]} tasks were not measured, "
                    "so its means are not the benchmark's."
                )
        if points:
            yield Callout(model.name, points)
    differences = [note for other in models[1:] for note in setting_differences(models[0], other)]
    if differences:
        yield Callout("Not compared", differences)


def _glance(models: Sequence[ModelResults]) -> Table:
    """A row a model, its headlines."""
    columns: dict[str, list[str | int | float]] = {"model": [], "window": []}
    for model in models:
        columns["model"].append(model.name)
        columns["window"].append(format_length(model.window) if model.window else "unknown")
    standings = [ruler_standing(model) if model.tasks_of("ruler") else None for model in models]
    if any(standings):
        columns["effective length (RULER)"] = [s.effective if s else "-" for s in standings]
    for family, title in FAMILY_TITLES.items():
        if family in WITHOUT_MEAN:
            for task in dict.fromkeys(task for model in models for task in model.tasks_of(family)):
                columns[title_of(task)] = [
                    percent(model.task_mean(task) if task in model.records else None) for model in models
                ]
        elif any(model.tasks_of(family) for model in models):
            longest = max(n for m in models for task in m.tasks_of(family) for n in m.lengths(task))
            name = (
                f"{title}, mean"
                if family == "infinitebench"
                else f"{title}, mean up to {format_length(longest)}"
            )
            columns[name] = [percent(model.family_mean(family)) for model in models]
    shared = [task for task in models[0].standard if all(task in model.standard for model in models)]
    if shared:
        name = f"standard side, mean of {len(shared)}"
        columns[name] = [
            percent(sum(m.standard[task]["value"] for task in shared) / len(shared)) for m in models
        ]
    rows = list(zip(*columns.values(), strict=True))
    return Table(list(columns), rows, caption="percent, lengths weighing the same")


def _standard(models: Sequence[ModelResults]) -> list[Block]:
    tasks = list(dict.fromkeys(task for model in models for task in model.standard))
    if not tasks:
        return []
    columns = ["benchmark", "metric", "asked"]
    columns += [model.name for model in models]
    rows = []
    for task in tasks:
        entries = [model.standard.get(task) for model in models]
        known = next(entry for entry in entries if entry)
        values = ["-" if entry is None else with_error(entry) for entry in entries]
        rows.append((task, str(known["metric"]), how_asked(known.get("settings", {})), *values))
    blocks: list[Block] = [
        Table(columns, rows, caption="percent, with the standard error, and rows of the benchmark")
    ]
    kept = [
        (entry["task"], entry["baseline"]["model"], f"{entry['retention']['value']:.3f}")
        for model in models
        for entry in model.standard.values()
        if entry.get("retention") and entry["retention"]["value"] is not None
    ]
    if kept:
        blocks.append(
            Table(
                ("benchmark", "baseline", "extended / original"),
                kept,
                caption="Retention of its own baseline",
            )
        )
    return blocks


def _perplexity(models: Sequence[ModelResults]) -> list[Block]:
    curves = [(model.name, model.perplexity) for model in models if model.perplexity]
    edges = list(dict.fromkeys((b["from"], b["to"]) for _, buckets in curves for b in buckets))
    by_edge = [{(b["from"], b["to"]): b for b in buckets} for _, buckets in curves]
    rows = [
        (
            f"{start:,} to {end - 1:,}",
            *(f"{known[start, end]['value']:.3f}" if (start, end) in known else "-" for known in by_edge),
        )
        for start, end in edges
    ]
    drawing = Drawing(
        "perplexity-by-position",
        "Perplexity by position",
        perplexity_figure(curves),
        partial(draw_perplexities, curves),
    )
    return [drawing, Table(("positions", *(name for name, _ in curves)), rows)]


def _runs(models: Sequence[ModelResults]) -> Table:
    rows = []
    for model in models:
        for run in model.runs:
            settings = {
                name: value
                for name, value in run.settings.items()
                if name not in ("model", "identity", "tasks")
            }
            shown = "; ".join(f"{name} {shortened(value)}" for name, value in settings.items())
            rows.append(
                (
                    model.name,
                    run.model,
                    str(run.folder),
                    ", ".join(run.settings.get("tasks", run.tasks)),
                    shown,
                )
            )
    return Table(("called", "model", "run", "tasks", "settings"), rows)
