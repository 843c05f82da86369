"""What a reader of the numbers must be told: zeros, cuts, failures, lengths beyond the window."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from ultralong_hf.evaluation.ledger import is_failed
from ultralong_hf.evaluation.report import Report
from ultralong_hf.evaluation.tasks import Record, Task


def remarks(report: Report, records: Mapping[str, Sequence[Record]], tasks: Sequence[Task]) -> list[str]:
    """Sentences about the records of each task, failed ones included."""
    notes = []
    rows = [*report.cells, *report.scores]
    short = sorted({row["length"] for row in report.cells if row["prompt_tokens"] > row["length"]})
    if short:
        listed = ", ".join(f"{length:,}" for length in short)
        notes.append(f"Lengths {listed} are shorter than any prompt: measured with the shortest one.")
    beyond = sorted({row["length"] for row in rows if row["beyond_window"]})
    if beyond:
        notes.append(
            f"Lengths from {beyond[0]:,} on lie beyond the model's window of {report.window:,} tokens."
        )
    for task in tasks:
        asked = records[task.name]
        finished = [record for record in asked if not is_failed(record)]
        notes += _failures(task.name, asked)
        if finished and not any(record["score"] for record in finished):
            what = "nothing at all was found" if finished[0]["depth"] is not None else "every score is zero"
            notes.append(f"{task.name}: {what}. Look at answers in prompts.jsonl before believing it.")
        notes += _prompt_notes(task.name, finished)
        notes += task.notes(finished)
    return notes


def _prompt_notes(task: str, records: Sequence[Record]) -> list[str]:
    """The samples' own notes ("kind: what"), counted by kind, with one of them as it is."""
    kinds: dict[str, list[str]] = {}
    for record in records:
        for note in record["notes"]:
            kinds.setdefault(note.partition(":")[0], []).append(note)
    return [
        f"{task}: {len(notes):,} of {len(records):,} prompts: {notes[0]}"
        + (" (for one)" if len(set(notes)) > 1 else "")
        for notes in kinds.values()
    ]


def _failures(task: str, asked: Sequence[Record]) -> list[str]:
    reasons = Counter(str(record["failure"]) for record in asked if is_failed(record))
    if not reasons:
        return []
    listed = "; ".join(f"{count:,} x {reason}" for reason, count in reasons.most_common(5))
    return [
        f"{task}: {reasons.total():,} of {len(asked):,} prompts got no answer and are in no score: {listed}. "
        "The same command asks them again."
    ]
