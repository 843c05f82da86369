"""A store out of many machines: each tokenizes a part of the documents, one joins the parts into rows.

A part is a folder with the token cache of its documents and part.json, which is written last. The joined
store has the bytes that one machine would have given.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ultralong_hf.data.encoding.token_cache import COMPLETE, index_files, is_whole
from ultralong_hf.data.encoding.token_cache import FORMAT as CACHE_FORMAT
from ultralong_hf.data.filtering.filters import Filters, parse_filters
from ultralong_hf.data.packing import disk_errors, tokenize
from ultralong_hf.data.reading.records import Part
from ultralong_hf.data.store import CACHE, FORMAT, PART, PROGRESS, TOKENIZER, StoreWriter, load_packed
from ultralong_hf.data.storing.assembling import Tokenized, assemble
from ultralong_hf.data.storing.job import open_job
from ultralong_hf.data.storing.settings import Settings, check_same
from ultralong_hf.data.storing.shards import read_json
from ultralong_hf.errors import InputError, StoreError

if TYPE_CHECKING:
    from datasets import Dataset


def parse_part(value: Part | tuple[int, int] | str) -> Part:
    """Part(0, 8) of "0/8" or (0, 8). Raises InputError."""
    if isinstance(value, Part):
        return value
    index, count = value.partition("/")[::2] if isinstance(value, str) else map(str, value)
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise InputError(
            f"{value!r} is no part: write i/n, such as 0/8 for the first of eight; i counts from 0 to n - 1."
        )
    return Part(int(index), int(count))


def prepare_part(
    sources: Any,
    *,
    part: Part | tuple[int, int] | str,
    output_dir: str | Path,
    filters: Filters | Mapping[str, Any] | None = None,
    max_bad_share: float = 0.05,
    **options: Any,
) -> dict[str, Any]:
    """Tokenizes one part of the documents into a folder of its own; what its part.json says.

    `part`: index from 0 and count, or a text such as "0/8". `options`: those of `prepare_dataset`, equal for
    all parts. Work that was interrupted goes on, a finished part is left as it is, or made whole again where
    it is damaged. Which share of a source is bad is known, and looked at, when the parts are joined.
    """
    chosen = parse_part(part)
    if isinstance(filters, Filters):
        raise InputError(
            "filters of a part are given as a mapping, which is kept for the one who joins them."
        )
    job = open_job(sources, filters=filters, max_bad_share=1.0, **options)
    folder = Path(output_dir)
    with disk_errors(folder), StoreWriter(folder, job.settings, part=chosen) as writer:
        if writer.finished is None or _remove_damage(folder, writer.finished):
            tokenized = tokenize(job, writer, chosen)
            files = [_facts_of(path) for path in index_files(writer.cache)]
            facts = {
                "documents": sum(file["documents"] for file in files),
                "tokens": sum(file["tokens"] for file in files),
                "records": tokenized.records.report(),
                "engine": tokenized.engine,
                "filters": dict(filters) if filters else None,
                "max_bad_share": max_bad_share,
                "cache": read_json(writer.cache / COMPLETE, CACHE_FORMAT),
                "files": files,
            }
            writer.finish_part(facts, job.new_tokenizer)
    return read_json(folder / PART, FORMAT)


def merge_parts(output_dir: str | Path, parts: Sequence[str | Path]) -> Dataset:
    """Joins all parts of a corpus into a store; its rows, opened and verified. The parts stay as they are.

    Work that was interrupted goes on from the last whole shard. Raises StoreError for a part that is missing,
    given twice, unfinished, damaged or made with other settings.
    """
    opened = sorted((_open_part(Path(part)) for part in parts), key=lambda part: part.facts["part"])
    _check_together(opened)
    for part in opened:
        part.check()
    first = opened[0]
    settings = Settings.from_dict(first.facts["settings"])
    filters = parse_filters(first.facts["filters"])
    if filters and json.loads(json.dumps(filters.settings())) != settings.filters:
        raise StoreError(
            f"{first.folder}: the benchmark files or libraries of its filters are others here than where it "
            "was made."
        )
    tokenized = Tokenized.of([part.facts["cache"] for part in opened])
    tokenized.records.max_bad_share = first.facts["max_bad_share"]
    for source in range(len(settings.sources)):
        tokenized.records.check(source)
    tokenizer = first.folder / TOKENIZER
    folder = Path(output_dir)
    with disk_errors(folder), StoreWriter(folder, settings) as writer:
        assemble(
            writer,
            [part.folder / CACHE for part in opened],
            tokenized,
            filters,
            tokenizer if tokenizer.is_dir() else None,
        )
        writer.clean()
    return load_packed(folder, verify=False)


@dataclass(frozen=True)
class _OpenPart:
    folder: Path
    facts: dict[str, Any]
    """Its part.json."""

    @property
    def name(self) -> str:
        index, count = self.facts["part"]
        return f"part {index}/{count}"

    def check(self) -> None:
        """Raises StoreError where a file is not as it was written."""
        if damaged := _damaged_files(self.folder, self.facts):
            raise StoreError(
                f"{damaged[0]} is missing or damaged. Run `ultralong prepare --shard` of {self.name} again: "
                "only what is damaged, and what follows it, is made again."
            )


def _open_part(folder: Path) -> _OpenPart:
    if not (folder / PART).is_file():
        why = "it is unfinished" if (folder / PROGRESS).is_file() else f"it has no {PART}"
        raise StoreError(f"{folder} is no finished part: {why}. Make it with `ultralong prepare --shard`.")
    return _OpenPart(folder, read_json(folder / PART, FORMAT))


def _check_together(parts: Sequence[_OpenPart]) -> None:
    """Raises StoreError unless these are all parts of one corpus, each once, of the same settings."""
    if not parts:
        raise StoreError("no part is given: name the folders that `ultralong prepare --shard` has made.")
    first = parts[0]
    count = first.facts["part"][1]
    places: dict[int, Path] = {}
    for part in parts:
        check_same(
            str(part.folder), part.facts["settings"], first.facts["settings"], f"Compare {first.folder}."
        )
        index, parts_there = part.facts["part"]
        if parts_there != count:
            raise StoreError(
                f"{part.folder} is one of {parts_there} parts, but {first.folder} is one of {count}."
            )
        if index in places:
            raise StoreError(f"{part.folder} and {places[index]} are both {part.name}: give each part once.")
        places[index] = part.folder
    if missing := [str(index) for index in range(count) if index not in places]:
        raise StoreError(
            f"of {count} parts {len(missing)} are missing: {', '.join(missing[:10])}"
            f"{', ...' if len(missing) > 10 else ''}. Make them with `ultralong prepare --shard i/{count}`."
        )


def _facts_of(index: Path) -> dict[str, Any]:
    """Of a cache file, what tells whether it is whole."""
    facts = read_json(index.with_suffix(".json"), CACHE_FORMAT)
    return {name: facts[name] for name in ("name", "documents", "tokens", "xxh3", "index_sha256")}


def _damaged_files(folder: Path, facts: Mapping[str, Any]) -> list[Path]:
    """Files of a part's cache that are missing or not as they were written."""
    dtype = np.dtype(facts["settings"]["dtype"])
    return [
        folder / CACHE / file["name"] for file in facts["files"] if not is_whole(folder / CACHE, file, dtype)
    ]


def _remove_damage(folder: Path, facts: Mapping[str, Any]) -> bool:
    """Whether there was any; then the files that are damaged are no longer taken for whole."""
    damaged = _damaged_files(folder, facts)
    for path in damaged:
        path.with_suffix(".json").unlink(missing_ok=True)
    return bool(damaged)
