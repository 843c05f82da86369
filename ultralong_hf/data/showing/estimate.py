"""What a store will hold and need, from a sample of its documents; nothing is written."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ultralong_hf.data.encoding.engines import Engine, open_engine
from ultralong_hf.data.planning.sketches import sketch_tokens
from ultralong_hf.data.planning.tables import DocumentTable, uniform
from ultralong_hf.data.reading.bad_records import RecordPolicy, SourceCounts
from ultralong_hf.data.reading.records import Fault, Part, Selection, Source
from ultralong_hf.data.storing.assembling import plan_table
from ultralong_hf.data.storing.job import Job
from ultralong_hf.errors import DocumentError

SAMPLE_CHARACTERS = 8_000_000
"""Of each source, but for the last document of each file."""
_LEAST_FILES, _MOST_FILES = 32, 4096
"""Files of a source that are looked into, drawn at random: the first is how many share the characters."""
_MOST_DOCUMENTS = 2_000_000
"""Documents that are planned with; of a larger corpus, a part as if it were all."""
_BATCH_DOCUMENTS = 1024


class FileSample(NamedTuple):
    """What was seen of one file: texts from its begin."""

    texts: list[str]
    rows: int
    """Rows that were gone through."""
    is_whole: bool


@dataclass(frozen=True)
class SourceSample:
    """Documents seen of one source, and how many it seems to have."""

    lengths: np.ndarray
    """int64 [n], tokens."""
    characters: np.ndarray
    """int64 [n]."""
    sketch: np.ndarray | None
    """uint8 [n, S], where the order needs it."""
    counts: SourceCounts
    documents: float
    """Of the whole source."""
    is_whole: bool
    """Whether all documents of the source are in the sample."""


def estimate_store(
    job: Job, output_dir: str | Path, *, sample_characters: int = SAMPLE_CHARACTERS
) -> dict[str, Any]:
    """Account and composition of the store that `job` would make, as in a manifest, and the disk it needs.

    Of each source documents of some files are read and tokenized. If they are not all, a corpus of as many
    documents as the source seems to have is drawn from them, with replacement, and planned as a real one.
    Filters, which look at whole corpora, are left out.

    Raises DocumentError for a stream of unknown size and for sources that cannot be read.
    """
    with open_engine(
        job.separator.encoder, engine=job.engine, workers=job.workers, seed=job.settings.seed
    ) as engine:
        samples = [_sample_source(source, job, engine, sample_characters) for source in job.sources]
    scale = max(1.0, sum(sample.documents for sample in samples) / _MOST_DOCUMENTS)
    table = draw_corpus(
        samples, job.settings.labels, job.settings.shares, scale=scale, seed=job.settings.seed
    )
    budget = job.settings.token_budget
    settings = dataclasses.replace(
        job.settings, token_budget=None if budget is None else max(1, round(budget / scale))
    )
    empty = round(sum(s.counts.empty * s.documents / max(s.counts.good, 1) for s in samples) / scale)
    plan = plan_table(table, settings, empty_records=empty)
    facts = _scaled({**plan.account.to_dict(), "composition": plan.composition}, scale)
    item = np.dtype(job.settings.dtype).itemsize
    store_bytes = facts["rows"] * job.settings.target_length * item
    cache_bytes = 0 if settings.goes_straight else facts["tokens"]["of_documents"] * item
    return {
        "is_estimate": not all(sample.is_whole for sample in samples),
        "settings": job.settings.to_dict(),
        **facts,
        "sources": [_told(sample) for sample in samples],
        "engine": {"name": engine.name, "version": engine.version, "notices": engine.notices},
        "notices": [*plan.notices, *_too_bad(samples, job.policy.max_bad_share)],
        "bytes": store_bytes,
        "disk_needed_bytes": store_bytes + cache_bytes,
        "disk_free_bytes": shutil.disk_usage(_existing(Path(output_dir))).free,
    }


def draw_corpus(
    samples: list[SourceSample],
    labels: list[str],
    shares: list[float | None],
    *,
    scale: float = 1.0,
    seed: int = 0,
) -> DocumentTable:
    """A table of as many documents as the sources seem to have, divided by `scale`.

    A source that is whole in its sample is taken as it is; of others, documents are drawn with replacement.
    """
    drawn: list[np.ndarray] = []
    for sample in samples:
        seen = len(sample.lengths)
        if (sample.is_whole and scale == 1) or seen == 0:
            drawn.append(np.arange(seen))
            continue
        count = max(1, round(sample.documents / scale))
        drawn.append((uniform(seed, f"sample {len(drawn)}", np.arange(count)) * seen).astype(np.int64))
    pairs = list(zip(samples, drawn, strict=True))
    sketches = [s.sketch[d] for s, d in pairs if s.sketch is not None]
    length = np.concatenate([s.lengths[d] for s, d in pairs])
    return DocumentTable(
        source=np.repeat(np.arange(len(pairs), dtype=np.int32), [len(d) for _, d in pairs]),
        length=length,
        characters=np.concatenate([s.characters[d] for s, d in pairs]),
        removed=np.zeros(len(length), dtype=np.uint8),
        labels=tuple(labels),
        shares=tuple(shares),
        sketch=np.concatenate(sketches) if sketches else None,
    )


def _sample_source(source: Source, job: Job, engine: Engine, characters: int) -> SourceSample:
    if source.one_pass:
        raise DocumentError(
            f"{source.label}: an iterator gives its documents once, so there is no trying it."
        )
    records = RecordPolicy(job.policy.on_error, max_bad_share=1.0)
    counts = records.begin(0, source.label)
    files = source.files or 1
    samples: dict[int, FileSample] = {}
    left = characters
    for number in _in_random_order(files, job.settings.seed):
        samples[number] = _sample_file(source, number, files, records, characters // min(files, _LEAST_FILES))
        left -= sum(map(len, samples[number].texts))
        if left <= 0:
            break
    counts.good = sum(len(sample.texts) for sample in samples.values())
    encoded = [
        (texts, *engine.encode(texts)) for sample in samples.values() for texts in _batches(sample.texts)
    ]
    with_sketch = job.settings.order == "related" and encoded
    return SourceSample(
        lengths=np.concatenate([np.empty(0, np.int64), *(lengths for _, _, lengths in encoded)]),
        characters=np.array([len(text) for texts, _, _ in encoded for text in texts], dtype=np.int64),
        sketch=np.concatenate([sketch_tokens(tokens, lengths) for _, tokens, lengths in encoded])
        if with_sketch
        else None,
        counts=counts,
        documents=_documents(source, samples, files),
        is_whole=len(samples) == files and all(sample.is_whole for sample in samples.values()),
    )


def _in_random_order(files: int, seed: int) -> list[int]:
    order: list[int] = np.argsort(uniform(seed, "files", np.arange(files)), kind="stable").tolist()
    return order[:_MOST_FILES]


def _sample_file(
    source: Source, number: int, files: int, records: RecordPolicy, characters: int
) -> FileSample:
    """The documents at the begin of a file, up to so many characters and at least one."""
    texts: list[str] = []
    last = -1

    def report(fault: Fault) -> None:
        nonlocal last
        last = max(last, fault.row + fault.records - 1)
        records.add(0, fault)

    for document in source.read(Selection(Part(number, files), number), report):
        last = document.row
        texts.append(document.text)
        characters -= len(document.text)
        if characters <= 0:
            return FileSample(texts, last + 1, is_whole=False)
    return FileSample(texts, last + 1, is_whole=True)


def _documents(source: Source, samples: dict[int, FileSample], files: int) -> float:
    """Documents of a source: those of the files seen whole, and of the others in proportion to their rows."""
    whole = {n: len(sample.texts) for n, sample in samples.items() if sample.is_whole}
    others = [n for n in range(files) if n not in whole]
    if not others:
        return float(sum(whole.values()))
    if source.rows_of is None:
        raise DocumentError(
            f"{source.label}: a stream of unknown size, of which a sample says little. Download it "
            "(streaming: false), or give files of it."
        )
    rows = sum(sample.rows for sample in samples.values())
    good = sum(len(sample.texts) for sample in samples.values())
    return sum(whole.values()) + good / max(rows, 1) * sum(source.rows_of(n) for n in others)


def _batches(texts: list[str]) -> Iterator[list[str]]:
    rest = iter(texts)
    while batch := list(islice(rest, _BATCH_DOCUMENTS)):
        yield batch


def _too_bad(samples: list[SourceSample], max_bad_share: float) -> Iterator[str]:
    for counts in (sample.counts for sample in samples):
        share = counts.bad.total() / max(counts.records, 1)
        if share > max_bad_share:
            yield (
                f"{counts.label}: {share:.1%} of the records sampled are bad, more than max_bad_share "
                f"{max_bad_share:.1%}, so the run would stop."
            )


def _told(sample: SourceSample) -> dict[str, Any]:
    counts = sample.counts
    return {
        "label": counts.label,
        "is_whole": sample.is_whole,
        "sampled": {"documents": counts.good, "tokens": int(sample.lengths.sum())},
        "documents": round(sample.documents),
        "tokens": round(sample.documents * float(sample.lengths.mean())) if counts.good else 0,
        "empty": counts.empty,
        "bad": dict(counts.bad),
    }


def _scaled(value: Any, scale: float, key: str = "") -> Any:
    """All counts times `scale`; shares, lengths and figures of one row or document as they are."""
    if isinstance(value, dict):
        return {
            k: v if k in ("edges", "documents_per_row", "separators_per_row") else _scaled(v, scale, k)
            for k, v in value.items()
        }
    if isinstance(value, list):
        return [_scaled(v, scale, key) for v in value]
    is_count = isinstance(value, int) and key != "most_uses_of_a_document"
    return round(value * scale) if is_count else value


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that there is."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())
