"""Phases 2 and 3 of a store: from the caches of one run or of all parts to the rows and the manifest."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ultralong_hf.data.encoding.cache_index import CacheIndex, read_index
from ultralong_hf.data.filtering.filters import Decisions, Filters
from ultralong_hf.data.mixture import parse_mixture
from ultralong_hf.data.planning.accounting import Account, open_account
from ultralong_hf.data.planning.choice import choose_documents
from ultralong_hf.data.planning.composition import composition
from ultralong_hf.data.planning.layout import Layout, lay_out_rows
from ultralong_hf.data.planning.ordering import order_uses
from ultralong_hf.data.planning.tables import DocumentTable
from ultralong_hf.data.reading.bad_records import RecordPolicy
from ultralong_hf.data.store import Shard, StoreWriter
from ultralong_hf.data.storing.gathering import PackedRows, gather_rows, row_pieces
from ultralong_hf.data.storing.job import SKETCH
from ultralong_hf.data.storing.progress import phase
from ultralong_hf.data.storing.settings import Settings
from ultralong_hf.data.threads import cores, map_ahead
from ultralong_hf.errors import DocumentError, StoreError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_log = logging.getLogger(__name__)

_MOST_AT_ONCE = 4
BAD_RECORDS, REMOVED = "bad_records.jsonl", "removed.jsonl"


@dataclass(frozen=True)
class Tokenized:
    """What the manifest tells of phase 1."""

    records: RecordPolicy
    engine: dict[str, Any]
    """name, version, notices."""

    @classmethod
    def of(cls, caches: Sequence[Mapping[str, Any]]) -> Tokenized:
        """Joins what complete caches say of themselves."""
        records = RecordPolicy()
        records.restore(*(cache["records"] for cache in caches))
        used = _distinct(engine for cache in caches for engine in cache["engines"])
        engine = {
            "name": ", ".join(one["name"] for one in used),
            "version": ", ".join(one["version"] for one in used),
            "notices": _distinct(notice for cache in caches for notice in cache["notices"]),
        }
        return cls(records, engine)


@dataclass(frozen=True)
class TablePlan:
    """Which documents lie where, and what has become of the others."""

    layout: Layout
    account: Account
    composition: dict[str, Any]
    notices: list[str]


@dataclass(frozen=True)
class Plan(TablePlan):
    """Which tokens lie where."""

    index: CacheIndex
    decisions: Decisions | None

    @property
    def sha256(self) -> str:
        """Of all that decides the rows."""
        digest = hashlib.sha256(self.index.digest.tobytes())
        uses, layout = self.layout.uses, self.layout
        for array in (uses.document, uses.start, uses.length, layout.row_starts):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def plan_rows(
    index: CacheIndex, settings: Settings, filters: Filters | None, *, empty_records: int = 0
) -> Plan:
    """Phase 2: from the facts of all documents alone, so that it is the same on every machine."""
    decisions = filters.decide(index.columns) if filters else None
    table = DocumentTable(
        source=index.source,
        length=index.length,
        characters=index.characters,
        removed=decisions.codes if decisions and len(index) else np.zeros(len(index), np.uint8),
        labels=tuple(settings.labels),
        shares=tuple(settings.shares),
        sketch=index.columns.get(SKETCH),
    )
    planned = plan_table(table, settings, empty_records=empty_records)
    return Plan(**vars(planned), index=index, decisions=decisions)


def plan_table(table: DocumentTable, settings: Settings, *, empty_records: int = 0) -> TablePlan:
    """The plan of documents of which nothing but the table is known."""
    separator_length = len(settings.separator_ids)
    uses, drops, notices = choose_documents(
        table,
        parse_mixture(settings.mixture),
        min_length=settings.min_document_length,
        token_budget=settings.token_budget,
        epochs=settings.epochs,
        seed=settings.seed,
    )
    uses = order_uses(
        uses,
        table,
        order=settings.order,  # type: ignore[arg-type]
        seed=settings.seed,
        target_length=settings.target_length,
        separator_length=separator_length,
        keep_tail=settings.keep_tail,
    )
    layout = lay_out_rows(
        uses,
        target_length=settings.target_length,
        separator_length=separator_length,
        keep_tail=settings.keep_tail,
    )
    account = open_account(table, drops, layout, empty_records=empty_records)
    return TablePlan(layout, account, composition(table, uses, layout), notices)


def assemble(
    writer: StoreWriter,
    caches: Sequence[Path],
    tokenized: Tokenized,
    filters: Filters | None,
    tokenizer: PreTrainedTokenizerBase | Path | None,
    *,
    workers: int | None = None,
) -> None:
    """Phases 2 and 3: writes the shards that are missing or damaged, and finishes the store.

    `workers`: how many shards are written at once, 4 at most; none: as many as there are cores.

    Raises DocumentError if not one row is full, StoreError if a finished store was made of other documents.
    """
    index = read_index(caches)
    documents_sha256 = hashlib.sha256(index.digest.astype("<u8").tobytes()).hexdigest()
    if writer.finished and writer.finished["documents_sha256"] != documents_sha256:
        raise StoreError(
            f"{writer.folder}: the documents have changed since it was made, so its damaged shards cannot be "
            "made again. Choose another output_dir, or delete it."
        )
    if len(index) == 0:
        writer.clean()
        raise _no_row(0, 0, writer.settings.target_length)
    empty = sum(source["empty"] for source in tokenized.records.report())
    plan = plan_rows(index, writer.settings, filters, empty_records=empty)
    for notice in plan.notices:
        _log.warning("%s", notice)
    if plan.layout.rows == 0:
        writer.clean()
        documents, tokens = plan.account.documents["used"], plan.account.tokens["read"]
        raise _no_row(documents, tokens, writer.settings.target_length)
    _write_shards(writer, plan, min(workers or cores(), _MOST_AT_ONCE))
    if writer.finished is None:
        facts = {
            "documents_sha256": documents_sha256,
            **plan.account.to_dict(),
            "composition": plan.composition,
            "filters": plan.decisions.counts() if plan.decisions else {},
            "records": tokenized.records.report(),
            "engine": tokenized.engine,
            "notices": plan.notices,
        }
        lists = {BAD_RECORDS: _bad_records(tokenized), REMOVED: _removed(plan)}
        writer.finish(facts, lists=lists, tokenizer=tokenizer)


def _write_shards(writer: StoreWriter, plan: Plan, threads: int) -> None:
    settings = writer.settings
    size, rows = settings.rows_per_shard, plan.layout.rows
    writer.begin_rows(plan.sha256)
    damaged = writer.damaged_shards()
    numbers = [*damaged, *range(len(writer.shards), -(-rows // size))]
    done = min(len(writer.shards) * size, rows) * settings.target_length

    def make(number: int) -> Shard:
        own = range(number * size, min((number + 1) * size, rows))
        if number < len(writer.rows):
            written, pieces = writer.rows[number], [row_pieces(plan.layout, own)]
            progress(len(own) * settings.target_length)
        else:
            pieces = []
            written = writer.write_rows(number, _tokens(_gather(plan, settings, own), pieces, progress))
        return writer.make_shard(number, written, pieces, plan.index.names)

    with (
        phase("packing", total=rows * settings.target_length, done=done) as progress,
        ThreadPoolExecutor(threads, thread_name_prefix="pack") as pool,
        closing(map_ahead(pool, make, numbers, threads - 1)) as shards,
    ):
        for number, shard in zip(numbers, shards, strict=True):
            if number in damaged:
                writer.mend_shard(number, shard)
            else:
                writer.add_shard(shard)


def _gather(plan: Plan, settings: Settings, rows: range) -> Iterator[PackedRows]:
    return gather_rows(
        plan.index,
        plan.layout,
        rows,
        separator_ids=settings.separator_ids,
        dtype=np.dtype(settings.dtype),
    )


def _tokens(
    rows: Iterable[PackedRows], pieces: list[tuple[np.ndarray, np.ndarray]], progress: Any
) -> Iterator[np.ndarray]:
    """The tokens alone; what they are is added to `pieces`."""
    for block in rows:
        pieces.append((block.pieces, block.documents))
        yield block.tokens
        progress(block.tokens.size)


def _no_row(documents: int, tokens: int, target_length: int) -> DocumentError:
    return DocumentError(
        f"the sources hold {tokens:,} tokens in {documents:,} documents, which do not fill one row of "
        f"{target_length:,}. Give more documents or a smaller target_length."
    )


def _bad_records(tokenized: Tokenized) -> Iterator[dict[str, Any]]:
    labels = {report["source"]: report["label"] for report in tokenized.records.report()}
    for bad in tokenized.records.bad:
        yield {"source": labels[bad.source], "place": bad.place, "reason": bad.reason}


def _removed(plan: Plan) -> Iterator[dict[str, Any]]:
    """Names in place of the numbers of documents, which mean nothing to a reader."""
    if plan.decisions is None:
        return
    names = plan.index.names
    for document, reason, detail in plan.decisions.removed:
        told = {**detail, "of": names[detail["of"]].as_py()} if "of" in detail else detail
        yield {"document": document, "name": names[document].as_py(), "reason": reason, **told}


def _distinct(items: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    for item in items:
        if item not in found:
            found.append(item)
    return found
