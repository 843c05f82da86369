"""The files of a finished blend, each whole or absent, the manifest last."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ultralong_hf.data.instructions.encoding import ChatEncoder
from ultralong_hf.data.instructions.formats import Messages
from ultralong_hf.data.instructions.report import report_text
from ultralong_hf.data.instructions.sources import BlendSource
from ultralong_hf.data.storing.shards import file_sha256, replacing, write_json, write_json_lines

SAMPLES = "samples"
_SAMPLES_PER_BATCH = 1000


@dataclass
class Sample:
    """A conversation of the blend."""

    number: int
    """Among all collected ones."""
    source: int
    place: str
    messages: Messages
    rewritten: bool = False
    tokens: int = 0


def write_blend(
    folder: Path,
    samples: Sequence[Sample],
    encoder: ChatEncoder,
    *,
    sources: Sequence[BlendSource],
    removed: Iterable[Mapping[str, Any]],
    bad: Iterable[Mapping[str, Any]],
    manifest: dict[str, Any],
    name: str,
) -> None:
    """All files but the ledger of answers; `name`: the manifest's."""
    from ultralong_hf.data.showing.blend_pictures import draw_blend

    _write_samples(folder / SAMPLES, samples, encoder)
    write_json_lines(folder / "messages.jsonl", (_line(sample, sources) for sample in samples))
    write_json_lines(folder / "removed.jsonl", removed)
    write_json_lines(folder / "bad_records.jsonl", bad)
    report = manifest["report"]
    write_json(folder / "report.json", report)
    with replacing(folder / "report.txt") as file:
        file.write((report_text(report) + "\n").encode())
    draw_blend(report, folder / "report.png")
    names = [
        "messages.jsonl",
        "removed.jsonl",
        "bad_records.jsonl",
        *(f"{SAMPLES}/{path.name}" for path in sorted((folder / SAMPLES).iterdir())),
    ]
    files = {file: digest for file in names if (digest := file_sha256(folder / file)) is not None}
    write_json(folder / name, {**manifest, "files": files})


def check_files(folder: Path, files: Mapping[str, str]) -> list[str]:
    """Those that are missing or do not match their digests."""
    return [name for name, digest in files.items() if file_sha256(folder / name) != digest]


def _line(sample: Sample, sources: Sequence[BlendSource]) -> dict[str, Any]:
    source = sources[sample.source]
    return {
        "messages": sample.messages,
        "domain": source.entry.domain,
        "source": source.records.label,
        "place": sample.place,
        "tokens": sample.tokens,
        "rewritten": sample.rewritten,
    }


def _write_samples(folder: Path, samples: Sequence[Sample], encoder: ChatEncoder) -> None:
    """A folder that `datasets.load_from_disk` opens; each sample gets its number of tokens."""
    import pyarrow as pa
    from datasets import DatasetInfo, Features, List, Value

    features = Features({"input_ids": List(Value("int32")), "labels": List(Value("int32"))})
    schema = features.arrow_schema
    folder.mkdir(exist_ok=True)
    file = "data-00000.arrow"
    with replacing(folder / file) as sink:
        with pa.ipc.new_stream(sink, schema) as writer:
            for rows in _encoded(samples, encoder):
                writer.write_batch(pa.record_batch(rows, schema=schema))
        digest = sink.sha256.hexdigest()
    write_json(folder / "dataset_info.json", asdict(DatasetInfo(features=features)))
    state: dict[str, Any] = {
        "_data_files": [{"filename": file}],
        "_fingerprint": hashlib.sha256(json.dumps([file, digest]).encode()).hexdigest()[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    write_json(folder / "state.json", state)


def _encoded(samples: Sequence[Sample], encoder: ChatEncoder) -> Iterator[list[Any]]:
    import pyarrow as pa

    for start in range(0, len(samples), _SAMPLES_PER_BATCH):
        batch = samples[start : start + _SAMPLES_PER_BATCH]
        pairs = [encoder.encode(encoder.render(sample.messages)) for sample in batch]
        for sample, (ids, _) in zip(batch, pairs, strict=True):
            sample.tokens = len(ids)
        yield [pa.array([pair[n] for pair in pairs], pa.list_(pa.int32())) for n in (0, 1)]
