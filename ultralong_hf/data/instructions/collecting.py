"""A source -> a Parquet file of its conversations with what the choice needs; made once, then found again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ultralong_hf.data.instructions.encoding import ChatEncoder
from ultralong_hf.data.instructions.filtering import ConversationFilters
from ultralong_hf.data.instructions.formats import MALFORMED, Conversation, Messages, read_conversation
from ultralong_hf.data.instructions.records import Record
from ultralong_hf.data.instructions.sources import BlendSource
from ultralong_hf.data.reading.bad_records import RecordPolicy
from ultralong_hf.data.reading.records import digest
from ultralong_hf.data.reading.values import BadValueError
from ultralong_hf.data.storing.shards import replacing, write_json
from ultralong_hf.errors import ConversationError, DocumentError
from ultralong_hf.recipes.schema import InstructSection

_FORMAT = 1
_AT_ONCE = 512
_COLUMN_ADVICE = "Name them in the recipe, as in columns: {prompt: question, completion: reply}"


@dataclass(frozen=True)
class Collected:
    """What was read of a source."""

    path: Path
    """Parquet: file, row, place, messages (JSON), tokens, and the filters' columns."""
    state: dict[str, Any]
    """Of its RecordPolicy."""
    formats: dict[str, int]
    """How each was read -> conversations."""
    repairs: dict[str, int]

    def columns(self) -> dict[str, np.ndarray]:
        """All numbers of it, a row a conversation."""
        import pyarrow.parquet as pq

        with pq.ParquetFile(self.path) as parquet:
            names = [name for name in parquet.schema_arrow.names if name not in ("place", "messages")]
            table = parquet.read(columns=names)
        return {name: _to_numpy(table.column(name).combine_chunks()) for name in names}

    def rows(self, chosen: np.ndarray) -> Iterator[tuple[int, str, Messages]]:
        """(index, place, messages) of the chosen ones, in order."""
        import pyarrow.parquet as pq

        wanted = set(chosen.tolist())
        first = 0
        with pq.ParquetFile(self.path) as parquet:
            for batch in parquet.iter_batches(batch_size=_AT_ONCE, columns=["place", "messages"]):
                places, texts = batch.column("place"), batch.column("messages")
                for n in range(len(batch)):
                    if first + n in wanted:
                        yield first + n, places[n].as_py(), json.loads(texts[n].as_py())
                first += len(batch)


def collect(
    index: int,
    source: BlendSource,
    section: InstructSection,
    encoder: ChatEncoder,
    filters: ConversationFilters,
    folder: Path,
    settings: dict[str, Any],
) -> Collected:
    """The conversations of a source, from `folder` where they were collected by the same settings before.

    Raises DocumentError where more of its records are bad than the section allows.
    """
    key = digest(
        [_FORMAT, index, source.records.fingerprint, source.records.label, asdict(source.entry), settings]
    )
    path, facts = folder / f"{key[:16]}.parquet", folder / f"{key[:16]}.json"
    if not (path.is_file() and facts.is_file()):
        policy = RecordPolicy(section.on_error, section.max_bad_share, _COLUMN_ADVICE)
        formats, repairs = _write(path, index, source, section, encoder, filters, policy)
        write_json(facts, {"state": policy.state(), "formats": formats, "repairs": repairs})
    told = json.loads(facts.read_text(encoding="utf-8"))
    return Collected(path, told["state"], told["formats"], told["repairs"])


def _write(
    path: Path,
    index: int,
    source: BlendSource,
    section: InstructSection,
    encoder: ChatEncoder,
    filters: ConversationFilters,
    policy: RecordPolicy,
) -> tuple[dict[str, int], dict[str, int]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    label = source.records.label
    policy.begin(index, label)
    formats: Counter[str] = Counter()
    repairs: Counter[str] = Counter()
    records = _conversations(index, source, section, policy)
    bar = tqdm(desc=label, unit=" conversations", disable=None, smoothing=0.1)
    writer = None
    with bar, replacing(path) as sink:
        try:
            for batch in _batches(records):
                table = _annotated(index, batch, encoder, filters, policy)
                if table is None:
                    continue
                formats.update(str(conversation.shape) for _, conversation in batch)
                repairs.update(repair for _, conversation in batch for repair in conversation.repairs)
                writer = writer or pq.ParquetWriter(sink, table.schema, compression="zstd")
                writer.write_table(table)
                bar.update(len(batch))
            if writer is None:
                writer = pq.ParquetWriter(sink, pa.table(_columns([], [], [], {})).schema)
        finally:
            if writer is not None:
                writer.close()
        policy.check(index)
    return dict(sorted(formats.items())), dict(sorted(repairs.items()))


def _conversations(
    index: int, source: BlendSource, section: InstructSection, policy: RecordPolicy
) -> Iterator[tuple[Record, Conversation]]:
    counts = policy.begin(index, source.records.label)
    for record in source.records.read(lambda fault: policy.add(index, fault)):
        if source.fields.where and not source.fields.match(record.value):
            continue
        try:
            conversation = read_conversation(record.value, section, source.entry)
            _check_text(conversation.messages)
        except BadValueError as fault:
            policy.add(index, fault.at(record.file, record.row, record.place))
            continue
        counts.good += 1
        yield record, conversation
    if source.fields.where and counts.records == 0:
        raise DocumentError(
            f"{source.records.label}: no record has the values of where. Look at their spelling."
        )


def _check_text(messages: Messages) -> None:
    for message in messages:
        try:
            message["content"].encode("utf-8")
        except UnicodeEncodeError as error:
            raise BadValueError(
                MALFORMED, f"character {error.start} of a message is half of a surrogate pair."
            ) from None


def _batches(
    records: Iterator[tuple[Record, Conversation]],
) -> Iterator[list[tuple[Record, Conversation]]]:
    batch: list[tuple[Record, Conversation]] = []
    for record in records:
        batch.append(record)
        if len(batch) == _AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def _annotated(
    index: int,
    batch: list[tuple[Record, Conversation]],
    encoder: ChatEncoder,
    filters: ConversationFilters,
    policy: RecordPolicy,
) -> Any:
    """The batch as a table, or None. Those that the chat template refuses leave it, as faults."""
    import pyarrow as pa

    kept: list[tuple[Record, Conversation]] = []
    texts: list[str] = []
    counts = policy.begin(index, "")
    for record, conversation in batch:
        try:
            texts.append(encoder.render(conversation.messages).text)
        except ConversationError as error:
            counts.good -= 1
            fault = BadValueError("template", str(error))
            policy.add(index, fault.at(record.file, record.row, record.place))
            continue
        kept.append((record, conversation))
    batch[:] = kept
    if not kept:
        return None
    messages = [conversation.messages for _, conversation in kept]
    columns = filters.annotate(messages)
    return pa.table(_columns([record for record, _ in kept], messages, encoder.count(texts), columns))


def _columns(
    records: list[Record], messages: list[Messages], tokens: list[int], columns: dict[str, np.ndarray]
) -> dict[str, Any]:
    import pyarrow as pa

    texts = [json.dumps(conversation, ensure_ascii=False) for conversation in messages]
    return {
        "file": pa.array([record.file for record in records], pa.int32()),
        "row": pa.array([record.row for record in records], pa.int64()),
        "place": pa.array([record.place for record in records], pa.string()),
        "messages": pa.array(texts, pa.large_string()),
        "tokens": pa.array(tokens, pa.int32()),
        **{name: _to_arrow(values) for name, values in columns.items()},
    }


def _to_arrow(values: np.ndarray) -> Any:
    import pyarrow as pa

    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def _to_numpy(column: Any) -> np.ndarray:
    import pyarrow as pa

    if pa.types.is_fixed_size_list(column.type):
        width: int = column.type.list_size
        return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    return column.to_numpy(zero_copy_only=False)
