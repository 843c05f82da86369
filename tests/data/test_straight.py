from __future__ import annotations

import contextlib
import itertools
import json
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizers import byte_tokenizer

from ultralong_hf import prepare_dataset
from ultralong_hf.data import packing
from ultralong_hf.data.encoding import cache_index, filling
from ultralong_hf.data.encoding.engines import Engine, open_engine
from ultralong_hf.data.encoding.token_cache import TokenCache
from ultralong_hf.data.store import LOCK, StoreWriter, read_manifest
from ultralong_hf.data.storing.parts import merge_parts, prepare_part
from ultralong_hf.data.storing.straight import RowStream, with_separators
from ultralong_hf.errors import EngineMismatch

TOKENIZER = byte_tokenizer()
TEXTS = [f"document {n}: " + "lorem ipsum " * (n % 5) for n in range(24)]
OPTIONS = {"tokenizer": TOKENIZER, "target_length": 16, "rows_per_shard": 5, "engine": "tokenizers"}


def contents(folder: Path) -> dict[str, bytes]:
    files = (f for f in folder.rglob("*") if f.is_file() and f.name != LOCK)
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in files}


def write_corpus(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def through_the_cache(corpus: Path, folder: Path, **options) -> dict[str, bytes]:
    """The bytes of the store made of one part, which never goes straight."""
    prepare_part(corpus, part="0/1", output_dir=folder / "part", **options)
    merge_parts(folder / "merged", [folder / "part"])
    return contents(folder / "merged")


@pytest.fixture
def corpus(tmp_path):
    return write_corpus(tmp_path / "corpus.jsonl", TEXTS)


@pytest.fixture(autouse=True)
def small_steps(monkeypatch):
    monkeypatch.setattr(filling, "BATCH_CHARACTERS", 60)


class StopError(Exception):
    pass


def stopping(function, after: int):
    """The function, which fails when it has been called so often."""
    calls = itertools.count()

    def called(*arguments):
        if next(calls) == after:
            raise StopError
        return function(*arguments)

    return called


def stop_at(monkeypatch, owner, name: str, after: int, corpus: Path, folder: Path) -> None:
    """Begins the store and stops at that call."""
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, stopping(getattr(owner, name), after))
        with pytest.raises(StopError):
            make(corpus, folder)


def make(corpus: Path, folder: Path, **options) -> dict[str, bytes]:
    prepare_dataset(corpus, output_dir=folder, **{**OPTIONS, **options})
    return contents(folder)


@pytest.mark.parametrize("separator", [None, "<s>", {"kind": "new_token", "value": "<doc>"}])
def test_rows_written_straight_are_those_that_go_through_the_cache(tmp_path, corpus, separator, monkeypatch):
    options = {**OPTIONS, "separator": separator}
    cached = through_the_cache(corpus, tmp_path, **options)
    monkeypatch.setattr(cache_index.TokenReader, "read", None)
    assert make(corpus, tmp_path / "straight", separator=separator) == cached


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.text("ab ", max_size=60), min_size=1, max_size=12),
    target_length=st.integers(1, 30),
    rows_per_shard=st.integers(1, 4),
    separator=st.sampled_from([None, "|", "<s>"]),
    batch=st.sampled_from([1, 30, 1000]),
    stops=st.lists(
        st.tuples(
            st.sampled_from(
                [
                    (StoreWriter, "add_rows"),
                    (StoreWriter, "write_rows"),
                    (StoreWriter, "add_shard"),
                    (TokenCache, "append"),
                    (TokenCache, "close_file"),
                    (TokenCache, "finish"),
                ]
            ),
            st.integers(0, 3),
        ),
        max_size=3,
    ),
)
def test_runs_that_stop_anywhere_end_with_the_same_bytes(
    texts, target_length, rows_per_shard, separator, batch, stops
):
    options = {
        **OPTIONS,
        "target_length": target_length,
        "rows_per_shard": rows_per_shard,
        "separator": separator,
        "max_bad_share": 1,
    }
    with tempfile.TemporaryDirectory() as parent, mock.patch.object(filling, "BATCH_CHARACTERS", batch):
        corpus, store = write_corpus(Path(parent) / "corpus.jsonl", texts), Path(parent) / "store"
        if sum(map(len, texts)) < target_length:
            return
        for (owner, name), after in stops:
            with (
                mock.patch.object(owner, name, stopping(getattr(owner, name), after)),
                contextlib.suppress(StopError),
            ):
                prepare_dataset(corpus, output_dir=store, **options)
        assert make(corpus, store, **options) == through_the_cache(corpus, Path(parent), **options)


def test_a_run_that_goes_on_leaves_the_rows_that_there_are(tmp_path, corpus, monkeypatch):
    whole = make(corpus, tmp_path / "whole")
    folder = tmp_path / "begun"
    stop_at(monkeypatch, StoreWriter, "write_rows", 3, corpus, folder)
    assert not (folder / "cache" / "complete.json").exists()
    assert {file.stat().st_size for file in folder.glob("cache/*.bin")} == {0}
    before = {file: file.stat().st_mtime_ns for file in folder.glob("data-*.arrow")}
    assert len(before) == 3
    assert make(corpus, folder) == whole
    assert {file: file.stat().st_mtime_ns for file in before} == before


@pytest.mark.parametrize("damage", ["torn", "missing"])
@pytest.mark.parametrize("stop", [(StoreWriter, "write_rows"), (StoreWriter, "add_shard")])
def test_rows_that_were_damaged_before_the_end_are_made_again(tmp_path, corpus, monkeypatch, damage, stop):
    whole = make(corpus, tmp_path / "whole")
    stop_at(monkeypatch, *stop, 2, corpus, tmp_path / "begun")
    file = tmp_path / "begun" / "data-00001.arrow"
    file.unlink() if damage == "missing" else file.write_bytes(b"torn")
    assert make(corpus, tmp_path / "begun") == whole


def test_what_a_cache_was_begun_for_is_ended_through_it(tmp_path, corpus, monkeypatch):
    whole = make(corpus, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(packing, "goes_straight", lambda writer, cache: False)
        stop_at(monkeypatch, StoreWriter, "add_shard", 1, corpus, tmp_path / "begun")
    assert make(corpus, tmp_path / "begun") == whole


def test_rows_of_wrong_ids_are_forgotten(tmp_path, corpus, monkeypatch):
    class WrongEngine(Engine):
        name = "tokenizers"

        def start(self, texts):
            if any("document 20:" in text for text in texts):
                raise EngineMismatch("the ids of document 20 are wrong.")
            return open_engine(TOKENIZER, engine="tokenizers").start([2 * text for text in texts])

    def opening(tokenizer, *, engine, **options):
        right = open_engine(tokenizer, engine="tokenizers", **options)
        return right if engine == "tokenizers" else WrongEngine(right._encoder, None)

    whole = make(corpus, tmp_path / "whole")
    monkeypatch.setattr(packing, "open_engine", opening)
    assert make(corpus, tmp_path / "auto", engine="auto").keys() == whole.keys()
    shards = read_manifest(tmp_path / "whole")["shards"]
    assert read_manifest(tmp_path / "auto")["shards"] == shards
    assert len(shards) > 2


@pytest.mark.parametrize(
    "options",
    [
        {"order": "shuffled"},
        {"epochs": 2},
        {"keep_tail": False},
        {"token_budget": 300},
        {"min_document_length": 20},
        {"filters": {"exact_duplicates": True}},
        {"mixture": {"short_below": 20, "short_keep": 0.5}},
    ],
)
def test_a_choice_among_documents_goes_through_the_cache(tmp_path, corpus, options, monkeypatch):
    monkeypatch.setattr(packing, "write_straight", None)
    assert make(corpus, tmp_path / "whole", **options) == through_the_cache(
        corpus, tmp_path, **{**OPTIONS, **options}
    )


def test_texts_that_only_reading_tells_apart_go_through_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "write_straight", None)
    assert len(prepare_dataset(TEXTS, output_dir=tmp_path, **OPTIONS)) > 0


def test_separators_stand_before_documents_that_are_not_empty():
    pieces = [np.array([1, 1, 2]), np.array([], int), np.array([3])]
    lengths, separator = np.array([2, 0, 1, 0, 1, 0]), np.array([7, 8])
    joined = [one.tolist() for one in with_separators(pieces, lengths, separator)]
    assert joined == [[7, 8, 1, 1, 7, 8, 2], [7, 8, 3]]


def test_a_stream_is_cut_into_rows_and_what_fills_none_is_left():
    stream = RowStream(iter([np.arange(5), np.arange(5, 6), np.arange(6, 24)]), 4, np.dtype(np.uint16))
    stream.skip(6)
    first = [block.tolist() for block in stream.blocks(2)]
    assert first == [[[6, 7, 8, 9], [10, 11, 12, 13]]]
    assert [block.tolist() for block in stream.blocks(9)] == [[[14, 15, 16, 17], [18, 19, 20, 21]]]
    assert list(stream.blocks(9)) == []
