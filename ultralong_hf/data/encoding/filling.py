"""Phase 1 of a store: documents are read, tokenized and put away, three threads at once."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from ultralong_hf.data.documents import Source, read_documents
from ultralong_hf.data.encoding.cache_index import read_index
from ultralong_hf.data.encoding.token_cache import EncodedDocuments, TokenCache
from ultralong_hf.data.reading.bad_records import RecordPolicy
from ultralong_hf.data.reading.records import Document, Part
from ultralong_hf.errors import StoreError

if TYPE_CHECKING:
    from ultralong_hf.data.encoding.engines import EncodedBatch, Engine

BATCH_CHARACTERS = 8 << 20
BATCH_DOCUMENTS = 1 << 13
_AHEAD = 1  # batches that wait before the tokenizer, and as many behind it

Annotate = Callable[[list[str], list[np.ndarray], np.ndarray], dict[str, np.ndarray]]
"""Texts, their tokens in pieces, and lengths -> columns of the index."""
Item = TypeVar("Item")


class TextBatch(NamedTuple):
    """Some documents in order."""

    keys: np.ndarray
    """int64 [n, 3]: source, file, row."""
    names: list[str]
    texts: list[str]
    records: dict[str, Any]
    """State of the record policy after the last of them."""


def encoded_documents(
    cache: TokenCache,
    sources: list[Source],
    engine: Engine,
    *,
    part: Part,
    records: RecordPolicy,
    annotate: Annotate,
) -> Generator[EncodedDocuments]:
    """The documents that the cache lacks, tokenized, in batches.

    Raises StoreError if documents that are in it have changed, EngineMismatch, and what reading raises.
    """
    documents = documents_after(cache, sources, part, records)
    with (
        closing(read_ahead(text_batches(documents, records), _AHEAD)) as batches,
        closing(read_ahead(_encoded(batches, engine), _AHEAD)) as encoded,
    ):
        for batch, parts in encoded:
            yield _described(batch, parts, annotate)


def fill_cache(
    cache: TokenCache,
    documents: Iterable[EncodedDocuments],
    engine: dict[str, Any],
    progress: Callable[[int], object],
) -> None:
    """Puts documents into the cache; `engine` is what tokenized them, `progress` is told of their tokens."""
    for batch in documents:
        cache.append(batch)
        if cache.is_due:
            cache.close_file(engine)
        progress(int(batch.lengths.sum()))


def documents_after(
    cache: TokenCache, sources: list[Source], part: Part, records: RecordPolicy
) -> Iterator[tuple[int, Document]]:
    """The documents that the cache lacks; `records` goes on from where the cache ends.

    Sources that have no fingerprint are read from the beginning, and their texts compared with the digests in
    the cache. Raises StoreError where these differ.
    """
    if cache.last is None:
        return read_documents(sources, part=part, policy=records)
    if all(source.fingerprint for source in sources):
        records.restore(cache.files[-1]["records"])
        start = cache.last._replace(row=cache.last.row + 1)
        return read_documents(sources, part=part, policy=records, start=start)
    documents = read_documents(sources, part=part, policy=records)
    digests = read_index([cache.folder]).digest
    same = sum(1 for was, digest in zip(digests, text_digests(documents), strict=False) if was == digest)
    if same < len(digests):
        raise StoreError(
            f"the documents have changed since this store was begun: {len(digests) - same:,} of the first "
            f"{len(digests):,} are not the same. Choose another output_dir, or delete this one."
        )
    return documents


def text_digests(documents: Iterable[tuple[int, Document]]) -> Iterator[int]:
    """64 bits of each text."""
    return (text_digest(document.text) for _, document in documents)


def text_digest(text: str) -> int:
    """64 bits of a text: not against malice, but a document that has changed is noticed."""
    import xxhash

    return xxhash.xxh3_64_intdigest(text.encode())


def text_batches(documents: Iterable[tuple[int, Document]], records: RecordPolicy) -> Iterator[TextBatch]:
    """Batches of about 8 M characters, or one document if that is longer."""
    keys: list[tuple[int, int, int]] = []
    names: list[str] = []
    texts: list[str] = []
    room = BATCH_CHARACTERS
    for source, (text, name, file, row) in documents:
        keys.append((source, file, row))
        names.append(name)
        texts.append(text)
        room -= len(text)
        if room <= 0 or len(texts) == BATCH_DOCUMENTS:
            yield TextBatch(np.array(keys, dtype=np.int64), names, texts, records.state())
            keys, names, texts, room = [], [], [], BATCH_CHARACTERS
    if texts:
        yield TextBatch(np.array(keys, dtype=np.int64), names, texts, records.state())


def _encoded(batches: Iterable[TextBatch], engine: Engine) -> Iterator[tuple[TextBatch, list[EncodedBatch]]]:
    """The batches with their ids; the next is begun before the one at hand has ended."""
    begun: deque[tuple[TextBatch, Callable[[], list[EncodedBatch]]]] = deque()
    for batch in batches:
        begun.append((batch, engine.start(batch.texts)))
        if len(begun) > 1:
            first, finish = begun.popleft()
            yield first, finish()
    for last, finish in begun:
        yield last, finish()


def _described(batch: TextBatch, parts: list[EncodedBatch], annotate: Annotate) -> EncodedDocuments:
    import pyarrow as pa

    texts = batch.texts
    count = len(texts)
    tokens, lengths = [part.tokens for part in parts], np.concatenate([part.lengths for part in parts])
    return EncodedDocuments(
        keys=batch.keys,
        names=pa.array(batch.names, pa.large_string()),
        tokens=tokens,
        lengths=lengths,
        characters=np.fromiter(map(len, texts), np.int64, count),
        digests=np.fromiter(map(text_digest, texts), np.uint64, count),
        columns=annotate(texts, tokens, lengths),
        records=batch.records,
    )


def read_ahead(items: Iterable[Item], depth: int) -> Generator[Item]:
    """The same items, made by a thread of its own that is at most `depth` ahead; errors come out here."""
    made: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(kind: str, value: Any) -> None:
        while not stopped.is_set():
            try:
                return made.put((kind, value), timeout=0.1)
            except queue.Full:
                continue

    def make() -> None:
        try:
            for item in items:
                put("item", item)
                if stopped.is_set():
                    return
        except BaseException as error:  # whatever it is, it belongs to the thread that asked
            put("error", error)
        else:
            put("end", None)

    thread = threading.Thread(target=make, name="read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = made.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
    finally:
        stopped.set()
        thread.join()
