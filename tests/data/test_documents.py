from __future__ import annotations

import json
import tempfile
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ultralong_hf.data.documents import Document, Key, Part, RecordPolicy, open_sources, read_documents
from ultralong_hf.errors import DocumentError
from ultralong_hf.recipes.schema import DocumentSource

RECORDS = [{"text": "one", "id": 1}, {"text": "zwei ü", "id": 2}, {"text": "", "id": 3}]
TEXTS = ["one", "zwei ü"]


def read(sources, **options):
    return [document.text for _, document in read_documents(open_sources(sources, **options))]


def json_lines(records=RECORDS) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def key_of(source: int, document: Document) -> Key:
    return Key(source, document.file, document.row)


def test_a_document_has_its_text_its_name_and_its_place(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "one"}\n\n{"text": "two"}\n')
    (tmp_path / "b.md").write_text("three")
    pq.write_table(pa.table({"text": ["four", "five"]}), tmp_path / "c.parquet")
    sources = open_sources([tmp_path, datasets.Dataset.from_list([{"text": "six"}])])
    assert list(read_documents(sources)) == [
        (0, Document("one", "a.jsonl, line 1", 0, 0)),
        (0, Document("two", "a.jsonl, line 3", 0, 2)),
        (0, Document("three", "b.md", 1, 0)),
        (0, Document("four", "c.parquet, row 0", 2, 0)),
        (0, Document("five", "c.parquet, row 1", 2, 1)),
        (1, Document("six", "row 0", 0, 0)),
    ]


def test_datasets_and_streams_are_read():
    dataset = datasets.Dataset.from_list(RECORDS)
    assert read(dataset) == TEXTS
    assert read(dataset.with_format("numpy")) == TEXTS
    assert read(dataset.select([1, 0])) == TEXTS[::-1]
    assert read(dataset.to_iterable_dataset()) == TEXTS
    assert read([dataset, dataset.select_columns("text")]) == TEXTS * 2


def test_entries_of_a_recipe_are_read_each_with_its_column(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(json_lines())
    (tmp_path / "b.jsonl").write_bytes(json_lines([{"body": "b"}]))
    entries = [
        {"path": str(tmp_path / "b.jsonl"), "text_column": "body"},
        DocumentSource(path=str(tmp_path / "a.jsonl")),
    ]
    assert read(entries) == ["b", *TEXTS]
    assert read({"path": tmp_path / "b.jsonl", "format": "text"}) == ['{"body": "b"}\n']


def test_an_entry_may_have_a_share_of_the_tokens(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    path = str(tmp_path / "a.txt")
    sources = open_sources([{"path": path, "share": 52.2}, {"path": path}])
    assert [source.share for source in sources] == [52.2, None]


SETS = [("one", "books"), ("two", "code"), ("three", "books"), ("four", "web"), ("five", None)]


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "dataset"])
def test_one_corpus_may_be_several_sources_by_what_its_records_hold(tmp_path, kind):
    records = [{"text": text, "meta": {"set": name}, "id": 1} for text, name in SETS]
    path = tmp_path / f"a.{kind}"
    if kind == "jsonl":
        path.write_bytes(json_lines([*records, {"text": "six"}]))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
    else:
        datasets.Dataset.from_list(records).save_to_disk(path)
    entries = [
        {"path": path, "label": "books", "where": {"meta.set": "books"}},
        {"path": path, "label": "others", "where": {"meta.set": ["code", "web"], "id": 1}},
    ]
    policy = RecordPolicy()
    documents = list(read_documents(open_sources(entries), policy=policy))
    assert [(source, d.text, d.row) for source, d in documents] == [
        (0, "one", 0),
        (0, "three", 2),
        (1, "two", 1),
        (1, "four", 3),
    ]
    assert [(source["label"], source["good"]) for source in policy.report()] == [("books", 2), ("others", 2)]
    assert policy.bad == []


def test_records_of_another_source_are_not_bad_ones(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(json_lines([{"text": "a", "set": "x"}, {"set": "y"}, {"set": "x"}]))
    policy = RecordPolicy(max_bad_share=1)
    (source,) = open_sources({"path": tmp_path / "a.jsonl", "where": {"set": "x"}})
    assert [d.text for _, d in read_documents([source], policy=policy)] == ["a"]
    assert [bad.place for bad in policy.bad] == ["a.jsonl, line 3"]


def test_a_source_that_no_record_is_of_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(json_lines())
    with pytest.raises(DocumentError, match=r"a\.jsonl: no record has the values of where"):
        read({"path": tmp_path / "a.jsonl", "where": {"id": 7}})


def test_a_source_knows_how_many_files_it_has(tmp_path):
    for name in "abc":
        (tmp_path / name).write_text(name)
    assert [source.files for source in open_sources([tmp_path, tmp_path / "a"])] == [3, 1]
    assert open_sources(["a", "b"])[0].files is None


def test_any_iterable_of_texts_is_the_documents():
    assert read(["a", "b"]) == ["a", "b"]
    assert read(letter for letter in "xyz") == ["x", "y", "z"]
    assert not open_sources(["a", "b"])[0].one_pass
    assert open_sources(iter(["a", "b"]))[0].one_pass


def test_the_fingerprint_follows_content_and_names_but_not_the_place(tmp_path):
    for folder in ("here", "there", "other", "renamed"):
        (tmp_path / folder).mkdir()
        name = "b.txt" if folder == "renamed" else "a.txt"
        (tmp_path / folder / name).write_text("else" if folder == "other" else "same")
    here, there, other, renamed = (
        open_sources(tmp_path / folder)[0].fingerprint for folder in ("here", "there", "other", "renamed")
    )
    assert here == there
    assert len({here, other, renamed}) == 3


@pytest.mark.parametrize(
    ("sources", "fault"),
    [
        (7, "int is no source"),
        ([1, 2], "all of the 2 records read are bad.*document 0: not text: column 'text' holds int"),
        ({"path": "x.txt", "colour": "red"}, r"unknown keys \['colour'\]"),
        ({"text_column": "a"}, "has no path"),
        ({"path": __file__, "share": 0}, "share is 0, not a number above 0"),
        ({"path": __file__, "share": "half"}, "share is 'half', not a number above 0"),
        ({"path": __file__, "where": "books"}, "where is 'books', not fields"),
        ({"path": __file__, "where": {"set": "books"}}, "text files are there"),
        ({"path": __file__, "format": "csv"}, "format 'csv' is not known"),
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


@pytest.mark.parametrize("part", [Part(2, 2), Part(-1, 2), Part(0, 0)])
def test_refuses_a_part_that_is_not_there(part):
    with pytest.raises(DocumentError, match=f"part {part.index} of {part.count}"):
        list(read_documents(open_sources(["a"]), part=part))


def test_parts_share_out_files_where_there_are_enough_else_rows(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.jsonl").write_bytes(json_lines([{"text": f"{name}{n}"} for n in range(4)]))

    def parts(count):
        sources = open_sources(tmp_path)
        return [[d.text for _, d in read_documents(sources, part=Part(i, count))] for i in range(count)]

    assert parts(2) == [["a0", "a1", "a2", "a3", "c0", "c1", "c2", "c3"], ["b0", "b1", "b2", "b3"]]
    assert parts(3) == [[f"{name}{n}" for n in range(4)] for name in "abc"]
    assert parts(4) == [[f"a{n}", f"b{n}", f"c{n}"] for n in range(4)]


def test_files_before_the_start_are_not_opened(tmp_path, monkeypatch):
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(name)
    sources = open_sources([tmp_path, tmp_path])
    for name in "ab":
        (tmp_path / f"{name}.txt").unlink()
    assert [d.text for _, d in read_documents(sources, start=Key(1, 2, 0))] == ["c"]


LINES = st.sampled_from(
    [b'{"text": "good"}', b'{"text": ""}', b'{"body": 1}', b"broken", b"", b'{"text": null}', b"\xff"]
)
CELLS = st.one_of(st.sampled_from([b"good", b"", b"\xff"]), st.none())


@st.composite
def corpora(draw) -> list[list[tuple[str, list]]]:
    """Sources of files: (suffix, lines or cells)."""
    json_file = st.tuples(st.sampled_from([".jsonl", ".cut.gz"]), st.lists(LINES, max_size=6))
    table = st.tuples(st.sampled_from([".parquet", ".body.parquet"]), st.lists(CELLS, max_size=6))
    text = st.tuples(st.just(".txt"), st.lists(LINES, max_size=2))
    source = st.lists(st.one_of(json_file, table, text), min_size=1, max_size=4)
    return draw(st.lists(source, min_size=1, max_size=3))


def write_corpus(folder: Path, corpus) -> list[Path]:
    import gzip

    for number, source in enumerate(corpus):
        (folder / str(number)).mkdir()
        for index, (suffix, rows) in enumerate(source):
            path = folder / str(number) / f"{index}{suffix.replace('.cut', '.jsonl')}"
            if suffix.endswith(".parquet"):
                column = "body" if "body" in suffix else "text"
                table = pa.table({column: pa.array(rows, pa.binary())})
                pq.write_table(table, path, row_group_size=2)
            elif suffix == ".cut.gz":
                path.write_bytes(gzip.compress(b"\n".join(rows))[:-9])
            else:
                path.write_bytes(b"\n".join(rows))
    return [folder / str(number) for number in range(len(corpus))]


@settings(max_examples=60, deadline=None)
@given(corpus=corpora(), count=st.integers(1, 6))
def test_parts_have_every_record_once_and_in_order_and_their_counts_add_up(corpus, count):
    with tempfile.TemporaryDirectory() as folder:
        sources = open_sources(write_corpus(Path(folder), corpus))
        whole = RecordPolicy(max_bad_share=1)
        everything = list(read_documents(sources, policy=whole))
        together, states = [], []
        for index in range(count):
            policy = RecordPolicy(max_bad_share=1)
            documents = list(read_documents(sources, part=Part(index, count), policy=policy))
            assert documents == sorted(documents, key=lambda item: key_of(*item))
            together += documents
            states.append(json.loads(json.dumps(policy.state())))
        merged = RecordPolicy(max_bad_share=1)
        merged.restore(*states)
    assert sorted(together, key=lambda item: key_of(*item)) == everything
    assert merged.report() == whole.report()
    assert merged.bad == whole.bad


@settings(max_examples=60, deadline=None)
@given(corpus=corpora(), part=st.sampled_from([Part(), Part(0, 2), Part(2, 3)]), data=st.data())
def test_reading_that_goes_on_equals_reading_at_once(corpus, part, data):
    with tempfile.TemporaryDirectory() as folder:
        sources = open_sources(write_corpus(Path(folder), corpus))
        whole = RecordPolicy(max_bad_share=1)
        everything = list(read_documents(sources, part=part, policy=whole))
        stop = data.draw(st.integers(0, len(everything)))
        first = RecordPolicy(max_bad_share=1)
        documents = read_documents(sources, part=part, policy=first)
        head = [next(documents) for _ in range(stop)]
        second = RecordPolicy(max_bad_share=1)
        second.restore(json.loads(json.dumps(first.state())))
        start = None
        if head:
            key = key_of(*head[-1])
            start = key._replace(row=key.row + 1)
        tail = list(read_documents(sources, part=part, policy=second, start=start))
    assert head + tail == everything
    assert second.state() == whole.state()
    assert second.bad == whole.bad


def test_texts_in_memory_are_shared_out_and_go_on_too():
    sources = open_sources(["a", "b", "", "d", "e"])
    halves = [[d.text for _, d in read_documents(sources, part=Part(i, 2))] for i in range(2)]
    assert halves == [["a", "e"], ["b", "d"]]
    policy = RecordPolicy()
    documents = read_documents(sources, policy=policy, start=Key(0, 0, 1))
    assert [d.text for _, d in documents] == ["b", "d", "e"]
    assert policy.report() == [{"source": 0, "label": "texts", "good": 3, "empty": 1, "bad": {}}]
