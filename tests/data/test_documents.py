from __future__ import annotations

import bz2
import gzip
import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ultralong_hf.data.documents import open_sources, read_documents
from ultralong_hf.errors import DocumentError
from ultralong_hf.recipes.schema import DocumentSource

RECORDS = [{"text": "one", "id": 1}, {"text": "zwei ü", "id": 2}, {"text": "", "id": 3}]
TEXTS = ["one", "zwei ü", ""]


def read(sources, **options):
    return [document.text for document in read_documents(open_sources(sources, **options))]


def json_lines(records=RECORDS) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def _zstd_stream(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress), (".zst", _zstd_stream)],
)
def test_json_lines_are_read_plain_and_compressed(tmp_path, suffix, compress):
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(compress(json_lines()))
    assert read(path) == TEXTS
    assert read(str(path)) == TEXTS
    names = [document.name for document in read_documents(open_sources(path))]
    assert names == [f"{path.name}, line {n}" for n in (1, 2, 3)]


def test_parquet_is_read(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(RECORDS * 20), path)
    assert read(path) == TEXTS * 20


def test_a_folder_gives_its_files_in_order_and_each_text_file_is_one_document(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.md").write_bytes("# Ü\r\nline\n".encode())
    (tmp_path / "a.py").write_text("print(1)\n")
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"zipped\n\n"))
    (tmp_path / "d.jsonl").write_bytes(json_lines())
    (tmp_path / ".hidden").write_text("no")
    assert read(tmp_path) == ["print(1)\n", "# Ü\r\nline\n", "zipped\n\n", *TEXTS]
    assert read(str(tmp_path / "**" / "*.md")) == ["# Ü\r\nline\n"]


def test_datasets_and_streams_are_read():
    dataset = datasets.Dataset.from_list(RECORDS)
    assert read(dataset) == TEXTS
    assert read(dataset.with_format("numpy")) == TEXTS
    assert read(dataset.to_iterable_dataset()) == TEXTS
    assert read([dataset, dataset.rename_column("text", "body").rename_column("body", "text")]) == TEXTS * 2


def test_a_folder_saved_by_datasets_is_read(tmp_path):
    datasets.Dataset.from_list(RECORDS).save_to_disk(tmp_path / "saved")
    assert read(tmp_path / "saved") == TEXTS


def test_entries_of_a_recipe_are_read_each_with_its_column(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(json_lines())
    (tmp_path / "b.jsonl").write_bytes(json_lines([{"body": "b"}]))
    entries = [
        {"path": str(tmp_path / "b.jsonl"), "text_column": "body"},
        DocumentSource(path=str(tmp_path / "a.jsonl")),
    ]
    assert read(entries) == ["b", *TEXTS]
    assert read({"path": tmp_path / "b.jsonl", "format": "text"}) == ['{"body": "b"}\n']


def test_any_iterable_of_texts_is_the_documents():
    assert read(["a", "b"]) == ["a", "b"]
    assert read(letter for letter in "xyz") == ["x", "y", "z"]


def test_the_fingerprint_follows_content_and_names_but_not_the_place(tmp_path):
    for folder in ("here", "there", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text("same" if folder != "other" else "else")
    here, there, other = (open_sources(tmp_path / f)[0].fingerprint for f in ("here", "there", "other"))
    assert here == there != other


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b'{"text": "a"}\n{"body": "b"}\n', r"a\.jsonl, line 2: no column 'text'. Columns there: 'body'"),
        (b'{"text": null}\n', r"a\.jsonl, line 1: column 'text' is null"),
        (b'{"text": 7}\n', r"a\.jsonl, line 1: column 'text' holds int"),
        (b'\n{"text": "a"\n', r"a\.jsonl, line 2: no JSON"),
        (b"[1]\n", r"a\.jsonl, line 1: list, not an object"),
        (b'{"text": "a"}\n{"text": "\xff"}\n', r"a\.jsonl, line 2: byte 10 \(0xff\) is not UTF-8"),
        (b'{"text": "\\ud800"}\n', r"a\.jsonl, line 1: character 0 is half of a surrogate pair"),
    ],
)
def test_a_bad_record_is_named_by_file_and_line(tmp_path, content, fault):
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(DocumentError, match=fault):
        read(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("values", "kind", "fault"),
    [
        (["a", None], pa.string(), r"a\.parquet, row 1: column 'text' is null"),
        ([1], pa.int64(), r"a\.parquet, row 0: column 'text' holds int"),
        ([b"a", b"\xff"], pa.binary(), r"a\.parquet, row 1: byte 0 \(0xff\) is not UTF-8"),
    ],
)
def test_a_bad_value_in_parquet_is_named_by_file_and_row(tmp_path, values, kind, fault):
    pq.write_table(pa.table({"text": pa.array(values, kind)}), tmp_path / "a.parquet")
    with pytest.raises(DocumentError, match=fault):
        read(tmp_path / "a.parquet")


def test_parquet_without_the_column_or_of_another_format_is_named(tmp_path):
    pq.write_table(pa.table({"body": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(DocumentError, match=r"a\.parquet: no column 'text'. Columns there: 'body'"):
        read(tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"not parquet")
    with pytest.raises(DocumentError, match=r"b\.parquet: cannot be read as Parquet"):
        read(tmp_path / "b.parquet")


def test_a_compressed_file_that_was_cut_is_named(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(json_lines(RECORDS * 1000))[:-30])
    with pytest.raises(DocumentError, match=r"a\.jsonl\.gz: cannot be read after line"):
        read(tmp_path / "a.jsonl.gz")


def test_a_text_file_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DocumentError, match=r"a\.txt: byte 3 \(0xe9\) is not UTF-8"):
        read(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("sources", "fault"),
    [
        (7, "int is no source"),
        ([1, 2], "document 0 of the iterable is int"),
        ({"path": "x.txt", "colour": "red"}, r"unknown keys \['colour'\]"),
        ({"text_column": "a"}, "has no path"),
        ({"path": "x", "share": 0.5}, "shares of sources are not supported"),
        ("missing.jsonl", "no file is there"),
        ("missing/*.txt", "no file is there"),
        ({"path": "missing.txt", "split": "test"}, "split 'test' is for datasets"),
    ],
)
def test_refuses_what_is_no_source(sources, fault):
    with pytest.raises(DocumentError, match=fault):
        read(sources)


def test_a_list_of_file_names_is_not_packed_as_documents(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(DocumentError, match="is a file"):
        read([str(tmp_path / "a.txt")])


def test_a_dataset_of_several_splits_or_without_the_column_is_refused():
    dataset = datasets.Dataset.from_list(RECORDS)
    with pytest.raises(DocumentError, match="several splits"):
        read(datasets.DatasetDict(train=dataset))
    with pytest.raises(DocumentError, match=r"no column 'body'. Columns there: 'text', 'id'"):
        read(dataset, text_column="body")
    with pytest.raises(DocumentError, match="Dataset, row 1: column 'text' is null"):
        read(datasets.Dataset.from_list([{"text": "a"}, {"text": None}]))
