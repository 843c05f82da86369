"""What became of every record: counts by source and step, as values and as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ultralong_hf.data.instructions.filtering import REASONS
from ultralong_hf.data.instructions.quotas import check_domains
from ultralong_hf.recipes.schema import InstructSection

if TYPE_CHECKING:
    from ultralong_hf.data.instructions.choosing import Choice
    from ultralong_hf.data.instructions.collecting import Collected
    from ultralong_hf.data.instructions.sources import BlendSource
    from ultralong_hf.data.instructions.writing import Sample

STEPS = ("no_conversation", *REASONS.values())
"""Reasons for which a record is not in the blend, in the order of the steps."""


def blend_report(
    section: InstructSection,
    sources: Sequence[BlendSource],
    collected: Sequence[Collected],
    choice: Choice,
    samples: Sequence[Sample],
    notices: Sequence[str],
) -> dict[str, Any]:
    """The report, JSON-able. Of each source: read = kept + what is dropped, by reason."""
    rows = []
    for n, (source, one) in enumerate(zip(sources, collected, strict=True)):
        own = [sample.number for sample in samples if sample.source == n]
        rows.append(_source_row(source, one, choice.counts(n), choice.tokens[own]))
    total = _total(rows)
    for row in [*rows, total]:
        assert row["read"] == row["kept"] + sum(row["dropped"].values()), row
    return {
        "samples": total["kept"],
        "tokens": total["tokens"],
        "max_length": section.max_length,
        "seed": section.seed,
        "sources": rows,
        "domains": _domains(rows, section),
        "total": total,
        "notices": [*notices, *_shortages(rows, section)],
    }


def _source_row(
    source: BlendSource, one: Collected, dropped: Mapping[str, int], tokens: np.ndarray
) -> dict[str, Any]:
    state = one.state["sources"][0]
    bad = {**state["bad"], **({"empty": state["empty"]} if state["empty"] else {})}
    return {
        "label": source.records.label,
        "domain": source.entry.domain,
        "origin": source.records.origin,
        "revision": source.entry.revision,
        "licence": source.entry.licence,
        "read": state["good"] + sum(bad.values()),
        "kept": len(tokens),
        "tokens": int(tokens.sum()),
        "dropped": {**({"no_conversation": sum(bad.values())} if bad else {}), **dropped},
        "no_conversation": bad,
        "formats": one.formats,
        "repairs": one.repairs,
    }


def _total(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    dropped: Counter[str] = Counter()
    for row in rows:
        dropped.update(row["dropped"])
    sums = {key: sum(row[key] for row in rows) for key in ("read", "kept", "tokens")}
    return {**sums, "dropped": {step: dropped[step] for step in STEPS if dropped[step]}}


def _domains(rows: Sequence[Mapping[str, Any]], section: InstructSection) -> list[dict[str, Any]]:
    shares = {} if section.domains is None else check_domains(section.domains)
    names = list(dict.fromkeys([*shares, *(row["domain"] for row in rows)]))
    kept = sum(row["kept"] for row in rows)
    found = []
    for name in names:
        own = [row for row in rows if row["domain"] == name]
        count = sum(row["kept"] for row in own)
        found.append(
            {
                "domain": name,
                "kept": count,
                "tokens": sum(row["tokens"] for row in own),
                "share": count / kept,
                "wanted_share": shares.get(name),
            }
        )
    return found


def _shortages(rows: Sequence[Mapping[str, Any]], section: InstructSection) -> list[str]:
    """Where there were fewer samples than the recipe wants."""
    if section.samples is None:
        return []
    if section.domains is None:
        kept = sum(row["kept"] for row in rows)
        return [f"{section.samples:,} samples were wanted, {kept:,} there were"] * (kept < section.samples)
    notices = []
    for name, share in check_domains(section.domains).items():
        wanted = section.samples * share
        kept = sum(row["kept"] for row in rows if row["domain"] == name)
        if kept < int(wanted):
            notices.append(f"{name}: {round(wanted):,} samples were wanted, {kept:,} there were")
    return notices


def report_text(report: Mapping[str, Any]) -> str:
    """The report as a table: a row a source, a column a step; steps that dropped nothing are left out."""
    steps = list(report["total"]["dropped"])
    heads = ["source", "domain", "read", *(step.replace("_", " ") for step in steps), "kept", "tokens"]
    lines = [
        [
            row["label"],
            row["domain"] or "-",
            f"{row['read']:,}",
            *(f"{row['dropped'].get(step, 0):,}" for step in steps),
            f"{row['kept']:,}",
            f"{row['tokens']:,}",
        ]
        for row in [*report["sources"], {"label": "all", "domain": None, **report["total"]}]
    ]
    text = [_table([heads, *lines])]
    for row in report["sources"]:
        formats = "; ".join(f"{shape} ({count:,})" for shape, count in row["formats"].items())
        text.append(f"{row['label']}: read as {formats or 'nothing'}{_licence(row)}")
        if row["no_conversation"]:
            reasons = ", ".join(f"{count:,} {word}" for word, count in row["no_conversation"].items())
            text.append(f"  no conversations, left out: {reasons}")
        text += [f"  {repair}: {count:,}" for repair, count in row["repairs"].items()]
    if rewrites := report.get("rewrites"):
        text += [
            f"answers written anew: {rewrites['requests']:,} asked for, {rewrites['from_ledger']:,} known",
            f"  by the server's count {rewrites['prompt_tokens']:,} tokens of prompts, "
            f"{rewrites['completion_tokens']:,} of answers",
        ]
    return "\n".join([*text, *(f"notice: {notice}" for notice in report["notices"])])


def _licence(row: Mapping[str, Any]) -> str:
    return f"; licence {row['licence']}" if row["licence"] else ""


def _table(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
