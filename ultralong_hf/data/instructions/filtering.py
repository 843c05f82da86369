"""Which conversations of a blend are left out for what they say, by the documents' filters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ultralong_hf.data.filtering.duplicates import (
    digest_texts,
    find_exact_repeats,
    find_near_repeats,
    sign_words,
)
from ultralong_hf.data.filtering.filter_settings import parse_settings
from ultralong_hf.data.filtering.filters import Filters
from ultralong_hf.data.filtering.languages import detect_languages, language_labels
from ultralong_hf.data.filtering.words import hash_words
from ultralong_hf.data.instructions.formats import Messages

KEPT = 0
REASONS = {
    1: "too_long",
    2: "language",
    3: "contaminated",
    4: "exact_duplicate",
    5: "near_duplicate",
    6: "over_quota",
    7: "rewrite_failed",
    8: "rewrite_cut",
    9: "rewrite_too_long",
    10: "rewrite_contaminated",
}
"""Code -> word, in the order in which they are looked at: the first that holds counts."""
CODES = {word: code for code, word in REASONS.items()}


class ConversationFilters:
    """The filters of a blend: a few numbers a conversation first, then a decision over all of them.

    Duplicates are told by what is said without system messages, of which many conversations share one; by the
    prompts alone (`by_prompt`) where answers will be written anew. Benchmarks' texts are looked for in all.
    """

    def __init__(self, value: Mapping[str, Any] | None, *, by_prompt: bool) -> None:
        self._chosen = parse_settings(value)
        self._filters = Filters(self._chosen)
        self._by_prompt = by_prompt

    def settings(self) -> dict[str, Any]:
        """All that decides. Raises MachineError or DocumentError for what is missing: call it first."""
        return {
            **self._filters.settings(),
            "duplicates_by": "prompts" if self._by_prompt else "conversations",
        }

    def annotate(self, conversations: list[Messages]) -> dict[str, np.ndarray]:
        """Columns of numbers, a row a conversation; each depends on its conversation alone."""
        chosen = self._chosen
        whole = ["\n".join(message["content"] for message in messages) for messages in conversations]
        said = [self._said(messages) for messages in conversations]
        columns: dict[str, np.ndarray] = {}
        if chosen.languages:
            columns["language"], columns["language_confidence"] = detect_languages(whole)
        if chosen.decontaminate:
            columns["benchmark_ngram"], columns["benchmark_matches"] = self._filters.benchmarks.find(
                hash_words(whole)
            )
        if chosen.exact_duplicates:
            columns["digest"] = digest_texts(said)
        if chosen.near_duplicates:
            columns["signature"] = sign_words(hash_words(said))
        return columns

    def decide(self, columns: Mapping[str, np.ndarray], codes: np.ndarray) -> dict[int, dict[str, Any]]:
        """Writes reasons into `codes`, where they are 0, and gives the details of each that is left out."""
        chosen = self._chosen
        details: dict[int, dict[str, Any]] = {}
        if chosen.languages:
            keep = [language_labels().index(label) for label in chosen.languages.keep]
            foreign = ~np.isin(columns["language"], keep)
            foreign |= columns["language_confidence"] < chosen.languages.min_confidence
            for n in _mark(codes, foreign, "language"):
                label = language_labels()[int(columns["language"][n])]
                details[n] = {"language": label, "confidence": _rounded(columns["language_confidence"][n])}
        if chosen.decontaminate:
            matched = columns["benchmark_matches"] >= chosen.decontaminate.least_matches
            for n in _mark(codes, matched, "contaminated"):
                details[n] = self._match(columns, n)
        everyone = np.arange(len(codes))
        if chosen.exact_duplicates:
            first = find_exact_repeats(columns["digest"], codes == KEPT)
            for n in _mark(codes, first != everyone, "exact_duplicate"):
                details[n] = {"of": int(first[n])}
        if chosen.near_duplicates:
            threshold = chosen.near_duplicates.threshold
            found = find_near_repeats(columns["signature"], codes == KEPT, threshold=threshold)
            for n in _mark(codes, found.original != everyone, "near_duplicate"):
                details[n] = {"of": int(found.original[n]), "similarity": _rounded(found.similarity[n])}
            for detail in details.values():  # the first of a chain is the one that is kept
                if "of" in detail and codes[detail["of"]] != KEPT:
                    detail["of"] = int(found.original[detail["of"]])
        return details

    def find_contaminated(self, conversations: list[Messages]) -> dict[int, dict[str, Any]]:
        """Those of some conversations that hold a benchmark's text, with the details."""
        chosen = self._chosen.decontaminate
        if chosen is None:
            return {}
        whole = ["\n".join(message["content"] for message in messages) for messages in conversations]
        ngrams, matches = self._filters.benchmarks.find(hash_words(whole))
        columns = {"benchmark_ngram": ngrams, "benchmark_matches": matches}
        return {int(n): self._match(columns, int(n)) for n in np.flatnonzero(matches >= chosen.least_matches)}

    def _said(self, messages: Messages) -> str:
        roles = ("user",) if self._by_prompt else ("user", "assistant", "tool")
        return "\n".join(message["content"] for message in messages if message["role"] in roles)

    def _match(self, columns: Mapping[str, np.ndarray], n: int) -> dict[str, Any]:
        ngram, benchmark = self._filters.benchmarks.describe(int(columns["benchmark_ngram"][n]))
        return {"ngram": ngram, "benchmark": benchmark, "matches": int(columns["benchmark_matches"][n])}


def _mark(codes: np.ndarray, found: np.ndarray, reason: str) -> list[int]:
    """Gives the reason to those that have none yet, and tells which."""
    marked = np.flatnonzero(found & (codes == KEPT))
    codes[marked] = CODES[reason]
    return [int(n) for n in marked]


def _rounded(value: Any) -> float:
    return round(float(value), 3)
