"""What a recipe's `filters` may say, checked: one small class a filter."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ultralong_hf.errors import DocumentError


@dataclass(frozen=True, kw_only=True)
class LanguageSettings:
    keep: tuple[str, ...]
    """ISO 639 codes, as py3langid has them. Documents whose likeliest language is another are left out."""
    min_confidence: float = 0.0
    """Probability. Documents whose likeliest language is less sure are left out."""

    def to_dict(self) -> dict[str, Any]:
        return {"keep": list(self.keep), "min_confidence": self.min_confidence}


@dataclass(frozen=True, kw_only=True)
class BenchmarkFile:
    path: str
    """File, folder or glob: JSON lines, a JSON list, Parquet, text; plain or compressed."""
    columns: tuple[str, ...] | None = None
    """None: all texts of a row."""
    split: str | None = None
    """Given: the path is a Hub dataset, and this its split."""
    name: str | None = None
    """Configuration of a Hub dataset."""
    revision: str | None = None


@dataclass(frozen=True, kw_only=True)
class DecontaminateSettings:
    files: tuple[BenchmarkFile, ...]
    ngram: int = 13
    """Words. 13 as for GPT-3."""
    least_words: int = 8
    """A benchmark text of fewer words than `ngram`, but these at least, is searched whole. 8 as for GPT-3;
    at most `ngram`."""
    least_matches: int = 1
    """Different n-grams of the benchmarks that a document must hold to be left out."""

    def to_dict(self) -> dict[str, Any]:
        """Without the folders, which differ from machine to machine."""
        files = [
            [Path(file.path).name, file.columns and list(file.columns)]
            if file.split is None
            else {key: value for key, value in asdict(file).items() if value is not None}
            for file in self.files
        ]
        return {**asdict(self), "files": files}


@dataclass(frozen=True, kw_only=True)
class NearDuplicateSettings:
    threshold: float = 0.8
    """Jaccard similarity, estimated, of the sets of runs of five words of two documents: from it on, they are
    near duplicates."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class FilterSettings:
    languages: LanguageSettings | None = None
    decontaminate: DecontaminateSettings | None = None
    exact_duplicates: bool = False
    near_duplicates: NearDuplicateSettings | None = None

    def any(self) -> bool:
        """Whether any filter is on."""
        return any(getattr(self, f.name) for f in fields(self))


@dataclass
class _Reader:
    """Reads mappings and gathers faults, so that all are told together."""

    faults: list[str] = field(default_factory=list)

    def keys(self, value: Mapping[str, Any], known: type, place: str) -> dict[str, Any]:
        """The known keys of a mapping; the others are faults."""
        names = [f.name for f in fields(known)]
        for key in value:
            if key not in names:
                near = difflib.get_close_matches(str(key), names, n=1)
                hint = f"Nearest: {near[0]}." if near else f"Known: {', '.join(names)}."
                self.faults.append(f"{place}.{key} is no filter key. {hint}")
        return {key: item for key, item in value.items() if key in names}

    def number(
        self, given: dict[str, Any], key: str, place: str, *, least: float, most: float, whole: bool = False
    ) -> None:
        """Notes a fault if the key is there and holds no number within the bounds."""
        value = given.get(key, least)
        kinds = int if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
            kind = "a whole number" if whole else "a number"
            self.faults.append(f"{place}.{key} is {value!r}: {kind} from {least:g} to {most:g} is needed.")

    def texts(self, value: Any, place: str) -> tuple[str, ...]:
        """A list of texts, or one text alone."""
        items = [value] if isinstance(value, str) else value
        if (
            isinstance(items, list | tuple)
            and items
            and all(isinstance(item, str) and item for item in items)
        ):
            return tuple(items)
        self.faults.append(f"{place} is {value!r}: a list of texts is needed.")
        return ()


def parse_settings(value: Any) -> FilterSettings:
    """Settings from a recipe's mapping. Raises DocumentError with all its faults."""
    if value is None:
        return FilterSettings()
    if not isinstance(value, Mapping):
        known = ", ".join(f.name for f in fields(FilterSettings))
        raise DocumentError(f"filters is {value!r}: give a mapping of {known}, or none.")
    reader = _Reader()
    given = reader.keys(value, FilterSettings, "filters")
    parsers: dict[str, Callable[[_Reader, Any, str], Any]] = {
        "languages": _languages,
        "decontaminate": _decontaminate,
        "exact_duplicates": _switch,
        "near_duplicates": _near_duplicates,
    }
    chosen = {
        key: parsers[key](reader, item, f"filters.{key}")
        for key, item in given.items()
        if item is not None and item is not False
    }
    if reader.faults:
        raise DocumentError(*reader.faults)
    return FilterSettings(**chosen)


def _switch(reader: _Reader, value: Any, place: str) -> bool:
    if value is not True:
        reader.faults.append(f"{place} is {value!r}: true or false is needed.")
    return True


def _near_duplicates(reader: _Reader, value: Any, place: str) -> NearDuplicateSettings | None:
    if value is True:
        return NearDuplicateSettings()
    if not isinstance(value, Mapping):
        reader.faults.append(f"{place} is {value!r}: true, false, or a mapping such as {{threshold: 0.8}}.")
        return None
    given = reader.keys(value, NearDuplicateSettings, place)
    before = len(reader.faults)
    reader.number(given, "threshold", place, least=0.3, most=1.0)
    return NearDuplicateSettings(**given) if len(reader.faults) == before else None


def _languages(reader: _Reader, value: Any, place: str) -> LanguageSettings | None:
    if not isinstance(value, Mapping):
        return LanguageSettings(keep=reader.texts(value, place))
    given = reader.keys(value, LanguageSettings, place)
    reader.number(given, "min_confidence", place, least=0, most=1)
    keep = reader.texts(given.get("keep"), f"{place}.keep")
    return LanguageSettings(**{**given, "keep": keep})


def _decontaminate(reader: _Reader, value: Any, place: str) -> DecontaminateSettings | None:
    if not isinstance(value, Mapping):
        value = {"files": value}
    given = reader.keys(value, DecontaminateSettings, place)
    before = len(reader.faults)
    for key in ("ngram", "least_words", "least_matches"):
        reader.number(given, key, place, least=1, most=1000, whole=True)
    if len(reader.faults) == before:
        ngram = given.get("ngram", DecontaminateSettings.ngram)
        least = given.setdefault("least_words", min(ngram, DecontaminateSettings.least_words))
        if least > ngram:
            reader.faults.append(f"{place}.least_words is {least}: at most ngram, which is {ngram}.")
    files = given.get("files")
    items = list(files) if isinstance(files, list | tuple) and files else [files]
    parsed = [_benchmark_file(reader, item, f"{place}.files") for item in items]
    return DecontaminateSettings(**{**given, "files": tuple(file for file in parsed if file)})


def _benchmark_file(reader: _Reader, value: Any, place: str) -> BenchmarkFile | None:
    if isinstance(value, str | Path) and str(value):
        return BenchmarkFile(path=str(value))
    if not isinstance(value, Mapping):
        reader.faults.append(f"{place} holds {value!r}: a path, or a mapping of path and columns, is needed.")
        return None
    given = reader.keys(value, BenchmarkFile, place)
    if not isinstance(given.get("path"), str | Path):
        reader.faults.append(f"{place} holds {dict(value)!r}: a path is needed.")
        return None
    columns = given.get("columns")
    hub = {key: given.get(key) for key in ("split", "name", "revision")}
    for key, text in hub.items():
        if text is not None and not isinstance(text, str):
            reader.faults.append(f"{place}.{key} is {text!r}: a text is needed.")
    if hub["split"] is None and (hub["name"] or hub["revision"]):
        reader.faults.append(
            f"{place} holds {dict(value)!r}: name and revision are of Hub datasets; add split."
        )
    return BenchmarkFile(
        path=str(given["path"]),
        columns=None if columns is None else reader.texts(columns, f"{place}.columns"),
        **hub,
    )
