"""Records that give no document: counted, named and left out, or the end of the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from ultralong_hf.data.reading.records import EMPTY, NO_COLUMN, Fault
from ultralong_hf.errors import DocumentError

KEPT_PLACES = 10_000
"""Places kept of bad records, and as many of empty ones; the rest is only counted."""
_SHARE_FROM = 1000
"""Records of a source from which on its bad share is looked at before its end."""


class BadRecord(NamedTuple):
    """A record that was left out. Ordered as documents are, by (source, file, row)."""

    source: int
    place: str
    """Such as "books.jsonl, line 17"."""
    reason: str
    """One of a few words, a colon and what was seen."""
    file: int = 0
    row: int = 0

    @property
    def key(self) -> tuple[int, int, int]:
        return self.source, self.file, self.row


@dataclass
class SourceCounts:
    """Records of one source."""

    label: str
    good: int = 0
    empty: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    """By reason: the word alone."""

    @property
    def records(self) -> int:
        return self.good + self.empty + self.bad.total()


@dataclass
class RecordPolicy:
    """Counts records, keeps the first bad places and raises DocumentError where a source is too bad.

    An empty document is counted and named, but has no part in the bad share.
    """

    on_error: Literal["skip", "stop"] = "skip"
    """stop: the first bad or empty record raises."""
    max_bad_share: float = 0.05
    """Of a source's records, empty ones among them. It is looked at when the source ends and, from 1,000
    records on, at each bad one."""
    column_advice: str = "Set text_column to one of them"
    """What to do where all that is wrong is a column that is not there."""
    _counts: dict[int, SourceCounts] = field(default_factory=dict, init=False, repr=False)
    _places: dict[bool, list[BadRecord]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.on_error not in ("skip", "stop"):
            raise DocumentError(f"on_error is {self.on_error!r}. Choose skip or stop.")
        share = self.max_bad_share
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise DocumentError(f"max_bad_share is {share!r}: give a share between 0 and 1.")
        self._places = {True: [], False: []}

    @property
    def bad(self) -> list[BadRecord]:
        """The kept places of bad and of empty records, in order."""
        return sorted(self._places[True] + self._places[False], key=lambda bad: bad.key)

    def begin(self, source: int, label: str) -> SourceCounts:
        """The counts of a source, to which its reader adds the good ones."""
        return self._counts.setdefault(source, SourceCounts(label))

    def add(self, source: int, fault: Fault) -> None:
        """Counts a fault. Raises DocumentError as the policy says."""
        counts = self._counts[source]
        reason = f"{fault.word}: {fault.detail}"
        if self.on_error == "stop":
            raise DocumentError(
                f"{fault.place}: {reason} Repair it or leave it out; on_error: skip leaves such out."
            )
        places = self._places[fault.word == EMPTY]
        if fault.is_named and len(places) < KEPT_PLACES:
            places.append(BadRecord(source, fault.place, reason, fault.file, fault.row))
        if fault.word == EMPTY:
            counts.empty += fault.records
            return
        counts.bad[fault.word] += fault.records
        if counts.records >= _SHARE_FROM:
            self.check(source)

    def check(self, source: int) -> None:
        """Raises DocumentError if more of a source's records are bad than may be."""
        counts = self._counts[source]
        bad, records = counts.bad.total(), counts.records
        if bad <= self.max_bad_share * records:
            return
        share = "all" if bad == records else f"{bad / records:.1%}, more than {self.max_bad_share:.1%},"
        reasons = ", ".join(f"{n:,} {word}" for word, n in sorted(counts.bad.items()))
        first = next((f" {p.place}: {p.reason}" for p in self._places[False] if p.source == source), "")
        is_column = counts.bad[NO_COLUMN] == bad
        advice = self.column_advice if is_column else "Repair it, choose its files by a glob"
        raise DocumentError(
            f"{counts.label}: {share} of the {records:,} records read are bad ({reasons}).{first} "
            f"{advice}, leave the source out, or raise max_bad_share."
        )

    def report(self) -> list[dict[str, Any]]:
        """For the manifest: what was read of each source, bad records by reason."""
        return [
            {
                "source": source,
                "label": c.label,
                "good": c.good,
                "empty": c.empty,
                "bad": dict(sorted(c.bad.items())),
            }
            for source, c in sorted(self._counts.items())
        ]

    def state(self) -> dict[str, Any]:
        """All counts and places, for JSON."""
        return {
            "sources": self.report(),
            "bad": self._places[False].copy(),
            "empty": self._places[True].copy(),
        }

    def restore(self, *states: Mapping[str, Any]) -> None:
        """Takes up the counts of a state, or the sum over the states of all parts."""
        self._counts = {}
        for entry in (entry for state in states for entry in state["sources"]):
            counts = self.begin(entry["source"], entry["label"])
            counts.good += entry["good"]
            counts.empty += entry["empty"]
            counts.bad.update(entry["bad"])
        for name, is_empty in (("bad", False), ("empty", True)):
            places = [BadRecord(*place) for state in states for place in state[name]]
            self._places[is_empty] = sorted(places, key=lambda bad: bad.key)[:KEPT_PLACES]
