"""The token store: a `datasets` folder of packed rows, with a manifest of ours.

data-00000.arrow ...         rows, one column `input_ids` of fixed length, a record batch a row
segments/00000.parquet ...   which document, from which token to which, lies where in which row
state.json, dataset_info.json   what `datasets.load_from_disk` needs
tokenizer/                   only if the separator is a new token: the tokenizer that has it
manifest.json                settings, counts and digests; written last, so a folder without it is unfinished
progress.json                in its place until then
"""

from __future__ import annotations

import importlib.metadata
import itertools
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ultralong_hf.data.accounting import Counts, Position
from ultralong_hf.data.separators import parse_separator, resolve_separator
from ultralong_hf.data.shards import (
    file_sha256,
    read_json,
    read_segments,
    rows_schema,
    write_dataset_info,
    write_json,
    write_rows,
    write_segments,
)
from ultralong_hf.data.tokenization import load_tokenizer, tokenizer_digest
from ultralong_hf.errors import StoreError

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from ultralong_hf.data.rows import PositionedRow

MANIFEST, PROGRESS, LOCK, TOKENIZER = "manifest.json", "progress.json", ".lock", "tokenizer"
FORMAT = 1
PREVIEW_CHARACTERS = 80
"""Of each piece of a row in `describe_row`."""

_PACKAGES = ("ultralong-hf", "datasets", "numpy", "pyarrow", "tokenizers", "transformers")


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
    start: Position
    """Where in the documents its first row begins: enough to make it again alone."""

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Shard:
        return cls(**{**fields, "start": Position(**fields["start"])})

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "start": self.start._asdict()}

    def damaged_files(self, folder: Path) -> list[str]:
        """Its files that are missing or do not match their digests."""
        digests = {self.file: self.sha256, self.segments: self.segments_sha256}
        return [name for name, digest in digests.items() if file_sha256(folder / name) != digest]


class StoreWriter:
    """Writes shards into a folder, and takes up where an earlier writer was stopped.

    A context manager that holds the folder's lock. On entry the folder is empty, or an unfinished or finished
    store of the same settings; anything else raises StoreError.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], *, source_labels: Sequence[str]) -> None:
        from filelock import FileLock

        self.folder = folder
        self.settings = settings
        self.source_labels = list(source_labels)
        self.rows_per_shard: int = settings["rows_per_shard"]
        self.shards: list[Shard] = []
        self.position = Position()
        self.counts = Counts()
        self.finished: str | None = None
        """Digest of the documents of a finished store."""
        self._lock = FileLock(folder / LOCK, timeout=0)
        self._schema = rows_schema(settings["dtype"], settings["target_length"])

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

    def write_shard(self, rows: Iterable[PositionedRow], counts: Counts) -> None:
        """Writes the next shard; `counts` must be those after the last of its rows."""
        shard, self.position = self._write(len(self.shards), self.position, rows)
        self.shards.append(shard)
        self.counts = counts
        self._save_progress()

    def damaged_shards(self) -> list[Shard]:
        """Shards whose files are missing or do not match their digests."""
        return [shard for shard in self.shards if shard.damaged_files(self.folder)]

    def rewrite_shard(self, shard: Shard, rows: Iterable[PositionedRow]) -> None:
        """Makes a shard again. Raises StoreError if it does not come out as it was."""
        again, _ = self._write(self.shards.index(shard), shard.start, rows)
        if again != shard:
            raise StoreError(
                f"{self.folder / shard.file} was damaged, and comes out differently when made again: the "
                "documents or the libraries have changed. Delete the folder, or choose another output_dir."
            )

    def finish(self, counts: Counts, tokenizer: PreTrainedTokenizerBase | None) -> None:
        """Completes the folder; the manifest comes last. `tokenizer`: to be saved with the store, if any."""
        if tokenizer is not None:
            _save_tokenizer(tokenizer, self.folder / TOKENIZER)
        files = [(shard.file, shard.sha256) for shard in self.shards]
        write_dataset_info(self.folder, self.settings["dtype"], self.settings["target_length"], files)
        manifest = {
            "format": FORMAT,
            "settings": self.settings,
            "source_labels": self.source_labels,
            "documents_sha256": counts.documents_sha256,
            **counts.summary(),
            "shards": [shard.to_dict() for shard in self.shards],
            "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        }
        write_json(self.folder / MANIFEST, manifest)
        (self.folder / PROGRESS).unlink()

    def discard(self) -> None:
        """Forgets a store without a row, so that the folder is free again."""
        (self.folder / PROGRESS).unlink()

    def _take_up(self) -> None:
        if (self.folder / MANIFEST).is_file():
            saved = read_manifest(self.folder)
            self._check_settings(saved)
            self.finished = saved["documents_sha256"]
            (self.folder / PROGRESS).unlink(missing_ok=True)
        elif (self.folder / PROGRESS).is_file():
            saved = read_json(self.folder / PROGRESS, FORMAT)
            self._check_settings(saved)
            self.position, self.counts = Position(**saved["position"]), Counts(**saved["counts"])
        else:
            ours = {LOCK, f"{PROGRESS}.part"}
            if foreign := sorted(f.name for f in self.folder.iterdir() if f.name not in ours):
                raise StoreError(
                    f"{self.folder} is no token store: it holds {foreign[0]}. Choose another output_dir."
                )
            self._save_progress()
            return
        self.shards = [Shard.from_dict(fields) for fields in saved["shards"]]

    def _check_settings(self, saved: dict[str, Any]) -> None:
        there = saved["settings"]
        if faults := [
            f"{self.folder} was made with another {key}: {there.get(key)!r} there, {value!r} now. "
            "Choose another output_dir, or delete it."
            for key, value in self.settings.items()
            if there.get(key) != value
        ]:
            raise StoreError(*faults)

    def _write(self, number: int, start: Position, rows: Iterable[PositionedRow]) -> tuple[Shard, Position]:
        first_row = number * self.rows_per_shard
        file, segments = f"data-{number:05d}.arrow", f"segments/{number:05d}.parquet"
        table: list[tuple[Any, ...]] = []
        end = start

        def tokens() -> Iterator[np.ndarray]:
            nonlocal end
            for row_number, packed in zip(itertools.count(first_row), rows):
                table.extend(
                    (row_number, *segment, packed.names[segment.document]) for segment in packed.row.segments
                )
                end = packed.end
                yield packed.row.tokens

        row_count, sha256 = write_rows(self.folder / file, self._schema, tokens())
        segments_sha256 = write_segments(self.folder / segments, table)
        size = (self.folder / file).stat().st_size
        return Shard(file, first_row, row_count, size, sha256, segments, segments_sha256, start), end

    def _save_progress(self) -> None:
        progress = {
            "format": FORMAT,
            "settings": self.settings,
            "position": self.position._asdict(),
            "counts": self.counts.to_dict(),
            "shards": [shard.to_dict() for shard in self.shards],
        }
        write_json(self.folder / PROGRESS, progress)


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
    for shard in (Shard.from_dict(fields) for fields in manifest["shards"]):
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
        raise StoreError(
            f"{folder} is no token store: it has no {MANIFEST}. Make one with `ultralong prepare`."
        )
    return read_json(folder / MANIFEST, FORMAT)


def describe_store(path: str | Path) -> dict[str, Any]:
    """What a finished store holds: settings, counts of documents and tokens, rows, shards, bytes."""
    manifest = read_manifest(path)
    shards = manifest.pop("shards")
    separator = manifest["settings"]["separator"]
    return {
        "path": str(path),
        **manifest,
        "target_length": manifest["settings"]["target_length"],
        "separator": separator,
        "shards": len(shards),
        "bytes": sum(shard["bytes"] for shard in shards),
    }


def describe_row(
    path: str | Path, row: int, *, tokenizer: PreTrainedTokenizerBase | str | None = None
) -> dict[str, Any]:
    """The pieces of a row in order: offset, length, separator or document with name and span of its tokens.

    With a tokenizer, or one in the store, each piece has the begin of its text as `preview`.
    Raises StoreError if there is no such row.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    if not 0 <= row < manifest["rows"]:
        raise StoreError(f"{folder} has no row {row}: it has rows 0 to {manifest['rows'] - 1}.")
    shard = Shard.from_dict(manifest["shards"][row // manifest["settings"]["rows_per_shard"]])
    pieces = read_segments(folder / shard.segments, row)
    if tokenizer is None and (folder / TOKENIZER).is_dir():
        tokenizer = str(folder / TOKENIZER)
    if tokenizer is not None:
        _add_previews(pieces, load_packed(folder, verify=False)[row]["input_ids"], load_tokenizer(tokenizer))
    documents = {piece["document"] for piece in pieces if not piece["is_separator"]}
    return {"row": row, "shard": shard.file, "documents": len(documents), "pieces": pieces}


def _add_previews(pieces: list[dict[str, Any]], tokens: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    for piece in pieces:
        stop = piece["offset"] + min(piece["length"], PREVIEW_CHARACTERS)
        text = tokenizer.decode(tokens[piece["offset"] : stop].tolist(), clean_up_tokenization_spaces=False)
        piece["preview"] = text[:PREVIEW_CHARACTERS]


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


def _save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    part = folder.with_name(f"{folder.name}.part")
    for leftover in (part, folder):
        shutil.rmtree(leftover, ignore_errors=True)
    tokenizer.save_pretrained(part)
    part.rename(folder)
