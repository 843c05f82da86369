"""What an answer rests on: its quotes and values, looked up in the documents. Nothing is taken on trust."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ultralong_hf.chat.documents import Document, Place

Kind = Literal["quote", "value", "wording"]
"""quote: stands between quotation marks in the answer; value: a number or a code; wording: words of the
answer that stand in the same order in a document."""

_QUOTED = re.compile(
    '"([^"\n]{2,2000})"|“([^”]{2,2000})”|„([^“”]{2,2000})[“”]|«([^»]{2,2000})»|「([^」]{2,2000})」'
    "|`([^`\n]{2,2000})`|^>[ \t]?(.{2,2000})$",
    re.MULTILINE,
)
# A number with at least two digits, or a word that mixes letters and digits: what is rarely there by chance.
_VALUE = re.compile(
    r"(?<![\w.,])(?=[\w.,:/-]{0,80}\d)"
    r"(?:\d[\d.,:/-]{0,60}\d|\w{0,40}[A-Za-z]\w{0,40}\d\w{0,40}|\d{1,40}[A-Za-z]\w{0,40})(?!\w)"
)
_WORD = re.compile(r"\w+")
_SLICE, _OVERLAP = 1_000_000, 1_000
_ELLIPSIS = re.compile(r"\s*(?:\.\.\.|…|\[…\]|\[\.\.\.\])\s*")
LEAST_WORDING = 5
"""Words in a row that count as taken from a document."""
LONGEST_QUOTE = 200
"""Words of a quote that are looked up; the rest of a longer one is not."""
MOST_CLAIMS = 40
"""Of one answer, so that the look-up of a long one stays short; further ones are not looked up."""
MOST_HITS = 50
"""Of one quote in one document; the best of these is shown first."""
MOST_TRIES = 20_000
"""Places that are tried for a whole word."""
NEAR = 300
"""Characters around a hit in which words of question and answer speak for it."""


@dataclass(frozen=True)
class Hit:
    """Where a quote stands: characters [start, end) of a document."""

    document: int
    start: int
    end: int
    place: Place
    exact: bool
    """Letter by letter; False: up to case, blanks and punctuation."""


@dataclass(frozen=True)
class Claim:
    """A part of the answer that can be looked up, and where it was found."""

    kind: Kind
    text: str
    start: int
    """Characters of the answer."""
    end: int
    hits: tuple[Hit, ...]

    @property
    def found(self) -> bool:
        return bool(self.hits)


@dataclass(frozen=True)
class Evidence:
    """claims: in the order of the answer."""

    claims: tuple[Claim, ...]

    @property
    def verified(self) -> bool:
        """Whether there is a quote, a value or wording, and each quote and value is in the documents."""
        return bool(self.claims) and not self.missing

    @property
    def missing(self) -> tuple[Claim, ...]:
        return tuple(claim for claim in self.claims if not claim.found)

    @property
    def message(self) -> str:
        """For beside the answer."""
        if not self.claims:
            return "The answer quotes nothing: none of its words could be looked up in the documents."
        if not self.missing:
            places = list(dict.fromkeys(str(claim.hits[0].place) for claim in self.claims))
            return f"Found in the documents: {'; '.join(places[:5])}."
        lost = ", ".join(f'"{_shown(claim.text)}"' for claim in self.missing[:5])
        return f"Not in the documents: {lost}. Do not rely on this answer without checking."

    def to_dict(self) -> dict[str, Any]:
        return {
            "verified": self.verified,
            "message": self.message,
            "claims": [
                {
                    "kind": claim.kind,
                    "text": claim.text,
                    "answer": [claim.start, claim.end],
                    "found": [
                        {
                            "document": hit.place.document,
                            "place": str(hit.place),
                            "characters": [hit.start, hit.end],
                            "exact": hit.exact,
                        }
                        for hit in claim.hits
                    ],
                }
                for claim in self.claims
            ],
        }


def find_evidence(answer: str, documents: Sequence[Document], *, question: str = "") -> Evidence:
    """Looks each quote and value of the answer up; wording only where it holds no quote that was found.

    A value that the question names itself proves nothing, and is passed over.
    """
    claims = [
        Claim("quote", text, start, end, _look_up(text, documents, context=answer + question))
        for text, start, end in itertools.islice(_quotes(answer), MOST_CLAIMS)
    ]
    covered = [(claim.start, claim.end) for claim in claims]
    asked = set(_VALUE.findall(question))
    for match in _VALUE.finditer(answer):
        inside = any(start <= match.start() < end for start, end in covered)
        if not inside and match.group() not in asked and len(claims) < MOST_CLAIMS:
            hits = _look_up(match.group(), documents, context=answer + question)
            claims.append(Claim("value", match.group(), match.start(), match.end(), hits))
    if not any(claim.found and claim.kind == "quote" for claim in claims):
        claims += itertools.islice(_wordings(answer, documents), MOST_CLAIMS // 2)
    return Evidence(tuple(sorted(claims, key=lambda claim: (claim.start, -claim.end))))


def _quotes(answer: str) -> Iterator[tuple[str, int, int]]:
    """(quoted text, start, end) of two words or more, or of a long one; `"yes"` is emphasis."""
    for match in _QUOTED.finditer(answer):
        group = match.lastindex or 0
        text = match.group(group)
        if len(_WORD.findall(text)) >= 2 or len(text) >= 8 or _VALUE.search(text):
            yield text, match.start(group), match.end(group)


def _look_up(quote: str, documents: Sequence[Document], *, context: str) -> tuple[Hit, ...]:
    """Hits of all parts of a quote (its "..." stands for what is left out); none if a part is missing."""
    parts = [part for part in _ELLIPSIS.split(quote) if _WORD.search(part)]
    if not parts:
        return ()
    found: list[Hit] = []
    for index, document in enumerate(documents):
        by_part = [_hits(part, index, document) for part in parts]
        if all(by_part):
            found += by_part[0] if len(parts) == 1 else _in_order(by_part)
    words = {word.casefold() for word in _WORD.findall(context) if len(word) > 3}
    ranked = sorted(
        found, key=lambda hit: (not hit.exact, -_support(hit, documents, words), hit.document, hit.start)
    )
    return tuple(ranked[:MOST_HITS])


def _hits(part: str, index: int, document: Document) -> list[Hit]:
    exact = _exactly(part.strip(), document.text)
    spans = exact or _loosely(part, document.text)
    return [Hit(index, start, end, document.place(start, end), bool(exact)) for start, end in spans]


def _exactly(part: str, text: str) -> list[tuple[int, int]]:
    """Whole words alone: "123" is not found in "91234"."""
    spans: list[tuple[int, int]] = []
    at, tries = text.find(part), 0
    while at >= 0 and len(spans) < MOST_HITS and tries < MOST_TRIES:
        tries += 1
        end = at + len(part)
        if not _joins(text, at, part[0]) and not _joins_behind(text, end, part[-1]):
            spans.append((at, end))
        at = text.find(part, at + 1)
    return spans


def _joins(text: str, at: int, first: str) -> bool:
    return at > 0 and _is_word(first) and _is_word(text[at - 1])


def _joins_behind(text: str, end: int, last: str) -> bool:
    return end < len(text) and _is_word(last) and _is_word(text[end])


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def _loosely(part: str, text: str) -> list[tuple[int, int]]:
    """The same words in the same order, whatever stands between them; linear in the text."""
    words = _WORD.findall(part)[:LONGEST_QUOTE]
    if not words:
        return []
    pattern = re.compile(r"\b" + r"\W{1,40}".join(map(re.escape, words)) + r"\b", re.IGNORECASE)
    spans = []
    for match in pattern.finditer(text):
        spans.append(match.span())
        if len(spans) == MOST_HITS:
            break
    return spans


def _in_order(by_part: Sequence[Sequence[Hit]]) -> list[Hit]:
    """All parts of one quote, each behind the one before it."""
    chain, at = [], -1
    for hits in by_part:
        hit = next((hit for hit in hits if hit.start > at), None)
        if hit is None:
            return []
        chain.append(hit)
        at = hit.end - 1
    return chain


def _support(hit: Hit, documents: Sequence[Document], words: set[str]) -> int:
    text = documents[hit.document].text[max(0, hit.start - NEAR) : hit.end + NEAR].casefold()
    return sum(word in text for word in words)


def _wordings(answer: str, documents: Sequence[Document]) -> Iterator[Claim]:
    """The longest runs of words that a document has too, from left to right."""
    words = list(_WORD.finditer(answer))
    shared = _shared_runs([word.group().casefold() for word in words], documents)
    at = 0
    while at + LEAST_WORDING <= len(words):
        if not shared[at]:
            at += 1
            continue
        taken = 0
        hits: tuple[Hit, ...] = ()
        low, high = LEAST_WORDING, min(len(words) - at, LONGEST_QUOTE)
        while low <= high:  # a longer run holds the shorter ones, so the longest is found by halving
            middle = (low + high) // 2
            run = answer[words[at].start() : words[at + middle - 1].end()]
            found = _run_hits(run, documents)
            if found:
                taken, hits, low = middle, found, middle + 1
            else:
                high = middle - 1
        if taken:
            start, end = words[at].start(), words[at + taken - 1].end()
            yield Claim("wording", answer[start:end], start, end, hits)
        at += max(1, taken)


def _shared_runs(words: Sequence[str], documents: Sequence[Document]) -> list[bool]:
    """For each word whether the LEAST_WORDING words from it on stand somewhere; one look at each text."""
    size = LEAST_WORDING
    runs = {tuple(words[at : at + size]) for at in range(len(words) - size + 1)}
    first, seen = {run[0] for run in runs}, set()
    for document in documents:
        text = document.text
        for start in range(0, len(text), _SLICE):
            there = _WORD.findall(text[start : start + _SLICE + _OVERLAP].casefold())
            for at, word in enumerate(there):
                if word in first:
                    seen.add(tuple(there[at : at + size]))
            seen &= runs
    return [tuple(words[at : at + size]) in seen for at in range(len(words))]


def _run_hits(run: str, documents: Sequence[Document]) -> tuple[Hit, ...]:
    return tuple(hit for index, document in enumerate(documents) for hit in _hits(run, index, document)[:5])


def _shown(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= 80 else f"{flat[:77]}..."
