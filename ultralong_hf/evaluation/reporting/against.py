"""One model against the first: paired differences and retention, as sections of the report."""

from __future__ import annotations

from functools import partial

from ultralong_hf.evaluation.pages import Block, Drawing, Section, Table
from ultralong_hf.evaluation.reporting.cells import length_text, percent, place_of, title_of
from ultralong_hf.evaluation.reporting.figures import differences_figure, draw_differences
from ultralong_hf.evaluation.reporting.models import (
    FAMILY_TITLES,
    WITHOUT_MEAN,
    ModelResults,
    family_of,
)
from ultralong_hf.evaluation.reporting.pairing import Pairing, Retention, pair, retention, standard_retention
from ultralong_hf.evaluation.safety.rates import HIGHER_IS_BETTER


def against(base: ModelResults, other: ModelResults) -> list[Section]:
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
    """The same with a family's tasks taken together at each length; InfiniteBench's and safety's apart."""
    found = []
    for family in sorted({family_of(task) for task in base.records}, key=place_of):
        tasks = base.tasks_of(family)
        apart = family == "infinitebench" or family in WITHOUT_MEAN
        groups = [[task] for task in tasks] if apart else [tasks]
        for group in groups:
            name = title_of(group[0]) if len(group) == 1 else FAMILY_TITLES.get(family, family)
            for length in sorted({length for task in group for length in base.lengths(task)}):
                if (pairing := pair(base, other, group, length, name=name)) is not None:
                    found.append(pairing)
    return found


def retentions(base: ModelResults, other: ModelResults) -> list[Retention]:
    """Of the standard benchmarks, and of tasks with prompts in common whose score is to be kept."""
    found = [standard_retention(base, other, task) for task in base.standard]
    found += [retention(base, other, task) for task in base.records if family_of(task) not in WITHOUT_MEAN]
    return [kept for kept in found if kept is not None]


def _pairing_row(p: Pairing) -> tuple[str | int | float, ...]:
    d = p.difference
    won, lost = (p.won, p.lost) if HIGHER_IS_BETTER.get(p.task, True) else (p.lost, p.won)
    return (
        title_of(p.task) if family_of(p.task) in WITHOUT_MEAN else p.task,
        length_text(p.length),
        percent(p.base),
        percent(p.other),
        f"{100 * d.value:+.1f}",
        f"{100 * d.low:+.1f} to {100 * d.high:+.1f}",
        f"{won} : {lost}",
        p.prompts,
    )


def _retention_row(r: Retention) -> tuple[str, ...]:
    interval = f"{r.low:.3f} to {r.high:.3f}" if r.low is not None and r.high is not None else "-"
    ratio = "-" if r.ratio is None else f"{r.ratio:.3f}"
    return r.task, percent(r.original), percent(r.extended), ratio, interval
