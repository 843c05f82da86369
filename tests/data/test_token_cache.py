from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ultralong_hf.data.encoding import cache_index, token_cache
from ultralong_hf.data.encoding.cache_index import TokenReader, read_index
from ultralong_hf.data.encoding.filling import fill_cache, read_ahead
from ultralong_hf.data.encoding.token_cache import EncodedDocuments, TokenCache
from ultralong_hf.data.reading.records import Key
from ultralong_hf.errors import StoreError

DTYPE = np.dtype(np.uint16)
ENGINE = {"name": "none", "version": "0"}
TEXTS = ["aaa", "b", "cccc", "dd", "eeeee", "f", "gg"]


def encoded(rows: list[int], source: int = 0) -> EncodedDocuments:
    """Documents TEXTS[row] as if a token were a byte, with a column of numbers and one of rows of them."""
    texts = [TEXTS[row] for row in rows]
    lengths = np.array([len(text) for text in texts], np.int64)
    return EncodedDocuments(
        keys=np.array([(source, row // 3, row) for row in rows], np.int64),
        names=pa.array([f"row {row}" for row in rows], pa.large_string()),
        tokens=[np.frombuffer(text.encode(), np.uint8).astype(DTYPE) for text in texts],
        lengths=lengths,
        characters=lengths,
        digests=np.array(rows, np.uint64) + 100,
        columns={"flag": np.array(rows, np.uint8), "sketch": np.array([[row, 7] for row in rows], np.uint8)},
        records={"seen": rows[-1] + 1},
    )


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    monkeypatch.setattr(token_cache, "FILE_TOKENS", 6)


def put(cache: TokenCache, rows: list[int]) -> None:
    fill_cache(cache, [encoded(rows)], ENGINE, progress=lambda tokens: None)


def filled(folder: Path, batches: list[list[int]]) -> TokenCache:
    cache = TokenCache(folder, DTYPE)
    for rows in batches:
        put(cache, rows)
    cache.finish({"seen": 7}, ENGINE, [])
    return cache


def texts_in(folders: list[Path]) -> list[str]:
    index = read_index(folders)
    tokens = np.empty(int(index.length.sum()), DTYPE)
    places = np.cumsum(index.length) - index.length
    with TokenReader(index.paths, DTYPE) as reader:
        reader.read(tokens, places, index.path.tolist(), index.offset.tolist(), index.length.tolist())
    return [
        bytes(tokens[place : place + length].tolist()).decode()
        for place, length in zip(places, index.length, strict=True)
    ]


@pytest.mark.parametrize("batches", [[[0, 1, 2, 3, 4, 5, 6]], [[0], [1, 2], [3, 4], [5, 6]]])
def test_gives_back_ids_and_facts_of_every_document_in_order(tmp_path, batches):
    filled(tmp_path, batches)
    index = read_index([tmp_path])
    assert texts_in([tmp_path]) == TEXTS
    assert index.names.to_pylist() == [f"row {row}" for row in range(7)]
    assert index.digest.tolist() == [100, 101, 102, 103, 104, 105, 106]
    assert index.columns["flag"].tolist() == list(range(7))
    assert index.columns["sketch"].tolist() == [[row, 7] for row in range(7)]
    assert len(index.paths) == len(batches) - 1 or len(batches) == 1


def test_takes_up_after_the_last_whole_file(tmp_path):
    cache = TokenCache(tmp_path, DTYPE)
    put(cache, [0, 1, 2])
    put(cache, [3])
    cache.abandon()
    again = TokenCache(tmp_path, DTYPE)
    assert (again.last, again.documents, again.tokens) == (Key(0, 0, 2), 3, 8)
    assert again.files[-1]["records"] == {"seen": 3}
    assert again.complete is None
    put(again, [3, 4, 5, 6])
    again.finish({"seen": 7}, ENGINE, ["a notice"])
    assert texts_in([tmp_path]) == TEXTS
    complete = TokenCache(tmp_path, DTYPE).complete
    assert complete is not None
    assert (complete["records"], complete["engines"], complete["notices"]) == (
        {"seen": 7},
        [ENGINE],
        ["a notice"],
    )


def test_an_abandoned_file_leaves_nothing_behind(tmp_path):
    cache = TokenCache(tmp_path, DTYPE)
    put(cache, [0])
    assert [path.name for path in tmp_path.iterdir()] == ["tokens-00000.bin.part"]
    cache.abandon()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", ["bin", "parquet"])
@pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
@pytest.mark.parametrize(("number", "left"), [(0, 0), (1, 1), (2, 2)])
def test_a_torn_file_and_those_after_it_are_forgotten(tmp_path, suffix, damage, number, left):
    filled(tmp_path, [[0, 1, 2], [3, 4], [5, 6]])
    path = tmp_path / f"tokens-{number:05d}.{suffix}"
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.unlink() if damage == "delete" else path.write_bytes(data if damage == "flip" else data[:-1])
    cache = TokenCache(tmp_path, DTYPE)
    assert (len(cache.files), cache.complete) == (left, None)
    assert len(list(tmp_path.glob("tokens-*"))) == 3 * left


def test_a_cache_with_a_file_too_few_is_not_complete(tmp_path):
    filled(tmp_path, [[0, 1, 2], [3, 4], [5, 6]])
    for path in tmp_path.glob("tokens-00002.*"):
        path.unlink()
    cache = TokenCache(tmp_path, DTYPE)
    assert (len(cache.files), cache.complete) == (2, None)


def test_the_index_of_several_parts_is_in_the_order_of_keys(tmp_path):
    filled(tmp_path / "odd", [[1, 3, 5]])
    filled(tmp_path / "even", [[0, 2], [4, 6]])
    assert texts_in([tmp_path / "odd", tmp_path / "even"]) == TEXTS
    assert read_index([tmp_path / "odd", tmp_path / "even"]).columns["flag"].tolist() == list(range(7))


def test_a_document_in_two_parts_is_refused(tmp_path):
    filled(tmp_path / "a", [[0, 1]])
    filled(tmp_path / "b", [[1, 2]])
    with pytest.raises(StoreError, match="in more than one part"):
        read_index([tmp_path / "a", tmp_path / "b"])


def test_no_documents_have_an_index_too(tmp_path):
    TokenCache(tmp_path, DTYPE).finish({}, ENGINE, [])
    assert len(read_index([tmp_path])) == 0


def test_a_file_is_closed_after_a_while_too(tmp_path, monkeypatch):
    monkeypatch.setattr(token_cache, "FILE_SECONDS", 0.0)
    cache = TokenCache(tmp_path, DTYPE)
    put(cache, [0])
    assert len(cache.files) == 1


def test_the_reader_keeps_few_files_open(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_index, "_OPEN_FILES", 1)
    filled(tmp_path, [[0, 1, 2], [3, 4], [5, 6]])
    assert texts_in([tmp_path]) == TEXTS


def test_the_reader_says_which_file_is_too_short(tmp_path):
    filled(tmp_path, [list(range(7))])
    index = read_index([tmp_path])
    index.paths[0].write_bytes(b"\0\0")
    tokens = np.empty(3, DTYPE)
    with TokenReader(index.paths, DTYPE) as reader, pytest.raises(StoreError, match=r"tokens-00000\.bin"):
        reader.read(tokens, [0], [0], [0], [3])


def test_reading_ahead_keeps_the_order_and_passes_errors_on():
    def items():
        yield from range(5)
        raise KeyError("the sixth")

    ahead = read_ahead(items(), 2)
    assert [next(ahead) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(KeyError, match="the sixth"):
        next(ahead)


def test_reading_ahead_is_bounded_and_ends_with_its_reader():
    made = []

    def items():
        for number in range(1000):
            made.append(number)
            yield number

    ahead = read_ahead(items(), 2)
    assert next(ahead) == 0
    time.sleep(0.2)
    assert len(made) <= 4
    before = threading.active_count()
    ahead.close()
    assert threading.active_count() == before - 1
