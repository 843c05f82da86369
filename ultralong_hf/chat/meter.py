"""How full the window is: tokens of each document and in all, against the window and measured recall."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ultralong_hf.chat.documents import Document
from ultralong_hf.chat.engine import ChatEngine
from ultralong_hf.chat.prompting import Turn
from ultralong_hf.errors import ChatError, DoesNotFit

HOLDS = 0.9
"""Recall from which on it is said to hold. NVIDIA's RULER takes 85.6 % for its own effective length."""

Keep = Literal["beginning", "ends"]
"""beginning: the last documents lose their ends first. ends: each document loses its middle, by its share."""


@dataclass(frozen=True)
class Recall:
    """What an evaluation found: the longest length up to which every measured length holds."""

    holds_to: int | None
    """None: not even at the shortest length."""
    longest_measured: int
    task: str


@dataclass(frozen=True)
class Meter:
    documents: tuple[tuple[str, int], ...]
    """(name, tokens)."""
    around: int
    """Template, instructions, turns and question."""
    answer: int
    """Kept free for the answer."""
    window: int | None
    recall: Recall | None
    exact: bool

    @property
    def total(self) -> int:
        return sum(tokens for _, tokens in self.documents) + self.around + self.answer

    @property
    def fits(self) -> bool:
        return self.window is None or self.total <= self.window

    @property
    def over(self) -> int:
        """Tokens too many."""
        return 0 if self.window is None else max(0, self.total - self.window)

    @property
    def beyond_recall(self) -> bool:
        """Whether the prompt is longer than what the model was found to remember."""
        return self.recall is not None and self.total > (self.recall.holds_to or 0)

    @property
    def messages(self) -> tuple[str, ...]:
        """What a user must know, the gravest first."""
        about = "" if self.exact else "about "
        told = []
        if not self.fits:
            told.append(
                f"{about}{self.total:,} tokens do not fit into the window of {self.window:,}: {self.over:,} "
                "too many. Take a document out, or have it cut."
            )
        if self.recall is not None and self.beyond_recall:
            told.append(_recall_message(self.recall, self.total))
        if self.window is None:
            told.append("The model's window is not known: whether this fits will only show when it is asked.")
        if not self.exact:
            told.append("Tokens are estimated from characters: the server's tokenizer is not known here.")
        return tuple(told)

    def check(self) -> None:
        """Raises DoesNotFit with the numbers."""
        if not self.fits:
            raise DoesNotFit(self.messages[0])

    def to_dict(self) -> dict[str, Any]:
        return {
            "documents": [{"name": name, "tokens": tokens} for name, tokens in self.documents],
            "around": self.around,
            "answer": self.answer,
            "total": self.total,
            "window": self.window,
            "recall_holds_to": self.recall.holds_to if self.recall else None,
            "fits": self.fits,
            "exact": self.exact,
            "messages": list(self.messages),
        }


def measure(
    engine: ChatEngine,
    session: str,
    documents: Sequence[Document],
    *,
    turns: Sequence[Turn] = (),
    question: str = "",
    answer: int = 512,
    recall: Recall | None = None,
) -> Meter:
    counts = [engine.count(session, document) for document in documents]
    return Meter(
        documents=tuple(
            (document.name, count.tokens) for document, count in zip(documents, counts, strict=True)
        ),
        around=engine.count_around(session, documents, turns, question),
        answer=answer,
        window=engine.window,
        recall=recall,
        exact=all(count.exact for count in counts),
    )


def cut_to_fit(documents: Sequence[Document], meter: Meter, keep: Keep) -> tuple[list[Document], list[str]]:
    """(the documents shortened to the window, what was left out of each); a cut is named in the text too.

    Characters are cut in proportion to tokens, with 2 % to spare. Raises ChatError where nothing would stay.
    """
    if keep not in ("beginning", "ends"):
        raise ChatError(f"keep={keep!r} is neither 'beginning' nor 'ends'.")
    if meter.fits:
        return list(documents), []
    tokens = [count for _, count in meter.documents]
    # The remarks that stand where text is left out take some tokens too.
    room = (meter.window or 0) - meter.around - meter.answer - 60 * len(documents)
    if room < 16:
        raise ChatError(
            f"The window of {meter.window:,} tokens has no room for documents: conversation and answer take "
            f"{meter.around + meter.answer:,}."
        )
    budgets = _from_the_front(tokens, room) if keep == "beginning" else _by_share(tokens, room)
    kept, notes = [], []
    for document, count, budget in zip(documents, tokens, budgets, strict=True):
        shortened = _shorten(document, count, budget, keep)
        if shortened is None:
            notes.append(f"{document.name} is left out whole")
        else:
            kept.append(shortened)
            notes += [f"{document.name}: {shortened.warnings[-1]}"] if shortened is not document else []
    return kept, notes


def load_recall(path: str | Path, *, threshold: float = HOLDS) -> Recall | None:
    """From an evaluation's report.json, the quickstart's too, or its folder; None without needle or RULER
    results. Raises ChatError for a file that is no report."""
    path = Path(path)
    path = path / "report.json" if path.is_dir() else path
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        shares = _shares(report)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ChatError(f"{path} cannot be read as the report.json of an evaluation.") from error
    if not shares:
        return None
    # The hardest task decides: each is held up to some length, and the shortest of these counts.
    found = [(_holds_to(by_length, threshold), max(by_length), task) for task, by_length in shares.items()]
    holds_to, longest, task = min(found, key=lambda one: one[0] or 0)
    return Recall(holds_to, longest, task)


def _shares(report: Mapping[str, Any]) -> dict[str, dict[int, float]]:
    """task -> length -> share found."""
    cells = report["recall"]["after"] if "recall" in report else report["cells"]
    hits: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0]))
    for cell in cells:
        total = hits[str(cell.get("task", "needle"))][int(cell["length"])]
        total[0] += cell["hits"]
        total[1] += cell["samples"]
    shares = {
        task: {length: found / samples for length, (found, samples) in by_length.items() if samples}
        for task, by_length in hits.items()
    }
    ruler: dict[int, list[float]] = defaultdict(list)
    for score in report.get("scores", []):
        if str(score["task"]).startswith("ruler"):
            ruler[int(score["length"])].append(float(score["score"]))
    if ruler:
        shares["ruler"] = {length: sum(scores) / len(scores) for length, scores in ruler.items()}
    return {task: by_length for task, by_length in shares.items() if by_length}


def _holds_to(by_length: Mapping[int, float], threshold: float) -> int | None:
    """The last of the measured lengths, from the shortest on, before one falls short."""
    held = None
    for length in sorted(by_length):
        if by_length[length] < threshold:
            break
        held = length
    return held


def _recall_message(recall: Recall, total: int) -> str:
    if recall.holds_to is None:
        return f"In its evaluation ({recall.task}) the model's recall did not hold at any length."
    if recall.holds_to == recall.longest_measured:
        return (
            f"Recall was measured up to {recall.holds_to:,} tokens ({recall.task}), and held; "
            f"this is {total:,}."
        )
    return (
        f"Recall was found to hold up to {recall.holds_to:,} tokens ({recall.task}); this is {total:,}: "
        "the model may overlook passages."
    )


def _from_the_front(tokens: Sequence[int], room: int) -> list[int]:
    budgets = []
    for count in tokens:
        budgets.append(min(count, room))
        room -= budgets[-1]
    return budgets


def _by_share(tokens: Sequence[int], room: int) -> list[int]:
    total = sum(tokens)
    return [count * room // total for count in tokens]


def _shorten(document: Document, tokens: int, budget: int, keep: Keep) -> Document | None:
    if budget >= tokens:
        return document
    characters = int(0.98 * len(document.text) * budget / max(1, tokens))
    if characters < 1:
        return None
    length = len(document.text)
    if keep == "beginning":
        spans = [(0, _line_end(document.text, characters))]
    else:
        first = _line_end(document.text, characters // 2)
        spans = [(0, first), (max(first, length - (characters - first)), length)]
    left_out = length - sum(end - start for start, end in spans)
    return document.cut(spans, f"cut here: {left_out:,} of {length:,} characters are left out")


def _line_end(text: str, at: int) -> int:
    """At a line's end, where one is near."""
    line = text.rfind("\n", max(0, at - 400), at)
    return line + 1 if line > 0 else at
