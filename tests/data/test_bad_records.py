from __future__ import annotations

import gzip
import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ultralong_hf.data.documents import BadRecord, RecordPolicy, open_sources, read_documents
from ultralong_hf.data.reading import bad_records
from ultralong_hf.errors import DocumentError

GOOD = b'{"text": "good"}\n'


def read(path, **options) -> tuple[list[str], RecordPolicy]:
    policy = RecordPolicy(**{"max_bad_share": 1, **options})
    return [d.text for _, d in read_documents(open_sources(path), policy=policy)], policy


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"body": "b", "id": 1}', "no column: 'text' is not there. Columns there: 'body', 'id'."),
        (b"{}", "no column: 'text' is not there. Columns there: none."),
        (b'{"text": null}', "null: column 'text' is null."),
        (b'{"text": 7}', "not text: column 'text' holds int."),
        (b'{"text": ["a"]}', "not text: column 'text' holds list."),
        (b'{"text": "a"', "not JSON: Expecting ',' delimiter. One object a line is read."),
        (b'{"text": "a\tb"}', "not JSON: Invalid control character at. One object a line is read."),
        (b"[" * 100_000, "not JSON: nested too deep. One object a line is read."),
        (b"[1]", "not an object: the line is list."),
        (b'"text"', "not an object: the line is str."),
        (b'{"text": "\xff"}', "not UTF-8: byte 10 is 0xff."),
        (b'{"text": "\xed\xa0\x80"}', "not UTF-8: byte 10 is 0xed."),
        (b'{"text": "a\\ud800"}', "not UTF-8: character 1 is half of a surrogate pair."),
        (b'{"text": ""}', "empty: no characters."),
    ],
)
def test_a_bad_line_is_named_and_left_out(tmp_path, line, reason):
    (tmp_path / "a.jsonl").write_bytes(GOOD + line + b"\n" + GOOD)
    texts, policy = read(tmp_path / "a.jsonl")
    assert texts == ["good", "good"]
    assert policy.bad == [BadRecord(0, "a.jsonl, line 2", reason, file=0, row=1)]
    word = reason.split(":")[0]
    counts = {"empty": 1, "bad": {}} if word == "empty" else {"empty": 0, "bad": {word: 1}}
    assert policy.report() == [{"source": 0, "label": "a.jsonl", "good": 2, **counts}]


@pytest.mark.parametrize(
    ("values", "kind", "reason"),
    [
        (["a", None], pa.string(), "null: column 'text' is null."),
        (["a", None], pa.dictionary(pa.int32(), pa.string()), "null: column 'text' is null."),
        ([b"a", b"\xff"], pa.binary(), "not UTF-8: byte 0 is 0xff."),
        (["a", ""], pa.large_string(), "empty: no characters."),
    ],
)
def test_a_bad_value_in_parquet_is_named_and_left_out(tmp_path, values, kind, reason):
    pq.write_table(pa.table({"text": pa.array(values, kind)}), tmp_path / "a.parquet")
    texts, policy = read(tmp_path / "a.parquet")
    assert texts == ["a"]
    assert policy.bad == [BadRecord(0, "a.parquet, row 1", reason, file=0, row=1)]


def test_a_text_column_of_parquet_that_is_not_utf8_is_named(tmp_path):
    bad = pa.Array.from_buffers(pa.string(), 2, pa.array([b"a", b"\xff"]).buffers())
    pq.write_table(pa.table({"text": bad}), tmp_path / "a.parquet")
    texts, policy = read(tmp_path / "a.parquet")
    assert texts == ["a"]
    assert [bad.reason for bad in policy.bad] == ["not UTF-8: byte 0 is 0xff."]


def test_a_parquet_file_without_the_column_is_named_once_and_all_its_rows_counted(tmp_path):
    pq.write_table(pa.table({"body": ["a"] * 7}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "b.parquet")
    texts, policy = read(tmp_path)
    assert texts == ["a"]
    assert policy.report()[0]["bad"] == {"no column": 7}
    assert policy.bad == [
        BadRecord(0, "a.parquet", "no column: 'text' is not there. Columns there: 'body'.", file=0, row=0)
    ]


def test_a_file_that_is_no_parquet_is_one_bad_record(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"not parquet")
    (tmp_path / "b.txt").write_text("b")
    texts, policy = read(tmp_path)
    assert texts == ["b"]
    assert [(bad.place, bad.reason.split(":")[0]) for bad in policy.bad] == [("a.parquet", "damaged")]


def test_a_damaged_page_of_parquet_costs_the_rows_from_there_on(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a" * 999] * 4}), path, row_group_size=2, compression="gzip")
    start = pq.ParquetFile(path).metadata.row_group(1).column(0).dictionary_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + 40] = b"\xff" * 40
    path.write_bytes(data)
    texts, policy = read(path)
    assert texts == ["a" * 999] * 2
    assert policy.report()[0]["bad"] == {"damaged": 2}
    assert policy.bad[0].place == "a.parquet, row 2"


def test_a_text_file_that_is_not_utf8_or_empty_is_named(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    (tmp_path / "b.txt").write_bytes(b"")
    (tmp_path / "c.txt").write_bytes(b"c")
    texts, policy = read(tmp_path)
    assert texts == ["c"]
    assert policy.bad == [
        BadRecord(0, "a.txt", "not UTF-8: byte 3 is 0xe9.", file=0, row=0),
        BadRecord(0, "b.txt", "empty: no characters.", file=1, row=0),
    ]


@pytest.mark.parametrize("data", [b'[{"text": "a"},\n{"text": "b"}]', b'{\n "text":\n  "a"\n}\n', b"[\n1\n]"])
def test_a_json_file_of_one_value_is_one_bad_record(tmp_path, data):
    for name in ("a.json", "b.JSON.gz"):
        (tmp_path / name).write_bytes(gzip.compress(data) if "gz" in name else data)
    (tmp_path / "c.json").write_bytes(GOOD * 2)
    texts, policy = read(tmp_path)
    assert texts == ["good", "good"]
    assert [(bad.place, bad.row) for bad in policy.bad] == [("a.json", 0), ("b.JSON.gz", 0)]
    assert policy.bad[0].reason.startswith("not JSON: one value, not an object a line.")


def test_bad_texts_in_memory_and_in_datasets_are_named():
    texts, policy = read(["a", None, "b\ud800"])
    assert texts == ["a"]
    assert [(bad.place, bad.reason) for bad in policy.bad] == [
        ("document 1", "null: column 'text' is null."),
        ("document 2", "not UTF-8: character 1 is half of a surrogate pair."),
    ]
    dataset = datasets.Dataset.from_list([{"text": "a"}, {"text": None}])
    for kind in (dataset, dataset.to_iterable_dataset()):
        texts, policy = read(kind)
        assert texts == ["a"]
        assert policy.bad == [BadRecord(0, "row 1", "null: column 'text' is null.", file=0, row=1)]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b'{"body": "b"}', "a.jsonl, line 2: no column: 'text' is not there. Columns there: 'body'."),
        (b'{"text": ""}', "a.jsonl, line 2: empty: no characters."),
    ],
)
def test_the_first_bad_or_empty_record_stops_if_asked(tmp_path, line, fault):
    (tmp_path / "a.jsonl").write_bytes(GOOD + line + b"\n" + GOOD)
    with pytest.raises(DocumentError, match=fault):
        read(tmp_path / "a.jsonl", on_error="stop")


def test_a_source_with_too_many_bad_records_stops_at_its_end(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(GOOD * 18 + b'\n{"body": 1}\nbroken\n')
    texts, _ = read(tmp_path / "a.jsonl", max_bad_share=0.1)
    assert len(texts) == 18
    with pytest.raises(DocumentError) as error:
        read(tmp_path / "a.jsonl", max_bad_share=0.09)
    assert str(error.value) == (
        "a.jsonl: 10.0%, more than 9.0%, of the 20 records read are bad (1 no column, 1 not JSON). "
        "a.jsonl, line 20: no column: 'text' is not there. Columns there: 'body'. "
        "Repair it, choose its files by a glob, leave the source out, or raise max_bad_share."
    )


def test_empty_documents_are_no_bad_ones(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(GOOD + b'{"text": ""}\n' * 5000)
    texts, policy = read(tmp_path / "a.jsonl", max_bad_share=0)
    assert texts == ["good"]
    assert policy.report()[0]["empty"] == 5000
    (tmp_path / "a.jsonl").write_bytes(b'broken\n{"text": ""}\n{"text": ""}\n' + GOOD)
    assert read(tmp_path / "a.jsonl", max_bad_share=0.25)[0] == ["good"]


def test_a_source_that_is_all_bad_says_which_columns_there_are(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"body": "b", "id": 3}\n' * 3)
    with pytest.raises(DocumentError) as error:
        read(tmp_path / "a.jsonl", max_bad_share=0.5)
    assert str(error.value) == (
        "a.jsonl: all of the 3 records read are bad (3 no column). "
        "a.jsonl, line 1: no column: 'text' is not there. Columns there: 'body', 'id'. "
        "Set text_column to one of them, leave the source out, or raise max_bad_share."
    )


def test_a_bad_source_stops_after_a_thousand_records_not_at_its_end(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"broken\n" * 999 + GOOD * 99_001)
    texts, _ = read(tmp_path / "a.jsonl", max_bad_share=0.01)
    assert len(texts) == 99_001
    (tmp_path / "a.jsonl").write_bytes(b"broken\n" * 1000 + GOOD * 99_000)
    with pytest.raises(DocumentError, match="all of the 1,000 records read are bad"):
        read(tmp_path / "a.jsonl", max_bad_share=0.01)


def test_the_share_is_of_each_source_alone(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(GOOD * 100)
    (tmp_path / "b.jsonl").write_bytes(GOOD + b"broken\n")
    with pytest.raises(DocumentError, match=r"b\.jsonl: 50.0%, more than 5.0%,"):
        read([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], max_bad_share=0.05)


def test_only_the_first_places_are_kept_but_all_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(bad_records, "KEPT_PLACES", 3)
    (tmp_path / "a.jsonl").write_bytes((b"broken\n" + b'{"text": ""}\n') * 5)
    _, policy = read(tmp_path / "a.jsonl")
    assert [bad.row for bad in policy.bad] == [0, 1, 2, 3, 4, 5]
    assert policy.report()[0]["bad"] == {"not JSON": 5}
    assert policy.report()[0]["empty"] == 5


def test_the_states_of_parts_add_up_to_that_of_a_whole_run(monkeypatch):
    monkeypatch.setattr(bad_records, "KEPT_PLACES", 2)
    states = [
        {
            "sources": [{"source": 0, "label": "a", "good": 3, "empty": 0, "bad": {"null": 2}}],
            "bad": [[0, "x", "null: .", 0, row] for row in rows],
            "empty": [],
        }
        for rows in ([0, 4], [1, 3])
    ]
    policy = RecordPolicy()
    policy.restore(*json.loads(json.dumps(states)))
    assert policy.report() == [{"source": 0, "label": "a", "good": 6, "empty": 0, "bad": {"null": 4}}]
    assert [bad.row for bad in policy.bad] == [0, 1]
    with pytest.raises(DocumentError, match=r"a: 40\.0%"):
        policy.check(0)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"on_error": "ignore"}, "on_error is 'ignore'"),
        ({"max_bad_share": 5}, "max_bad_share is 5"),
        ({"max_bad_share": True}, "max_bad_share is True"),
        ({"max_bad_share": "5%"}, "max_bad_share is '5%'"),
    ],
)
def test_refuses_a_policy_without_sense(options, fault):
    with pytest.raises(DocumentError, match=fault):
        RecordPolicy(**options)
