from __future__ import annotations

import bz2
import gzip
import json
import lzma

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ultralong_hf.data.documents import Document, Key, RecordPolicy, open_sources, read_documents
from ultralong_hf.data.reading import decompression
from ultralong_hf.data.reading.files import find_files
from ultralong_hf.data.reading.records import Rows
from ultralong_hf.data.reading.text_files import _split_lines, parse_slowly
from ultralong_hf.errors import DocumentError

COMPRESSORS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}
DATA = b'{"text": "one"}\n{"text": "zwei \xc3\xbc"}\n\n{"text": "drei"}'


def read(path, **options):
    policy = RecordPolicy(max_bad_share=1)
    documents = [d for _, d in read_documents(open_sources(path), policy=policy, **options)]
    return documents, policy.bad


@pytest.mark.parametrize("suffix", ["", *COMPRESSORS])
def test_json_lines_are_read_plain_and_compressed(tmp_path, suffix):
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(COMPRESSORS.get(suffix, bytes)(DATA))
    documents = [
        Document("one", f"{path.name}, line 1", 0, 0),
        Document("zwei ü", f"{path.name}, line 2", 0, 1),
        Document("drei", f"{path.name}, line 4", 0, 3),
    ]
    assert read(path) == (documents, [])
    assert read(path, start=Key(0, 0, 1)) == (documents[1:], [])


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_a_compressed_file_may_have_several_members(tmp_path, suffix):
    compress = COMPRESSORS[suffix]
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(compress(b"one ") + compress(b"") + compress(b"two"))
    assert [d.text for d in read(path)[0]] == ["one two"]


def test_gzip_padded_with_zeros_is_whole(tmp_path):
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"one") + b"\0" * 500)
    assert [d.text for d in read(tmp_path / "a.txt.gz")[0]] == ["one"]


def test_zstd_with_a_window_as_long_as_it_gets_is_read(tmp_path):
    parameters = zstandard.ZstdCompressionParameters(window_log=31, enable_ldm=True)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    (tmp_path / "a.txt.zst").write_bytes(stream.compress(b"one") + stream.flush())
    assert [d.text for d in read(tmp_path / "a.txt.zst")[0]] == ["one"]


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_a_compressed_file_that_ends_early_is_one_bad_record_after_what_came_before(tmp_path, suffix):
    lines = [json.dumps({"text": f"{n}" * 90}).encode() for n in range(8_000)]
    whole = COMPRESSORS[suffix](b"\n".join(lines))
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(whole[:-20])
    documents, bad = read(path)
    assert 100 < len(documents) < 8_000
    assert [d.text for d in documents] == [f"{n}" * 90 for n in range(len(documents))]
    n = len(documents)
    assert [(b.place, b.reason, b.row) for b in bad] == [
        (
            f"{path.name}, line {n + 1}",
            f"ends early: the file can be read up to line {n} only: the compressed data are cut off.",
            n,
        )
    ]
    assert read(path, start=Key(0, 0, n - 1)) == (documents[-1:], bad)


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_a_compressed_file_that_is_something_else_is_one_bad_record(tmp_path, suffix):
    for name in ("a.jsonl", "b.txt"):
        (tmp_path / f"{name}{suffix}").write_bytes(b'{"text": "not compressed"}\n')
    documents, bad = read(tmp_path)
    assert documents == []
    assert [(b.place, b.reason.split(":")[0]) for b in bad] == [
        (f"a.jsonl{suffix}, line 1", "damaged"),
        (f"b.txt{suffix}", "damaged"),
    ]


def test_a_long_line_over_many_blocks_is_one_document(tmp_path, monkeypatch):
    monkeypatch.setattr(decompression, "_READ_BYTES", 7)
    text = "".join(map(str, range(5000)))
    data = f'{{"text": "{text}"}}\n{{"text": "b"}}\n'.encode()
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(data))
    assert [d.text for d in read(tmp_path)[0]] == [text, "b"]


@given(st.lists(st.binary(max_size=9)))
def test_lines_do_not_depend_on_the_blocks(blocks):
    data = b"".join(blocks)
    lines = data.removesuffix(b"\n").split(b"\n") if data else []
    assert list(_split_lines(iter(blocks))) == lines


def test_line_ends_of_windows_and_a_byte_order_mark_are_no_part_of_json_lines(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n\r\n{"text": "b"}\r\n')
    assert read(tmp_path) == (
        [Document("a", "a.jsonl, line 1", 0, 0), Document("b", "a.jsonl, line 3", 0, 2)],
        [],
    )


def test_text_is_read_to_the_byte(tmp_path):
    (tmp_path / "a.md").write_bytes("# Ü\r\n\0line\n\n".encode())
    assert [d.text for d in read(tmp_path)[0]] == ["# Ü\r\n\0line\n\n"]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=3), children, max_size=3)
    ),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.dictionaries(st.sampled_from(["text", "id", "ü"]), JSON_VALUES).map(json.dumps),
        JSON_VALUES.map(json.dumps),
        st.text(max_size=20),
    ).flatmap(lambda line: st.sampled_from([line.encode(), line.encode() + b"\r", line[:-1].encode()]))
)
@example(b'{"text": "a", "text": "b"}')
@example(b'{"text": "\\ud83d\\ude00"}')
@example(b'{"text": "a", "id": "\\ud800"}')
@example(b'{"text": "a", "id": 1' + b"0" * 400 + b"}")
@example(b'{"text": "a", "id": NaN}')
@example(b"19000000000000000000")
@example(b'{"text": "a\\u0000b"}')
def test_the_fast_parser_gives_no_other_texts_than_the_slow_one(line):
    try:
        fast = orjson.loads(line)
    except ValueError:
        return
    slow = parse_slowly(line)
    assert isinstance(fast, dict) == isinstance(slow, dict)
    if isinstance(fast, dict):
        assert fast.keys() == slow.keys()
        assert {k: v for k, v in fast.items() if isinstance(v, str)} == {
            k: v for k, v in slow.items() if isinstance(v, str)
        }


def test_a_record_that_only_the_slow_parser_takes_is_a_document(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a", "score": NaN}\n{"text": "b", "other": "\\ud800"}\n')
    assert [d.text for d in read(tmp_path)[0]] == ["a", "b"]


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.binary(),
        pa.large_binary(),
        pa.dictionary(pa.int32(), pa.string()),
    ],
    ids=str,
)
def test_parquet_columns_of_every_kind_of_text_are_read(tmp_path, kind):
    texts = ["one", "zwei ü", "one"]
    column = pa.array([t.encode() for t in texts] if "binary" in str(kind) else texts, kind)
    pq.write_table(pa.table({"id": [1, 2, 3], "text": column}), tmp_path / "a.parquet")
    assert read(tmp_path)[0] == [Document(text, f"a.parquet, row {n}", 0, n) for n, text in enumerate(texts)]


@given(start=st.integers(0, 20), step=st.integers(1, 7), first=st.integers(0, 20), length=st.integers(0, 20))
def test_the_rows_within_a_piece_are_those_that_are_held(start, step, first, length):
    for remainder in range(step):
        rows = Rows(start, remainder, step)
        held = [index for index in range(length) if rows.holds(first + index)]
        assert list(rows.within(first, length)) == held


def test_parquet_of_many_row_groups_goes_on_from_any_row(tmp_path):
    texts = [f"{n}" for n in range(1000)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", row_group_size=7)
    for row in (0, 6, 7, 8, 500, 999, 1000):
        documents, _ = read(tmp_path, start=Key(0, 0, row))
        assert [(d.row, d.text) for d in documents] == [(n, f"{n}") for n in range(row, 1000)]


def test_a_folder_gives_its_files_by_the_parts_of_their_names(tmp_path):
    for name in ("b/x.md", "a.py", "b/.hidden", ".git/config", "b-c/y.txt", "a/z"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    names = ["a/z", "a.py", "b/x.md", "b-c/y.txt"]
    assert [d.text for d in read(tmp_path)[0]] == names
    assert [d.name for d in read(f"{tmp_path}/")[0]] == names
    assert [d.name for d in read(tmp_path / "**" / "*.md")[0]] == ["x.md"]
    assert [d.name for d in read(f"{tmp_path}/b*/*")[0]] == ["b/x.md", "b-c/y.txt"]


def test_relative_paths_and_globs_are_told_from_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "sub" / "b.txt").write_text("b")
    monkeypatch.chdir(tmp_path)
    assert [d.name for d in read("a.txt")[0]] == ["a.txt"]
    assert [d.name for d in read(".")[0]] == ["a.txt", "sub/b.txt"]
    assert [d.name for d in read("**/*.txt")[0]] == ["a.txt", "sub/b.txt"]


def test_a_file_or_folder_that_cannot_be_read_is_an_error_not_a_bad_record(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("a")
    sources = open_sources(tmp_path)
    (tmp_path / "a.txt").unlink()
    with pytest.raises(DocumentError, match=r"a\.txt: cannot be read: No such file"):
        list(read_documents(sources))

    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(DocumentError, match="cannot be read: Permission denied"):
        find_files(str(tmp_path))
