"""Documents -> token store, in three phases: tokenize into a cache, plan the rows, gather them from it."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultralong_hf.data.documents import read_documents
from ultralong_hf.data.encoding.engines import open_engine
from ultralong_hf.data.encoding.filling import encoded_documents, fill_cache, text_digests
from ultralong_hf.data.encoding.token_cache import TokenCache
from ultralong_hf.data.reading.records import Part
from ultralong_hf.data.store import StoreWriter, load_packed
from ultralong_hf.data.storing.assembling import Tokenized, assemble
from ultralong_hf.data.storing.job import Job, open_job
from ultralong_hf.data.storing.progress import phase
from ultralong_hf.data.storing.straight import goes_straight, write_straight
from ultralong_hf.errors import DocumentError, EngineMismatch, MachineError, StoreError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from ultralong_hf.data.filtering.filters import Filters
    from ultralong_hf.data.mixture import Mixture
    from ultralong_hf.data.separators import Separator

_log = logging.getLogger(__name__)


def prepare_dataset(
    sources: Any,
    *,
    tokenizer: PreTrainedTokenizerBase | str | os.PathLike[str],
    target_length: int | str,
    output_dir: str | Path,
    separator: Separator | str | Mapping[str, Any] | None = "<s>",
    text_column: str = "text",
    filters: Filters | Mapping[str, Any] | None = None,
    mixture: Mixture | Mapping[str, Any] | str | None = None,
    min_document_length: int = 0,
    token_budget: int | str | None = None,
    epochs: float = 1,
    order: str = "source",
    keep_tail: bool = True,
    on_error: str = "skip",
    max_bad_share: float = 0.05,
    engine: str = "auto",
    seed: int = 0,
    workers: int | None = None,
    rows_per_shard: int | None = None,
) -> Dataset:
    """Packs documents into rows of exactly `target_length` tokens; the rows on disk, opened and verified.

    Documents are joined by the separator and cut into rows without padding; the last row, if short, is
    dropped and counted. Nothing larger than a row, some MB of documents and a few dozen bytes of facts a
    document are held. The disk needs the size of the tokens; twice that while the work lasts, unless each
    document of files is taken once, as it comes.

    - `sources`: see `open_sources`; `text_column` holds for those that name no other.
    - `tokenizer`: loaded, or a folder or Hub id. It is not changed: the one that has the new token of a
      `new_token` separator is saved in `output_dir/tokenizer`.
    - `target_length`: tokens, or a text such as "1M".
    - `separator`: a text, or see `Separator`.
    - `filters`: which documents are removed; see `parse_filters`.
    - `mixture`: how often documents are taken, by their length; see `parse_mixture`. None: each once.
    - `min_document_length`: tokens; shorter documents are dropped.
    - `token_budget`: tokens, or a text such as "1B" (1,000,000,000); None: `epochs` times what there is.
    - `order`: "source", as the documents come; "shuffled"; "related", similar ones next to each other.
    - `keep_tail`: what a row cuts off a document begins the next row; False: it is dropped.
    - `on_error`: "skip" leaves out records that are no documents, and reports them; "stop" raises. A source
      of which more than `max_bad_share` is bad raises in any case.
    - `engine`: what tokenizes; see `open_engine`. `workers`: how many cores it uses; None: all.
    - `seed`: of all that is chosen. Rows do not depend on workers, engine or interruptions.
    - `rows_per_shard`: None: as many as fit in 256 MiB. Work that was interrupted goes on from the last whole
      file when the same call is made again, and gives the same bytes.

    A finished store with the same settings is opened, not made again; its damaged shards are. Raises
    DocumentError for sources that cannot be read, StoreError for a folder that is no store, was made with
    other settings, or is being written by another process, MachineError for a disk that is full.
    """
    job = open_job(
        sources,
        tokenizer=tokenizer,
        target_length=target_length,
        separator=separator,
        text_column=text_column,
        filters=filters,
        mixture=mixture,
        min_document_length=min_document_length,
        token_budget=token_budget,
        epochs=epochs,
        order=order,
        keep_tail=keep_tail,
        on_error=on_error,
        max_bad_share=max_bad_share,
        engine=engine,
        seed=seed,
        workers=workers,
        rows_per_shard=rows_per_shard,
    )
    folder = Path(output_dir)
    with disk_errors(folder), StoreWriter(folder, job.settings) as writer:
        if writer.finished is None or writer.damaged_shards():
            tokenized = tokenize(job, writer, Part())
            assemble(writer, [writer.cache], tokenized, job.filters, job.new_tokenizer, workers=job.workers)
        elif not job.settings.is_known_by_fingerprint:
            _check_documents(job, writer)
        writer.clean()
    return load_packed(folder, verify=False)


def tokenize(job: Job, writer: StoreWriter, part: Part) -> Tokenized:
    """Phase 1: the writer's cache, filled to the end.

    Where an engine's ids turn out to be wrong, everything is tokenized again by the tokenizer's own library.
    """
    cache = TokenCache(writer.cache, job.dtype)
    if writer.has_damaged_rows():
        cache.clear()
        writer.begin_again()
    if cache.complete is None or not job.settings.is_known_by_fingerprint:
        try:
            _fill(job, writer, cache, part)
        except EngineMismatch as error:
            if any(source.one_pass for source in job.sources):
                raise DocumentError(
                    f"{error} The documents come from an iterator, which gives them once: make the same call "
                    "again with engine='tokenizers'."
                ) from error
            _log.warning("%s", error)
            cache.clear()
            writer.begin_again(distrusted=str(error))
            _fill(job, writer, cache, part)
    assert cache.complete is not None
    return Tokenized.of([cache.complete])


def _fill(job: Job, writer: StoreWriter, cache: TokenCache, part: Part) -> None:
    records = job.records()
    name = job.engine if writer.distrusted is None else "tokenizers"
    with (
        open_engine(
            job.separator.encoder, engine=name, workers=job.workers, seed=job.settings.seed
        ) as engine,
        phase("tokenizing", done=cache.tokens) as progress,
    ):
        for notice in engine.notices:
            _log.warning("%s", notice)
        about_engine = {"name": engine.name, "version": engine.version}
        put = partial(write_straight, writer) if goes_straight(writer, cache) else fill_cache
        try:
            with closing(
                encoded_documents(
                    cache, job.sources, engine, part=part, records=records, annotate=job.annotate
                )
            ) as documents:
                put(cache, documents, about_engine, progress)
            notices = [writer.distrusted] if writer.distrusted else []
            cache.finish(records.state(), about_engine, [*notices, *engine.notices])
        finally:
            cache.abandon()


def _check_documents(job: Job, writer: StoreWriter) -> None:
    """Raises StoreError if the documents are not those that the finished store was made of."""
    assert writer.finished is not None
    digest = hashlib.sha256()
    for text in text_digests(read_documents(job.sources, policy=job.records())):
        digest.update(text.to_bytes(8, "little"))
    if digest.hexdigest() != writer.finished["documents_sha256"]:
        raise StoreError(
            f"{writer.folder} was made of other documents. Choose another output_dir, or delete it."
        )


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Makes MachineError of what a disk has to say; what was whole before stays."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MachineError(
                f"{folder}: the disk is full. Make room, and run the same again: it goes on from the last "
                "whole file. `ultralong prepare --dry-run` tells how much the work needs."
            ) from error
        if error.filename is None or not Path(error.filename).is_relative_to(folder):
            raise  # of whatever the documents come from
        raise MachineError(f"{error.filename} cannot be written or read: {error.strerror}") from error
