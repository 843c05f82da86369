"""The token store: a `datasets` folder of packed rows, with a manifest of ours.

data-00000.arrow ...         rows, one column `input_ids` of fixed length; a record batch holds a row, or as
                             many as make 1M tokens
segments/00000.parquet ...   which document, from which token to which, lies where in which row
state.json, dataset_info.json   what `datasets.load_from_disk` needs
bad_records.jsonl            only if records were skipped: their places and what was wrong
removed.jsonl                only if filters removed documents: which, and why
tokenizer/                   only if the separator is a new token: the tokenizer that has it
manifest.json                settings, counts and digests; written last, so a folder without it is unfinished
progress.json, cache/        in its place until then: see `token_cache`
"""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ultralong_hf.data.reading.records import Part
from ultralong_hf.data.separators import parse_separator, resolve_separator
from ultralong_hf.data.storing.gathering import segment_table
from ultralong_hf.data.storing.settings import Settings, check_same
from ultralong_hf.data.storing.shards import (
    file_sha256,
    read_json,
    rows_schema,
    write_dataset_info,
    write_json,
    write_json_lines,
    write_rows,
    write_segments,
)
from ultralong_hf.data.tokenization import load_tokenizer, tokenizer_digest
from ultralong_hf.errors import StoreError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

MANIFEST, PROGRESS, PART, LOCK = "manifest.json", "progress.json", "part.json", ".lock"
CACHE, TOKENIZER = "cache", "tokenizer"
FORMAT = 2

_PACKAGES = ("ultralong-hf", "datasets", "numpy", "pyarrow", "tokenizers", "transformers")
_OTHER_FOLDER = "Choose another output_dir, or delete it."


@dataclass(frozen=True)
class Shard:
    """One Arrow file of a store, as the manifest tells it."""

    file: str
    first_row: int
    row_count: int
    bytes: int
    sha256: str
    segments: str
    segments_sha256: str

    def damaged_files(self, folder: Path) -> list[str]:
        """Its files that are missing or do not match their digests."""
        digests = {self.file: self.sha256, self.segments: self.segments_sha256}
        return [name for name, digest in digests.items() if file_sha256(folder / name) != digest]


@dataclass(frozen=True)
class RowFile:
    """The Arrow file of a shard by itself."""

    file: str
    row_count: int
    bytes: int
    sha256: str


class StoreWriter:
    """Writes shards into a folder, and takes up where an earlier writer was stopped.

    A context manager that holds the folder's lock. On entry the folder is empty, or an unfinished or finished
    store of the same settings; anything else raises StoreError.
    """

    def __init__(self, folder: Path, settings: Settings, *, part: Part | None = None) -> None:
        """`part`: only the cache of this part is to be made; none: a store."""
        from filelock import FileLock

        self.folder = folder
        self.settings = settings
        self.part = part
        self.shards: list[Shard] = []
        self.rows: list[RowFile] = []
        """Those that were written before there was a plan."""
        self.finished: dict[str, Any] | None = None
        """The manifest of a finished store or part."""
        self.distrusted: str | None = None
        """Why this store goes on with the tokenizer's own library, once an engine's ids were wrong."""
        self._plan: str | None = None
        self._lock = FileLock(folder / LOCK, timeout=0)

    @property
    def cache(self) -> Path:
        """Folder of the token cache."""
        return self.folder / CACHE

    def __enter__(self) -> StoreWriter:
        from filelock import Timeout

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout:
            raise StoreError(
                f"{self.folder} is being written by another process. Wait until it has ended."
            ) from None
        except OSError as error:
            raise StoreError(f"{self.folder} cannot be written: {error}") from error
        try:
            self._take_up()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def begin_rows(self, plan_sha256: str) -> None:
        """Says by which plan the rows are made. Shards that were made by another one are forgotten."""
        if self.finished is None and self._plan != plan_sha256:
            self.shards, self._plan = [], plan_sha256
            self._save_progress()

    def write_rows(self, number: int, blocks: Iterable[np.ndarray]) -> RowFile:
        """Writes the rows of a shard, blocks of them [rows, target_length]. Threads may write several."""
        file = f"data-{number:05d}.arrow"
        schema = rows_schema(self.settings.dtype, self.settings.target_length)
        row_count, sha256 = write_rows(self.folder / file, schema, blocks)
        return RowFile(file, row_count, (self.folder / file).stat().st_size, sha256)

    def make_shard(
        self, number: int, rows: RowFile, pieces: Sequence[tuple[np.ndarray, np.ndarray]], names: pa.Array
    ) -> Shard:
        """Writes what is in the rows of a shard, which is no part of the store before `add_shard`.

        `pieces`: see `segment_table`. `names`: of all documents. Threads may make several at once.
        """
        segments = f"segments/{number:05d}.parquet"
        sha256 = write_segments(self.folder / segments, segment_table(pieces, names))
        first_row = number * self.settings.rows_per_shard
        return Shard(first_row=first_row, **vars(rows), segments=segments, segments_sha256=sha256)

    def add_rows(self, rows: RowFile) -> None:
        """The next file of rows that are written before there is a plan."""
        self.rows.append(rows)
        self._save_progress()

    def begin_again(self, distrusted: str | None = None) -> None:
        """Forgets all rows. `distrusted`: why the engine is not to be used again, nor by later runs."""
        for path in self.folder.glob("data-*.arrow"):
            path.unlink()
        self.rows, self.shards, self.distrusted = [], [], distrusted or self.distrusted
        self._save_progress()

    def add_shard(self, shard: Shard) -> None:
        """The next shard of the store, which has been made."""
        assert shard.first_row == len(self.shards) * self.settings.rows_per_shard
        self.shards.append(shard)
        self._save_progress()

    def damaged_shards(self) -> list[int]:
        """Numbers of the shards whose files are missing or do not match their digests."""
        return [number for number, shard in enumerate(self.shards) if shard.damaged_files(self.folder)]

    def has_damaged_rows(self) -> bool:
        """Whether a file of rows that were written before there was a plan is missing or damaged."""
        return any(file_sha256(self.folder / rows.file) != rows.sha256 for rows in self.rows)

    def mend_shard(self, number: int, shard: Shard) -> None:
        """Takes a shard that was made again. Raises StoreError if it did not come out as it was."""
        if shard != self.shards[number]:
            raise StoreError(
                f"{self.folder / self.shards[number].file} was damaged, and comes out differently when made "
                "again: the documents or the libraries have changed. Delete the folder, or choose another "
                "output_dir."
            )

    def finish(
        self,
        facts: Mapping[str, Any],
        *,
        lists: Mapping[str, Iterable[Mapping[str, Any]]],
        tokenizer: PreTrainedTokenizerBase | Path | None,
    ) -> None:
        """Completes the folder; the manifest, which has `facts`, comes last.

        `lists`: file name -> records; none is written for an empty list. `tokenizer`: to be saved with the
        store, or a folder to be copied.
        """
        if tokenizer is not None:
            save_tokenizer(tokenizer, self.folder / TOKENIZER)
        for name, records in lists.items():
            write_json_lines(self.folder / name, records)
        files = [(shard.file, shard.sha256) for shard in self.shards]
        write_dataset_info(self.folder, self.settings.dtype, self.settings.target_length, files)
        manifest = {
            **self._header(),
            **facts,
            "shards": [vars(shard) for shard in self.shards],
            "versions": versions(),
        }
        write_json(self.folder / MANIFEST, manifest)
        self.clean()

    def clean(self) -> None:
        """Removes what only an unfinished store needs."""
        (self.folder / PROGRESS).unlink(missing_ok=True)
        shutil.rmtree(self.cache, ignore_errors=True)

    def finish_part(self, facts: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase | None) -> None:
        """Completes the folder of a part; its cache stays."""
        if tokenizer is not None:
            save_tokenizer(tokenizer, self.folder / TOKENIZER)
        write_json(self.folder / PART, {**self._header(), **facts, "versions": versions()})
        (self.folder / PROGRESS).unlink(missing_ok=True)

    def _header(self) -> dict[str, Any]:
        part = None if self.part is None else [self.part.index, self.part.count]
        return {"format": FORMAT, "part": part, "settings": self.settings.to_dict()}

    def _take_up(self) -> None:
        goal, other = (MANIFEST, PART) if self.part is None else (PART, MANIFEST)
        if (self.folder / other).is_file():
            raise StoreError(
                f"{self.folder} holds {'a part of a store' if other == PART else 'a whole store'} already. "
                "Choose another output_dir, or delete it."
            )
        if (self.folder / goal).is_file():
            saved = self.finished = read_json(self.folder / goal, FORMAT)
            self._check_same(saved)
            (self.folder / PROGRESS).unlink(missing_ok=True)
        elif (self.folder / PROGRESS).is_file():
            saved = read_json(self.folder / PROGRESS, FORMAT)
            is_begun = saved["shards"] or saved["rows"] or any(self.cache.glob("tokens-*.json"))
            if not is_begun and {**saved, **self._header()} != saved:
                self._save_progress()  # other settings, but nothing is lost
                return
            self._check_same(saved)
            self.distrusted, self._plan = saved["distrusted"], saved["plan_sha256"]
            self.rows = [RowFile(**fields) for fields in saved["rows"]]
        else:
            refuse_foreign(self.folder)
            self._save_progress()
            return
        self.shards = [Shard(**fields) for fields in saved.get("shards", ())]

    def _check_same(self, saved: dict[str, Any]) -> None:
        header = self._header()
        check_same(str(self.folder), saved["settings"], header["settings"], _OTHER_FOLDER)
        if saved["part"] != header["part"]:
            there, here = (
                f"part {part[0]}/{part[1]}" if part else "the whole"
                for part in (saved["part"], header["part"])
            )
            raise StoreError(f"{self.folder} is for {there}, not for {here}. {_OTHER_FOLDER}")

    def _save_progress(self) -> None:
        progress = {
            **self._header(),
            "distrusted": self.distrusted,
            "plan_sha256": self._plan,
            "rows": [vars(rows) for rows in self.rows],
            "shards": [vars(shard) for shard in self.shards],
        }
        write_json(self.folder / PROGRESS, progress)


def refuse_foreign(folder: Path) -> None:
    """Raises StoreError for a folder that holds anything but what a run leaves that was killed at once."""
    ours = {LOCK, f"{PROGRESS}.part"}
    if foreign := sorted(f.name for f in folder.iterdir() if f.name not in ours):
        raise StoreError(f"{folder} is no token store: it holds {foreign[0]}. Choose another output_dir.")


def load_packed(
    path: str | Path, *, tokenizer: PreTrainedTokenizerBase | str | None = None, verify: bool = True
) -> Dataset:
    """The rows of a finished store, memory-mapped, in numpy format: `input_ids` int64 [target_length].

    `verify`: every shard is read once and compared with its digest. `tokenizer`: the one that will read the
    rows; it must give texts and the separator the same ids as the store's (a new token it need not have yet).
    Raises StoreError for a folder that is no finished store, is damaged, or was made with another tokenizer.
    """
    import datasets

    folder = Path(path)
    manifest = read_manifest(folder)
    if tokenizer is not None:
        _check_tokenizer(folder, manifest["settings"], load_tokenizer(tokenizer))
    for shard in (Shard(**fields) for fields in manifest["shards"]):
        if not (folder / shard.file).is_file() or (folder / shard.file).stat().st_size != shard.bytes:
            raise _damaged(folder, shard, shard.file)
        if verify and (files := shard.damaged_files(folder)):
            raise _damaged(folder, shard, files[0])
    return datasets.load_from_disk(str(folder), keep_in_memory=False)


def read_manifest(path: str | Path) -> dict[str, Any]:
    """The manifest of a finished store; StoreError if there is none."""
    folder = Path(path)
    if not (folder / MANIFEST).is_file():
        if (folder / PROGRESS).is_file():
            raise StoreError(
                f"{folder} is unfinished: run the same `ultralong prepare` again, and it goes on."
            )
        if (folder / PART).is_file():
            raise StoreError(f"{folder} is a part of a store: join all parts by `ultralong prepare --merge`.")
        raise StoreError(
            f"{folder} is no token store: it has no {MANIFEST}. Make one with `ultralong prepare`."
        )
    return read_json(folder / MANIFEST, FORMAT)


def versions() -> dict[str, str]:
    """Of the packages that decide the bytes."""
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


def save_tokenizer(tokenizer: PreTrainedTokenizerBase | Path, folder: Path) -> None:
    """Saves a tokenizer, or copies the folder of one, whole or not at all."""
    part = folder.with_name(f"{folder.name}.part")
    for leftover in (part, folder):
        shutil.rmtree(leftover, ignore_errors=True)
    if isinstance(tokenizer, Path):
        shutil.copytree(tokenizer, part)
    else:
        tokenizer.save_pretrained(part)
    part.rename(folder)


def _check_tokenizer(folder: Path, settings: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> None:
    if tokenizer_digest(tokenizer) != settings["tokenizer_sha256"]:
        raise StoreError(
            f"{folder / MANIFEST}: the store was made with another tokenizer than "
            f"{tokenizer.name_or_path or 'this'}: its ids would mean other texts. "
            "Use that tokenizer, or prepare the documents again."
        )
    separator = settings["separator"]
    spec = parse_separator({"kind": separator["kind"], "value": separator["value"]})
    resolved = list(resolve_separator(spec, tokenizer).ids)
    if resolved != separator["token_ids"]:
        raise StoreError(
            f"{folder / MANIFEST}: the separator {separator['value'] or separator['kind']} is "
            f"{separator['token_ids']} in the store, but {resolved} in this tokenizer. For a new token use "
            f"the tokenizer in {folder / TOKENIZER}."
        )


def _damaged(folder: Path, shard: Shard, file: str) -> StoreError:
    last = shard.first_row + shard.row_count - 1
    return StoreError(
        f"{folder / file} does not match its digest in {MANIFEST} (rows {shard.first_row}-{last}). "
        "Run the same `ultralong prepare` again: only this shard is rebuilt."
    )
