"""Quality filters: which documents are left out, and why. Each is off unless it is named.

```yaml
filters:
  languages: {keep: [en, de], min_confidence: 0.5}   # or languages: [en, de]
  decontaminate: {files: [benchmarks/*.jsonl, {path: mmlu.parquet, columns: [question]}], ngram: 13}
  exact_duplicates: true
  near_duplicates: {threshold: 0.8}                  # or near_duplicates: true
```

Two steps, so that parts of a corpus can be read on many machines: `annotate` looks at texts alone and gives a
few numbers a document, `decide` looks at all documents' numbers in order. A document is left out for the
first of the reasons above that holds, and one that is left out makes no other a duplicate.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from ultralong_hf.data.filtering.benchmarks import read_benchmarks
from ultralong_hf.data.filtering.decontamination import NO_MATCH, BenchmarkIndex
from ultralong_hf.data.filtering.duplicates import (
    Repeats,
    digest_texts,
    find_exact_repeats,
    find_near_repeats,
    sign_words,
)
from ultralong_hf.data.filtering.filter_settings import (
    BenchmarkFile,
    FilterSettings,
    LanguageSettings,
    parse_settings,
)
from ultralong_hf.data.filtering.languages import detect_languages, language_labels
from ultralong_hf.data.filtering.words import hash_words
from ultralong_hf.errors import DocumentError

KEPT = 0
REASONS = {1: "language", 2: "contaminated", 3: "exact_duplicate", 4: "near_duplicate"}
"""Code in `Decisions.codes` -> word."""
_CODES = {word: code for code, word in REASONS.items()}


class Removal(NamedTuple):
    """A document that is left out."""

    document: int
    """Its index in the columns."""
    reason: str
    detail: dict[str, Any]
    """language: language, confidence; contaminated: ngram, benchmark, matches; duplicates: of (the index of
    the document that is kept in its place) and, if near, similarity."""


def parse_filters(value: Mapping[str, Any] | Filters | None) -> Filters | None:
    """Filters from a recipe's mapping; none for none or an empty one, or where all are off.

    Raises DocumentError with all faults: unknown keys, values without sense. No file is read here.
    """
    if isinstance(value, Filters):
        return value
    settings = parse_settings(value)
    return Filters(settings) if settings.any() else None


class Filters:
    """The filters of one run. What they need is loaded at first use; `settings` loads it all."""

    def __init__(self, settings: FilterSettings) -> None:
        self._settings = settings

    def settings(self) -> dict[str, Any]:
        """All that decides what is left out, for the manifest: values, versions, the benchmarks' digest.

        Raises MachineError where a library is missing, DocumentError for benchmark files that cannot be read
        and languages that are not known: call it before a long run.
        """
        chosen = self._settings
        told: dict[str, Any] = {}
        if languages := chosen.languages:
            self._check_languages(languages)
            told["languages"] = {**languages.to_dict(), "library": _version("py3langid")}
        if decontaminate := chosen.decontaminate:
            told["decontaminate"] = {
                **decontaminate.to_dict(),
                "ngrams": self.benchmarks.ngrams,
                "too_short_texts": self.benchmarks.too_short,
                "sha256": self.benchmarks.digest,
            }
        if chosen.exact_duplicates:
            told["exact_duplicates"] = True
        if near := chosen.near_duplicates:
            sign_words(hash_words(["loads the library"]))
            told["near_duplicates"] = {**near.to_dict(), "library": _version("datasketch")}
        return told

    @functools.cached_property
    def benchmarks(self) -> BenchmarkIndex:
        """The n-grams of the benchmark files."""
        chosen = self._settings.decontaminate
        assert chosen is not None
        texts = [text for file in chosen.files for text in read_benchmarks(**_arguments(file))]
        return BenchmarkIndex(texts, ngram=chosen.ngram, least_words=chosen.least_words)

    def annotate(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """Columns of numbers, a row a text; each row depends on its text alone."""
        chosen = self._settings
        columns: dict[str, np.ndarray] = {}
        if chosen.languages:
            columns["language"], columns["language_confidence"] = detect_languages(texts)
        if chosen.exact_duplicates:
            columns["text_digest"] = digest_texts(texts)
        if chosen.decontaminate or chosen.near_duplicates:
            words = hash_words(texts)
        if chosen.decontaminate:
            columns["benchmark_ngram"], columns["benchmark_matches"] = self.benchmarks.find(words)
        if chosen.near_duplicates:
            columns["signature"] = sign_words(words)
        return columns

    def decide(self, columns: Mapping[str, np.ndarray]) -> Decisions:
        """Which documents are left out, from the columns of all of them in order."""
        chosen = self._settings
        count = len(next(iter(columns.values()))) if columns else 0
        codes = np.zeros(count, np.uint8)
        exact, near = None, None
        if chosen.languages:
            codes[self._is_foreign(columns, chosen.languages)] = _CODES["language"]
        if chosen.decontaminate:
            matched = columns["benchmark_matches"] >= chosen.decontaminate.least_matches
            codes[(codes == KEPT) & matched] = _CODES["contaminated"]
        if chosen.exact_duplicates:
            exact = find_exact_repeats(columns["text_digest"], codes == KEPT)
            codes[exact != np.arange(count)] = _CODES["exact_duplicate"]
        if chosen.near_duplicates:
            threshold = chosen.near_duplicates.threshold
            near = find_near_repeats(columns["signature"], codes == KEPT, threshold=threshold)
            codes[near.original != np.arange(count)] = _CODES["near_duplicate"]
        return Decisions(codes, Removals(self, codes, columns, exact, near))

    def _check_languages(self, chosen: LanguageSettings) -> None:
        known = language_labels()
        if unknown := sorted(set(chosen.keep) - set(known)):
            raise DocumentError(f"filters.languages: {unknown} not known. Known: {', '.join(sorted(known))}.")

    def _is_foreign(self, columns: Mapping[str, np.ndarray], chosen: LanguageSettings) -> np.ndarray:
        labels = language_labels()
        kept = np.isin(columns["language"], [labels.index(label) for label in chosen.keep])
        return ~kept | (columns["language_confidence"] < chosen.min_confidence)


@dataclass(frozen=True)
class Decisions:
    """What became of each document."""

    codes: np.ndarray
    """uint8 [documents]: 0 for those that are kept, else a key of REASONS."""
    removed: Removals
    """Those that are left out, in order; made one by one as they are gone through."""

    def counts(self) -> dict[str, int]:
        """Reason -> documents left out for it."""
        return {word: int((self.codes == code).sum()) for code, word in REASONS.items()}


class Removals:
    """The documents that are left out: a sized iterable of Removal that can be gone through again."""

    def __init__(
        self,
        filters: Filters,
        codes: np.ndarray,
        columns: Mapping[str, np.ndarray],
        exact: np.ndarray | None,
        near: Repeats | None,
    ) -> None:
        self._filters = filters
        self._codes = codes
        self._columns = columns
        self._exact = exact
        self._near = near

    def __len__(self) -> int:
        return int(np.count_nonzero(self._codes))

    def __iter__(self) -> Iterator[Removal]:
        details = {
            "language": self._language,
            "contaminated": self._contamination,
            "exact_duplicate": self._repeated,
            "near_duplicate": self._resembled,
        }
        for document in map(int, np.flatnonzero(self._codes)):
            reason = REASONS[int(self._codes[document])]
            yield Removal(document, reason, details[reason](document))

    def _language(self, document: int) -> dict[str, Any]:
        return {
            "language": language_labels()[int(self._columns["language"][document])],
            "confidence": round(float(self._columns["language_confidence"][document]), 3),
        }

    def _contamination(self, document: int) -> dict[str, Any]:
        number = int(self._columns["benchmark_ngram"][document])
        assert number != NO_MATCH
        ngram, benchmark = self._filters.benchmarks.describe(number)
        matches = int(self._columns["benchmark_matches"][document])
        return {"ngram": ngram, "benchmark": benchmark, "matches": matches}

    def _repeated(self, document: int) -> dict[str, Any]:
        assert self._exact is not None
        first = int(self._exact[document])
        return {"of": int(self._near.original[first]) if self._near else first}

    def _resembled(self, document: int) -> dict[str, Any]:
        assert self._near is not None
        similarity = round(float(self._near.similarity[document]), 3)
        return {"of": int(self._near.original[document]), "similarity": similarity}


def _arguments(file: BenchmarkFile) -> dict[str, Any]:
    return {"pattern": file.path, **{f.name: getattr(file, f.name) for f in fields(file) if f.name != "path"}}


def _version(package: str) -> str:
    return f"{package} {importlib.metadata.version(package)}"
