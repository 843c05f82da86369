from __future__ import annotations

import json

import datasets
import pytest

from ultralong_hf.data.documents import Document, Key, Part, open_sources, read_documents
from ultralong_hf.errors import DocumentError

RECORDS = [{"text": "one", "id": 1}, {"text": "zwei ü", "id": 2}, {"text": "", "id": 3}]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Calls of `load_dataset` by a Hub name; they are answered from three local files."""
    calls = []
    for number in range(3):
        lines = [json.dumps({"id": n, "text": f"{number}.{n}"}) for n in range(4)]
        (tmp_path / f"{number}.jsonl").write_text("\n".join(lines))
    load = datasets.load_dataset

    def load_local(path, *, name=None, split, streaming, revision=None):
        calls.append(
            {"path": path, "name": name, "split": split, "streaming": streaming, "revision": revision}
        )
        files = {"train": str(tmp_path / "*.jsonl")}
        return load(
            "json", data_files=files, split=split, streaming=streaming, cache_dir=str(tmp_path / "cache")
        )

    monkeypatch.setattr(datasets, "load_dataset", load_local)
    return calls


def read(sources, **options):
    return [document for _, document in read_documents(sources, **options)]


TEXTS = [f"{shard}.{row}" for shard in range(3) for row in range(4)]


def test_a_stream_is_read_shard_by_shard(hub):
    (source,) = open_sources("owner/corpus")
    assert source.files == 3
    assert read([source]) == [
        Document(text, f"shard {n // 4}, row {n % 4}", n // 4, n % 4) for n, text in enumerate(TEXTS)
    ]
    assert read([source], start=Key(0, 1, 3)) == read([source])[7:]
    assert [[d.text for d in read([source], part=Part(i, 2))] for i in range(2)] == [
        ["0.0", "0.1", "0.2", "0.3", "2.0", "2.1", "2.2", "2.3"],
        ["1.0", "1.1", "1.2", "1.3"],
    ]


@pytest.mark.parametrize("count", [1, 2, 7, 12])
def test_shards_are_the_files_in_order_however_many(tmp_path, count):
    for number in range(count):
        (tmp_path / f"{number:02d}.jsonl").write_text(f'{{"text": "{number}"}}')
    (source,) = open_sources({"path": "json", "data_files": str(tmp_path / "*.jsonl")})
    assert source.files == count
    assert [(d.file, d.text) for d in read([source])] == [(n, f"{n}") for n in range(count)]
    parts = [read([source], part=Part(i, 2)) for i in range(2)]
    assert sorted(d.file for part in parts for d in part) == list(range(count))


def test_a_downloaded_dataset_gives_the_same_documents_as_one_file(hub):
    (source,) = open_sources({"path": "owner/corpus", "streaming": False})
    assert source.files == 1
    assert read([source]) == [Document(text, f"row {n}", 0, n) for n, text in enumerate(TEXTS)]
    assert [d.text for d in read([source], start=Key(0, 0, 10))] == TEXTS[10:]
    assert [d.text for d in read([source], part=Part(1, 3))] == TEXTS[1::3]


def test_the_entry_is_handed_on_to_load_dataset_and_makes_the_fingerprint(hub):
    entry = {"path": "owner/corpus", "name": "en", "split": "train", "revision": "v1"}
    (source,) = open_sources({**entry, "text_column": "text", "share": 3})
    assert hub == [{**entry, "streaming": True}]
    assert source.share == 3
    prints = {
        open_sources({**entry, **change})[0].fingerprint
        for change in ({}, {"revision": "v2"}, {"name": "de"})
    }
    assert len(prints) == 3
    assert source.fingerprint in prints


def test_files_that_load_dataset_reads_have_no_fingerprint(tmp_path):
    """They may change; only their content tells."""
    (tmp_path / "a.csv").write_text("id,text\n1,one\n2,two\n")
    (source,) = open_sources({"path": "csv", "data_files": str(tmp_path / "a.csv")})
    assert source.fingerprint is None
    assert [d.text for d in read([source])] == ["one", "two"]


def test_a_hub_dataset_without_the_column_is_refused_at_once(hub):
    with pytest.raises(DocumentError, match=r"owner/corpus.*Columns there: 'id', 'text'"):
        list(read_documents(open_sources("owner/corpus", text_column="body")))


def test_a_hub_dataset_that_cannot_be_opened_says_why(monkeypatch):
    def fail(**_):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DocumentError, match=r"owner/corpus: no such file or folder here.*no route to host"):
        open_sources("owner/corpus")


def test_a_stream_that_breaks_names_shard_and_row(hub, tmp_path):
    (source,) = open_sources("owner/corpus")
    (tmp_path / "1.jsonl").write_text("broken")
    with pytest.raises(DocumentError, match="owner/corpus: cannot be read from shard 1, row 0 on"):
        read([source])


def test_a_stream_that_was_worked_on_is_read_as_a_whole():
    """By shards `take(3)` would be two rows of the first shard and one of the second."""
    stream = datasets.Dataset.from_list([{"text": f"{n}"} for n in range(8)]).to_iterable_dataset(
        num_shards=2
    )
    (source,) = open_sources(stream.take(3))
    assert source.files == 1
    assert [d.text for d in read([source])] == ["0", "1", "2"]
    assert [d.text for d in read([source], part=Part(1, 2))] == ["1"]
    assert [d.text for d in read([source], start=Key(0, 0, 2))] == ["2"]


def test_a_folder_saved_by_datasets_is_read(tmp_path):
    datasets.Dataset.from_list(RECORDS).save_to_disk(tmp_path / "saved")
    (source,) = open_sources(tmp_path / "saved")
    assert [d.text for d in read([source])] == ["one", "zwei ü"]
    assert source.fingerprint is not None


def test_a_saved_dataset_of_several_splits_is_read_by_split(tmp_path):
    splits = {"train": datasets.Dataset.from_list(RECORDS), "test": datasets.Dataset.from_list(RECORDS[:1])}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    assert [d.text for d in read(open_sources(tmp_path / "saved"))] == ["one", "zwei ü"]
    assert [d.text for d in read(open_sources({"path": tmp_path / "saved", "split": "test"}))] == ["one"]
    with pytest.raises(DocumentError, match=r"no split 'dev'\. Splits there: test, train"):
        open_sources({"path": tmp_path / "saved", "split": "dev"})


def test_a_token_store_is_no_source(tmp_path):
    datasets.Dataset.from_list(RECORDS).save_to_disk(tmp_path / "saved")
    (tmp_path / "saved" / "manifest.json").write_text("{}")
    with pytest.raises(DocumentError, match="is a token store, not documents"):
        open_sources(tmp_path / "saved")


def test_a_dataset_of_several_splits_or_without_the_column_is_refused():
    dataset = datasets.Dataset.from_list(RECORDS)
    with pytest.raises(DocumentError, match="several splits"):
        open_sources(datasets.DatasetDict(train=dataset))
    with pytest.raises(
        DocumentError, match=r"Dataset: no column: 'body' is not there. Columns there: 'text', 'id'"
    ):
        open_sources(dataset, text_column="body")
