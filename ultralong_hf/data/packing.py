"""Documents -> tokens -> rows -> token store, from the first document to the manifest."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from ultralong_hf.data.accounting import Counts, Position
from ultralong_hf.data.documents import Document, Source, open_sources, read_documents
from ultralong_hf.data.mixture import LengthMixture, parse_mixture
from ultralong_hf.data.rows import PositionedRow, RowPacker, count_tokens
from ultralong_hf.data.separators import ResolvedSeparator, Separator, parse_separator, resolve_separator
from ultralong_hf.data.store import StoreWriter, load_packed
from ultralong_hf.data.tokenization import PlainTextEncoder, encode_in_order, load_tokenizer, tokenizer_digest
from ultralong_hf.errors import DocumentError, StoreError
from ultralong_hf.lengths import format_length, parse_length

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

SHARD_BYTES = 256 * 1024**2


def prepare_dataset(
    sources: Any,
    *,
    tokenizer: PreTrainedTokenizerBase | str | os.PathLike[str],
    target_length: int | str,
    output_dir: str | Path,
    separator: Separator | str | Mapping[str, Any] | None = "<s>",
    text_column: str = "text",
    mixture: LengthMixture | Mapping[str, Any] | None = None,
    seed: int = 0,
    workers: int | None = None,
    rows_per_shard: int | None = None,
) -> Dataset:
    """Packs documents into rows of exactly `target_length` tokens; the rows on disk, opened and verified.

    Documents are taken in order, joined by the separator and cut into rows without padding; what is left of a
    document begins the next row, and the last row, if short, is dropped and counted. Empty documents are left
    out and counted. Nothing larger than a row, a few MB of documents read ahead and the document at hand is
    held.

    - `sources`: see `open_sources`; `text_column` holds for those that name no other.
    - `tokenizer`: loaded, or a folder or Hub id. It is not changed: the one that has the new token of a
      `new_token` separator is saved in `output_dir/tokenizer`.
    - `target_length`: tokens, or a text such as "1M".
    - `separator`: a text, or see `Separator`.
    - `mixture`: by document length; none: each document once. `seed`: of the mixture's choices.
    - `workers`: threads that tokenize; none: one a core. Rows do not depend on it.
    - `rows_per_shard`: none: as many as fit in 256 MiB. Work that was interrupted goes on from the last whole
      shard when the same call is made again, and gives the same bytes.

    A finished store with the same settings is opened, not made again; its damaged shards are. Raises
    DocumentError for sources that cannot be read, StoreError for a folder that is no store, was made with
    other settings, or is being written by another process.
    """
    resolved = resolve_separator(parse_separator(separator), load_tokenizer(tokenizer))
    plan = _plan(
        open_sources(sources, text_column=text_column), resolved, target_length, mixture, seed, workers
    )
    row_bytes = plan.target_length * plan.encoder.dtype.itemsize
    settings = plan.settings(rows_per_shard or max(1, SHARD_BYTES // row_bytes))
    labels = [source.label for source in plan.sources]
    with StoreWriter(Path(output_dir), settings, source_labels=labels) as writer:
        _repair(plan, writer)
        if writer.finished is None:
            _pack_all(plan, writer)
        elif not plan.is_known_by_fingerprint:
            _check_documents(plan, writer)
    return load_packed(Path(output_dir), verify=False)


@dataclass(frozen=True)
class _Plan:
    """What a run needs to turn documents into rows, from any position on."""

    sources: list[Source]
    separator: ResolvedSeparator
    encoder: PlainTextEncoder
    target_length: int
    mixture: LengthMixture | None
    seed: int
    workers: int | None

    @property
    def passes(self) -> int:
        return self.mixture.passes if self.mixture else 1

    @property
    def is_known_by_fingerprint(self) -> bool:
        return all(source.fingerprint for source in self.sources)

    def copies(self, document: int, length: int) -> int:
        return self.mixture.copies(document, length, seed=self.seed) if self.mixture else 1

    def settings(self, rows_per_shard: int) -> dict[str, Any]:
        """All that decides the bytes of the store, as the manifest holds it."""
        separator = self.separator.separator
        return {
            "target_length": self.target_length,
            "dtype": self.encoder.dtype.name,
            "tokenizer_sha256": tokenizer_digest(self.separator.tokenizer),
            "separator": {
                "kind": separator.kind,
                "value": separator.value,
                "token_ids": list(self.separator.ids),
            },
            "mixture": vars(self.mixture) if self.mixture else None,
            "seed": self.seed,
            "rows_per_shard": rows_per_shard,
            "sources": [source.fingerprint for source in self.sources],
        }


def _plan(
    sources: list[Source],
    separator: ResolvedSeparator,
    target_length: int | str,
    mixture: LengthMixture | Mapping[str, Any] | None,
    seed: int,
    workers: int | None,
) -> _Plan:
    length, mix = parse_length(target_length), parse_mixture(mixture)
    if workers is not None and workers < 1:
        raise DocumentError(f"workers is {workers}: at least 1, or none for one a core.")
    if mix and mix.passes > 1 and any(source.one_pass for source in sources):
        raise DocumentError(
            "mixture.long_repeat above 1 reads the documents more than once, but an iterator gives them "
            "once. Give a list, a dataset or a path."
        )
    return _Plan(sources, separator, PlainTextEncoder(separator.tokenizer), length, mix, seed, workers)


def _pack_all(plan: _Plan, writer: StoreWriter) -> None:
    """Writes shards from where the writer stands to the end of the documents, then the manifest."""
    position, counts = writer.position, writer.counts
    rows = _pack(plan, position, counts)
    bar = tqdm(
        desc=f"packing rows of {format_length(plan.target_length)}", unit="tok", unit_scale=True, disable=None
    )
    with bar:
        bar.update(counts.rows * plan.target_length)
        for first in rows:
            shard = itertools.islice(itertools.chain([first], rows), writer.rows_per_shard)
            writer.write_shard(_with_progress(shard, bar, plan.target_length), counts)
    if counts.rows == 0:
        writer.discard()
        raise DocumentError(
            f"the sources hold {counts.tokens_read:,} tokens in {counts.documents_used:,} documents, "
            f"which do not fill one row of {plan.target_length:,}. "
            "Give more documents or a smaller target_length."
        )
    writer.finish(counts, plan.separator.tokenizer if plan.separator.is_new else None)


def _with_progress(
    rows: Iterable[PositionedRow], bar: tqdm[Any], target_length: int
) -> Iterator[PositionedRow]:
    for row in rows:
        yield row
        bar.update(target_length)


def _repair(plan: _Plan, writer: StoreWriter) -> None:
    """Writes shards again that do not match their digests; the result must match."""
    for shard in writer.damaged_shards():
        rows = itertools.islice(_pack(plan, shard.start, Counts()), shard.row_count)
        writer.rewrite_shard(shard, rows)


def _check_documents(plan: _Plan, writer: StoreWriter) -> None:
    """Raises StoreError if the documents are not those that the finished store was made of."""
    digest = hashlib.sha256()
    for document in read_documents(plan.sources):
        _update(digest, document)
    if digest.hexdigest() != writer.finished:
        raise StoreError(
            f"{writer.folder} was made of other documents. Choose another output_dir, or delete it."
        )


def _pack(plan: _Plan, start: Position, counts: Counts) -> Iterator[PositionedRow]:
    """Rows from a position on. `counts` follows up to the row last given; at the end it has the rest."""
    packer = RowPacker(plan.target_length, plan.separator.ids, plan.encoder.dtype, is_first=start.is_first)
    names: dict[int, str] = {}
    resumed = start if start.document >= 0 else None
    for number in range(start.pass_number, plan.passes):
        digest = hashlib.sha256()
        for index, document, tokens in _tokenized(plan, digest, resumed):
            skip, resumed = (resumed.consumed if resumed else None), None
            copies = plan.copies(index, len(tokens))
            if skip is None and number == 0:
                counts.add_document(len(tokens), copies)
            if number >= copies or len(tokens) == 0:
                continue
            if skip is None:
                counts.add_use(len(tokens), packer.separator_length(), is_repeat=number > 0)
            names[index] = document.name
            is_first = packer.is_first
            for row in packer.add(tokens, index, skip=skip or 0):
                counts.add_row(*count_tokens(row.segments))
                end = Position(number, index, row.consumed, is_first, digest.hexdigest())
                yield PositionedRow(row, names, end)
                names = {index: document.name}
        if number == 0:
            counts.documents_sha256 = digest.hexdigest()
    counts.add_tail(*count_tokens(packer.pending))


def _tokenized(
    plan: _Plan, digest: hashlib._Hash, resumed: Position | None
) -> Iterator[tuple[int, Document, np.ndarray]]:
    """Index, document and ids of each document from the resumed one on; `digest` follows their texts."""
    documents = read_documents(plan.sources)
    first = resumed.document if resumed else 0
    for document in itertools.islice(documents, first):
        _update(digest, document)
    encoded = encode_in_order(documents, plan.encoder, workers=plan.workers)
    for index, (document, tokens) in enumerate(encoded, start=first):
        _update(digest, document)
        if resumed and digest.hexdigest() != resumed.documents_sha256:
            break
        resumed = None
        yield index, document, tokens
    if resumed:
        raise StoreError(
            "the documents have changed since this store was begun: up to document "
            f"{first} they are not the same. Choose another output_dir, or delete this one."
        )


def _update(digest: hashlib._Hash, document: Document) -> None:
    data = document.text.encode()
    digest.update(len(data).to_bytes(8, "big"))
    digest.update(data)
