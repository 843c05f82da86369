from __future__ import annotations

import errno
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
from tiny_tokenizers import byte_tokenizer

from ultralong_hf import prepare_dataset
from ultralong_hf.data import packing
from ultralong_hf.data.encoding import filling, token_cache
from ultralong_hf.data.encoding.engines import Engine, open_engine
from ultralong_hf.data.store import LOCK, read_manifest
from ultralong_hf.data.storing import shards
from ultralong_hf.errors import DocumentError, EngineMismatch, MachineError

TOKENIZER = byte_tokenizer()
DOCUMENTS = [f"document {n}: " + "lorem ipsum " * (n % 5) for n in range(24)]
OPTIONS = {"tokenizer": TOKENIZER, "target_length": 16, "rows_per_shard": 16, "order": "shuffled"}


def contents(folder: Path) -> dict[str, bytes]:
    files = (f for f in folder.rglob("*") if f.is_file() and f.name != LOCK)
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in files}


@pytest.fixture(autouse=True)
def small_steps(monkeypatch):
    monkeypatch.setattr(token_cache, "FILE_TOKENS", 100)
    monkeypatch.setattr(filling, "BATCH_CHARACTERS", 60)


@pytest.fixture
def whole(tmp_path):
    prepare_dataset(DOCUMENTS, output_dir=tmp_path / "whole", **OPTIONS)
    return contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("way", "phases"),
    [("cache", {"tokenizing", "gathering"}), ("straight", {"writing straight", "tokenizing"})],
)
@pytest.mark.parametrize(
    "kills", [pytest.param(4, id="4"), pytest.param(20, id="20", marks=pytest.mark.slow)]
)
def test_stores_killed_at_random_moments_equal_one_made_at_once(tmp_path, kills, way, phases):
    source = tmp_path / "corpus.jsonl"
    rng = random.Random(1)
    lines = [json.dumps({"text": "word " * rng.randrange(1, 400)}) + "\n" for _ in range(400)]
    lines[50:50] = ["{broken\n"] * 3
    source.write_text("".join(lines))
    command = [sys.executable, "killed_runs.py", str(source), str(tmp_path), "7", str(kills), way]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["kills"] >= kills
    assert set(report["phases"]) & phases


class FullDisk:
    """Fails like a full disk when more bytes have been written than it has."""

    def __init__(self, monkeypatch, room: int) -> None:
        self.room = room
        for owner, name in ((token_cache._OpenFile, "append"), (shards.HashingFile, "write")):
            monkeypatch.setattr(owner, name, self._limited(getattr(owner, name)))

    def _limited(self, write):
        def limited(file, data):
            is_batch = isinstance(data, token_cache.EncodedDocuments)
            self.room -= sum(piece.nbytes for piece in data.tokens) if is_batch else len(data)
            if self.room < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(file, data)

        return limited


@pytest.fixture(scope="module")
def bytes_needed(tmp_path_factory):
    """All that a run writes, its cache included."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_cache, "FILE_TOKENS", 100)
        patch.setattr(filling, "BATCH_CHARACTERS", 60)
        disk = FullDisk(patch, 10**9)
        prepare_dataset(DOCUMENTS, output_dir=tmp_path_factory.mktemp("counted"), **OPTIONS)
        return 10**9 - disk.room


@pytest.mark.parametrize("share", [0.05, 0.2, 0.4, 0.6, 0.8, 0.9, 0.99])
def test_a_full_disk_is_one_error_that_leaves_nothing_half_written(
    tmp_path, whole, monkeypatch, bytes_needed, share
):
    with monkeypatch.context() as patch:
        FullDisk(patch, int(share * bytes_needed))
        with pytest.raises(MachineError, match=r"the disk is full\. Make room, and run the same again"):
            prepare_dataset(DOCUMENTS, output_dir=tmp_path / "full", **OPTIONS)
    assert [f.name for f in (tmp_path / "full").rglob("*.part")] == []
    assert not (tmp_path / "full" / "manifest.json").exists()
    prepare_dataset(DOCUMENTS, output_dir=tmp_path / "full", **OPTIONS)
    assert contents(tmp_path / "full") == whole


class WrongEngine(Engine):
    """Says after a few batches that its ids were wrong, as gigatoken's check does; they were, too."""

    name = "tokenizers"
    opened: ClassVar[list[str]] = []

    def start(self, texts):
        if any("document 9:" in text for text in texts):
            raise EngineMismatch("the ids of document 9 are wrong.")
        return open_engine(TOKENIZER, engine="tokenizers").start([text.upper() for text in texts])


@pytest.fixture
def wrong_engine(monkeypatch):
    WrongEngine.opened = []

    def opening(tokenizer, *, engine, workers, seed):
        WrongEngine.opened.append(engine)
        right = open_engine(tokenizer, engine="tokenizers", workers=workers, seed=seed)
        return right if engine == "tokenizers" else WrongEngine(right._encoder, workers)

    monkeypatch.setattr(packing, "open_engine", opening)


def test_wrong_ids_of_an_engine_are_all_made_again_by_the_tokenizers_library(tmp_path, wrong_engine, caplog):
    prepare_dataset(DOCUMENTS, output_dir=tmp_path / "auto", **OPTIONS)
    prepare_dataset(DOCUMENTS, output_dir=tmp_path / "plain", engine="tokenizers", **OPTIONS)
    assert WrongEngine.opened == ["auto", "tokenizers", "tokenizers"]
    auto, plain = read_manifest(tmp_path / "auto"), read_manifest(tmp_path / "plain")
    assert auto["shards"] == plain["shards"]
    assert auto["engine"] == {**plain["engine"], "notices": ["the ids of document 9 are wrong."]}
    assert caplog.messages == ["the ids of document 9 are wrong."]


def test_a_run_that_distrusts_an_engine_goes_on_without_it(tmp_path, bytes_needed, wrong_engine, monkeypatch):
    prepare_dataset(DOCUMENTS, output_dir=tmp_path / "whole", **OPTIONS)
    with monkeypatch.context() as patch:
        FullDisk(patch, bytes_needed // 2)
        with pytest.raises(MachineError):
            prepare_dataset(DOCUMENTS, output_dir=tmp_path / "stopped", **OPTIONS)
    assert WrongEngine.opened[2:] == ["auto", "tokenizers"]
    prepare_dataset(DOCUMENTS, output_dir=tmp_path / "stopped", **OPTIONS)
    assert WrongEngine.opened[4:] == ["tokenizers"]
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_documents_of_an_iterator_cannot_be_tokenized_again(tmp_path, wrong_engine):
    with pytest.raises(DocumentError, match="again with engine='tokenizers'"):
        prepare_dataset(iter(DOCUMENTS), output_dir=tmp_path, **OPTIONS)


def test_an_error_in_the_tokenizer_stops_the_run_and_the_next_goes_on(tmp_path, whole, monkeypatch):
    def dying(tokenizer, **options):
        engine = open_engine(tokenizer, **options)
        start = engine.start

        def once_too_often(texts):
            if any("document 15:" in text for text in texts):
                raise RuntimeError("a thread has died")
            return start(texts)

        engine.start = once_too_often
        return engine

    with monkeypatch.context() as patch:
        patch.setattr(packing, "open_engine", dying)
        with pytest.raises(RuntimeError, match="a thread has died"):
            prepare_dataset(DOCUMENTS, output_dir=tmp_path / "died", **OPTIONS)
    made = {f.name: f.stat().st_mtime_ns for f in (tmp_path / "died" / "cache").glob("*.bin")}
    assert made
    kept = {}

    def assembling(writer, caches, *rest, **options):
        kept.update({f.name: f.stat().st_mtime_ns for f in caches[0].glob("*.bin") if f.name in made})
        return assemble(writer, caches, *rest, **options)

    assemble = packing.assemble
    monkeypatch.setattr(packing, "assemble", assembling)
    prepare_dataset(DOCUMENTS, output_dir=tmp_path / "died", **OPTIONS)
    assert kept == made
    assert contents(tmp_path / "died") == whole


def test_settings_may_change_while_nothing_is_done(tmp_path, whole, monkeypatch):
    def failing(tokenizer, **options):
        raise RuntimeError("no engine")

    with monkeypatch.context() as patch:
        patch.setattr(packing, "open_engine", failing)
        with pytest.raises(RuntimeError):
            prepare_dataset(DOCUMENTS, output_dir=tmp_path / "begun", **{**OPTIONS, "seed": 99})
    prepare_dataset(DOCUMENTS, output_dir=tmp_path / "begun", **OPTIONS)
    assert contents(tmp_path / "begun") == whole


def test_shards_of_another_plan_are_made_again(tmp_path, whole, bytes_needed, monkeypatch):
    """As after documents were added to a list while their shards were being written."""
    with monkeypatch.context() as patch:
        FullDisk(patch, int(0.8 * bytes_needed))
        with pytest.raises(MachineError):
            prepare_dataset(DOCUMENTS[:20], output_dir=tmp_path / "begun", **OPTIONS)
    assert len(list((tmp_path / "begun").glob("data-*.arrow"))) > 0
    prepare_dataset(DOCUMENTS, output_dir=tmp_path / "begun", **OPTIONS)
    assert contents(tmp_path / "begun") == whole
