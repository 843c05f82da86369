"""What the report says, section by section; pages and Markdown are written from the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from ultralong_hf.evaluation.heatmap import draw_heatmap, heatmap_figure
from ultralong_hf.evaluation.pages import Block, Callout, Drawing, Section, Table
from ultralong_hf.evaluation.report import count_cells, perplexity_figure
from ultralong_hf.evaluation.reporting.figures import (
    curves_figure,
    differences_figure,
    draw_curves,
    draw_differences,
    draw_perplexities,
    family_curve,
)
from ultralong_hf.evaluation.reporting.models import (
    FAMILY_SIZES,
    FAMILY_TITLES,
    ModelResults,
    Score,
    family_of,
)
from ultralong_hf.evaluation.reporting.pairing import (
    Pairing,
    Retention,
    pair,
    retention,
    setting_differences,
    standard_retention,
)
from ultralong_hf.evaluation.reporting.standing import RULER_THRESHOLD, paper_table, ruler_standing
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
    families = sorted(there, key=lambda family: _place(family))
    sections += [(FAMILY_TITLES.get(family, family), _family(models, family)) for family in families]
    if standard := _standard(models):
        sections.append(("The standard side", standard))
    for other in models[1:]:
        sections += _against(models[0], other)
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
        if any(model.tasks_of(family) for model in models):
            longest = max(n for m in models for task in m.tasks_of(family) for n in m.lengths(task))
            name = (
                f"{title}, mean"
                if family == "infinitebench"
                else f"{title}, mean up to {format_length(longest)}"
            )
            columns[name] = [_percent(model.family_mean(family)) for model in models]
    shared = [task for task in models[0].standard if all(task in model.standard for model in models)]
    if shared:
        name = f"standard side, mean of {len(shared)}"
        columns[name] = [
            _percent(sum(m.standard[task]["value"] for task in shared) / len(shared)) for m in models
        ]
    rows = list(zip(*columns.values(), strict=True))
    return Table(list(columns), rows, caption="percent, lengths weighing the same")


def _family(models: Sequence[ModelResults], family: str) -> list[Block]:
    title = FAMILY_TITLES.get(family, family)
    there = [model for model in models if model.tasks_of(family)]
    line = 100 * RULER_THRESHOLD if family == "ruler" else None
    blocks: list[Block] = []
    lengths = {n for model in there for task in model.tasks_of(family) for n in model.lengths(task)}
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
    marks = [f"{_length(length)}{' >' if length in beyond else ''}" for length in lengths]
    rows: list[tuple[str, ...]] = []
    if len(tasks) > 1:
        rows += [
            (_title(task), *(_percent_of(model.score(task, length)) for length in lengths)) for task in tasks
        ]
    points = family_curve(model, family).points
    name = "mean of the tasks" if len(tasks) > 1 else "found" if tasks[0] in model.grids() else "score"
    rows.append((name, *(_percent(points[length].mean) for length in lengths)))
    rows.append(("95 % interval", *(_interval(points[length]) for length in lengths)))
    rows.append(("prompts", *(f"{points[length].samples:,}" for length in lengths)))
    caption = (f"{model.name}: " if several else "") + "percent by length"
    return Table(
        ("task", *marks), rows, caption=caption + ("; > beyond the model's window" if beyond else "")
    )


def _infinitebench_table(model: ModelResults) -> Table:
    rows: list[tuple[str | int | float, ...]] = [
        (_title(task), length, score.samples, _percent(score.mean), _interval(score))
        for task in model.tasks_of("infinitebench")
        for length in model.lengths(task)
        if (score := model.score(task, length)) is not None
    ]
    rows.append(("mean of the tasks", "", "", _percent(model.family_mean("infinitebench")), ""))
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
                _percent(standing.average),
                _percent(standing.increasing),
                _percent(standing.decreasing),
            )
        )
    return Table(
        ("model", "effective length", "mean", "weighted, increasing", "weighted, decreasing"),
        rows,
        caption=f"RULER's summary; a length is effective where the mean is above {100 * RULER_THRESHOLD:g} %",
    )


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
        values = ["-" if entry is None else _with_error(entry) for entry in entries]
        rows.append((task, str(known["metric"]), _how(known.get("settings", {})), *values))
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


def _against(base: ModelResults, other: ModelResults) -> list[Section]:
    """Paired differences and retention of one model against the first."""
    pairings = paired_cells(base, other)
    kept = retentions(base, other)
    sections: list[Section] = []
    if pairings:
        shown = family_pairs(base, other)
        heading = f"{other.name} against {base.name}, prompt by prompt"
        blocks: list[Block] = [
            Drawing(
                f"{other.name}-against-{base.name}".replace("/", "-"),
                heading,
                differences_figure(shown, base.name, other.name),
                partial(draw_differences, shown, base.name, other.name),
            )
        ]
        blocks.append(
            Table(
                (
                    "task",
                    "length",
                    base.name,
                    other.name,
                    "difference, points",
                    "95 % interval",
                    "won : lost",
                    "prompts",
                ),
                [_pairing_row(p) for p in pairings],
                caption="Both were asked the same prompts; filled marks: the interval leaves zero out",
            )
        )
        sections.append((heading, blocks))
    if kept:
        table = Table(
            ("task", base.name, other.name, "retention", "95 % interval"),
            [_retention_row(r) for r in kept],
            caption=f"{other.name} / {base.name}, lengths weighing the same",
        )
        sections.append((f"Retention: what {other.name} keeps of {base.name}", [table]))
    return sections


def paired_cells(base: ModelResults, other: ModelResults) -> list[Pairing]:
    """Every task and length that both were asked the same prompts at."""
    found = [pair(base, other, [task], length) for task in base.records for length in base.lengths(task)]
    return [pairing for pairing in found if pairing is not None]


def family_pairs(base: ModelResults, other: ModelResults) -> list[Pairing]:
    """The same with a family's tasks taken together at each length; InfiniteBench's each by itself."""
    found = []
    for family in sorted({family_of(task) for task in base.records}, key=_place):
        tasks = base.tasks_of(family)
        groups = [[task] for task in tasks] if family == "infinitebench" else [tasks]
        for group in groups:
            name = _title(group[0]) if len(group) == 1 else FAMILY_TITLES.get(family, family)
            for length in sorted({length for task in group for length in base.lengths(task)}):
                if (pairing := pair(base, other, group, length, name=name)) is not None:
                    found.append(pairing)
    return found


def retentions(base: ModelResults, other: ModelResults) -> list[Retention]:
    """Of the standard benchmarks, and of tasks with prompts in common."""
    found = [standard_retention(base, other, task) for task in base.standard]
    found += [retention(base, other, task) for task in base.records]
    return [kept for kept in found if kept is not None]


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
            shown = "; ".join(f"{name} {_short(value)}" for name, value in settings.items())
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


def _pairing_row(p: Pairing) -> tuple[str | int | float, ...]:
    d = p.difference
    return (
        p.task,
        _length(p.length),
        _percent(p.base),
        _percent(p.other),
        f"{100 * d.value:+.1f}",
        f"{100 * d.low:+.1f} to {100 * d.high:+.1f}",
        f"{p.won} : {p.lost}",
        p.prompts,
    )


def _retention_row(r: Retention) -> tuple[str, ...]:
    interval = f"{r.low:.3f} to {r.high:.3f}" if r.low is not None and r.high is not None else "-"
    ratio = "-" if r.ratio is None else f"{r.ratio:.3f}"
    return r.task, _percent(r.original), _percent(r.extended), ratio, interval


def _place(family: str) -> int:
    """Where a family stands in the report; unknown ones last."""
    return list(FAMILY_TITLES).index(family) if family in FAMILY_TITLES else len(FAMILY_TITLES)


def _title(task: str) -> str:
    family, slash, name = task.partition("/")
    if family == "infinitebench" and slash:
        from ultralong_hf.evaluation.infinitebench.table import TASKS

        known = TASKS.get(name.partition("@")[0])
        return f"{known.title} ({name})" if known else name
    return name or task


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _percent_of(score: Score | None) -> str:
    return "-" if score is None else _percent(score.mean)


def _length(length: int) -> str:
    return format_length(length) if length else "shortest"


def _interval(score: Score) -> str:
    if score.low is None or score.high is None:
        return "-"
    return f"{100 * score.low:.0f} to {100 * score.high:.0f}"


def _with_error(entry: dict[str, Any]) -> str:
    error = entry.get("stderr")
    spread = f" ± {100 * error:.1f}" if error is not None else ""
    return f"{100 * entry['value']:.1f}{spread} ({entry['samples']:,})"


def _how(settings: dict[str, Any]) -> str:
    shots = settings.get("num_fewshot")
    parts = [] if shots is None else [f"{shots}-shot"]
    parts += ["chat template"] if settings.get("chat_template") else []
    parts += [f"first {settings['limit']} rows"] if settings.get("limit") is not None else []
    return ", ".join(parts) or "-"


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
