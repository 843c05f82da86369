from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import pytest
from tiny_tokenizers import byte_tokenizer

from ultralong_hf import load_packed, prepare_dataset
from ultralong_hf.data.showing.inspection import describe_row
from ultralong_hf.data.store import LOCK, StoreWriter, read_manifest
from ultralong_hf.errors import StoreError

TOKENIZER = byte_tokenizer()
DOCUMENTS = [f"document {n}: " + "lorem ipsum " * (n % 5) for n in range(24)]
OPTIONS = {"tokenizer": TOKENIZER, "target_length": 16, "rows_per_shard": 16}
MIXTURE = {"short_below": 20, "short_keep": 0.5, "long_above": 40, "long_repeat": 1.5}


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a store but its lock, which is empty."""
    files = (f for f in folder.rglob("*") if f.is_file() and f.name != LOCK)
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in files}


@pytest.fixture
def store(tmp_path):
    prepare_dataset(DOCUMENTS, output_dir=tmp_path / "store", **OPTIONS)
    return tmp_path / "store"


class StopError(Exception):
    pass


def stopping_after(monkeypatch, shards: int) -> None:
    """The writer stops after so many shards, as if killed before the next."""
    add_shard, added = StoreWriter.add_shard, []

    def add(self, shard):
        if len(added) == shards:
            raise StopError
        added.append(add_shard(self, shard))

    monkeypatch.setattr(StoreWriter, "add_shard", add)


@pytest.mark.parametrize("mixture", [None, MIXTURE])
@pytest.mark.parametrize("separator", ["<s>", {"kind": "new_token", "value": "<doc>"}])
def test_a_resumed_store_equals_one_written_at_once(tmp_path, monkeypatch, mixture, separator):
    options = {**OPTIONS, "mixture": mixture, "separator": separator}
    prepare_dataset(DOCUMENTS, output_dir=tmp_path / "whole", **options)
    whole = contents(tmp_path / "whole")
    shards = len(read_manifest(tmp_path / "whole")["shards"])
    assert shards > 2
    for stop in (0, 1, shards - 1):
        folder = tmp_path / f"stopped {stop}"
        with monkeypatch.context() as patch:
            stopping_after(patch, stop)
            with pytest.raises(StopError):
                prepare_dataset(DOCUMENTS, output_dir=folder, **options)
        with pytest.raises(StoreError, match="unfinished: run the same"):
            load_packed(folder)
        prepare_dataset(DOCUMENTS, output_dir=folder, **options)
        assert contents(folder) == whole


def test_resuming_packs_no_shard_again(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stopping_after(patch, 2)
        with pytest.raises(StopError):
            prepare_dataset(DOCUMENTS, output_dir=tmp_path, **OPTIONS)
    added = json.loads((tmp_path / "progress.json").read_text())["shards"]
    before = {shard["file"]: (tmp_path / shard["file"]).stat().st_mtime_ns for shard in added}
    assert len(before) == 2
    prepare_dataset(DOCUMENTS, output_dir=tmp_path, **OPTIONS)
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in before} == before


_SCRIPT = """
import sys
sys.path.insert(0, sys.argv[3])
from tiny_tokenizers import byte_tokenizer
from ultralong_hf import prepare_dataset
prepare_dataset(
    sys.argv[1], tokenizer=byte_tokenizer(), target_length=64, output_dir=sys.argv[2], rows_per_shard=4
)
"""


def test_a_store_killed_at_random_moments_equals_one_written_at_once(tmp_path):
    source = tmp_path / "corpus.jsonl"
    rng = random.Random(0)
    texts = ["word " * rng.randrange(400) for _ in range(60)]
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    options = {"tokenizer": byte_tokenizer(), "target_length": 64, "rows_per_shard": 4}
    prepare_dataset(source, output_dir=tmp_path / "whole", **options)
    command = [
        sys.executable,
        "-c",
        _SCRIPT,
        str(source),
        str(tmp_path / "killed"),
        str(Path(__file__).parent),
    ]
    partial = 0
    for _ in range(3):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while process.poll() is None and not (tmp_path / "killed").is_dir():
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
        partial += (tmp_path / "killed" / "progress.json").is_file()
    assert partial > 0
    subprocess.run(command, check=True, capture_output=True)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_a_finished_store_is_opened_not_made_again(store, monkeypatch):
    monkeypatch.setattr(StoreWriter, "make_shard", None)
    before = {f: f.stat().st_mtime_ns for f in store.rglob("*.*") if f.name != LOCK}
    rows = prepare_dataset(DOCUMENTS, output_dir=store, **OPTIONS)
    assert len(rows) == read_manifest(store)["rows"]
    assert {f: f.stat().st_mtime_ns for f in before} == before


@pytest.mark.parametrize(
    ("file", "rows"), [("data-00001.arrow", "16-31"), ("segments/00001.parquet", "16-31")]
)
@pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
def test_a_damaged_shard_is_named_and_rebuilt_alone(store, file, rows, damage):
    whole = contents(store)
    path = store / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink() if damage == "delete" else path.write_bytes(data if damage == "flip" else data[:-9])
    with pytest.raises(
        StoreError, match=rf"{file} does not match its digest in manifest.json \(rows {rows}\)"
    ):
        load_packed(store)
    others = {f: f.stat().st_mtime_ns for f in store.rglob("*0000[02].*")}
    assert len(others) == 4
    prepare_dataset(DOCUMENTS, output_dir=store, **OPTIONS)
    assert contents(store) == whole
    assert {f: f.stat().st_mtime_ns for f in others} == others


def test_a_shard_that_was_cut_is_noticed_without_reading_it(store):
    path = store / "data-00001.arrow"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(StoreError, match=r"data-00001\.arrow"):
        load_packed(store, verify=False)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"target_length": 8}, "another target_length: 16 there, 8 now"),
        ({"separator": "|"}, "another separator"),
        ({"seed": 1}, "another seed: 0 there, 1 now"),
        ({"mixture": MIXTURE}, "another mixture: None there"),
        ({"rows_per_shard": 9}, "another rows_per_shard: 16 there, 9 now"),
    ],
)
def test_a_store_with_other_settings_is_refused(store, change, fault):
    with pytest.raises(StoreError, match=fault):
        prepare_dataset(DOCUMENTS, output_dir=store, **{**OPTIONS, **change})


def test_other_special_tokens_decide_no_id_of_a_text_and_are_not_refused(store):
    options = {**OPTIONS, "tokenizer": byte_tokenizer(["</s>", "<bos>"])}
    assert len(prepare_dataset(DOCUMENTS, output_dir=store, **options)) > 0


def test_a_store_of_another_tokenizer_is_refused(store):
    other = byte_tokenizer()
    other.add_tokens(["lorem"])
    with pytest.raises(StoreError, match="another tokenizer_sha256"):
        prepare_dataset(DOCUMENTS, output_dir=store, **{**OPTIONS, "tokenizer": other})
    with pytest.raises(StoreError, match=r"manifest\.json: the store was made with another tokenizer"):
        load_packed(store, tokenizer=other)
    assert len(load_packed(store, tokenizer=TOKENIZER)) > 0


def test_a_tokenizer_in_which_the_separator_is_another_token_is_refused(tmp_path):
    prepare_dataset(DOCUMENTS, output_dir=tmp_path, **{**OPTIONS, "separator": {"kind": "eos"}})
    other = byte_tokenizer()
    other.eos_token = "<bos>"
    there, here = TOKENIZER.eos_token_id, other.eos_token_id
    with pytest.raises(
        StoreError, match=rf"the separator eos is \[{there}\] in the store, but \[{here}\] in this"
    ):
        load_packed(tmp_path, tokenizer=other)


def test_a_store_with_a_new_token_opens_with_the_tokenizer_before_and_after(tmp_path):
    options = {**OPTIONS, "separator": {"kind": "new_token", "value": "<doc>"}}
    prepare_dataset(DOCUMENTS, output_dir=tmp_path, **options)
    extended = type(TOKENIZER).from_pretrained(tmp_path / "tokenizer")
    for tokenizer in (TOKENIZER, extended):
        assert len(load_packed(tmp_path, tokenizer=tokenizer)) > 0
        assert len(prepare_dataset(DOCUMENTS, output_dir=tmp_path, **{**options, "tokenizer": tokenizer})) > 0


def test_other_documents_are_refused(tmp_path, store, monkeypatch):
    with pytest.raises(StoreError, match="made of other documents"):
        prepare_dataset([*DOCUMENTS, "more"], output_dir=store, **OPTIONS)
    with monkeypatch.context() as patch:
        stopping_after(patch, 2)
        with pytest.raises(StopError):
            prepare_dataset(DOCUMENTS, output_dir=tmp_path / "begun", **OPTIONS)
    for changed in (["changed", *DOCUMENTS[1:]], DOCUMENTS[:2]):
        with pytest.raises(StoreError, match="documents have changed since"):
            prepare_dataset(changed, output_dir=tmp_path / "begun", **OPTIONS)


def test_other_files_are_refused_and_moved_ones_are_not(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for number, text in enumerate(DOCUMENTS):
        (folder / f"{number:03d}.txt").write_text(text)
    prepare_dataset(folder, output_dir=tmp_path / "out", **OPTIONS)
    folder.rename(tmp_path / "moved")
    prepare_dataset(tmp_path / "moved", output_dir=tmp_path / "out", **OPTIONS)
    (tmp_path / "moved" / "000.txt").write_text("Document 0: ")
    with pytest.raises(StoreError, match="another sources"):
        prepare_dataset(tmp_path / "moved", output_dir=tmp_path / "out", **OPTIONS)


def test_a_damaged_shard_of_changed_documents_is_not_rebuilt(store):
    (store / "data-00001.arrow").unlink()
    with pytest.raises(StoreError, match="documents have changed"):
        prepare_dataset(["x" * 99, *DOCUMENTS[1:]], output_dir=store, **OPTIONS)


@pytest.mark.parametrize("name", ["model.safetensors", "data-00000.arrow", "state.json"])
def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(StoreError, match=f"is no token store: it holds {name}"):
        prepare_dataset(DOCUMENTS, output_dir=tmp_path, **OPTIONS)
    assert (tmp_path / name).read_text() == "mine"
    with pytest.raises(StoreError, match=r"it has no manifest\.json"):
        load_packed(tmp_path)


def test_a_dataset_that_is_no_store_is_refused(tmp_path):
    datasets.Dataset.from_dict({"input_ids": [[1, 2]]}).save_to_disk(tmp_path / "other")
    with pytest.raises(StoreError, match=r"it has no manifest\.json"):
        load_packed(tmp_path / "other")
    with pytest.raises(StoreError, match="is no token store"):
        prepare_dataset(DOCUMENTS, output_dir=tmp_path / "other", **OPTIONS)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 99}'])
def test_a_damaged_manifest_is_named(store, content):
    (store / "manifest.json").write_text(content)
    for open_store in (load_packed, lambda f: prepare_dataset(DOCUMENTS, output_dir=f, **OPTIONS)):
        with pytest.raises(StoreError, match=r"manifest\.json is (damaged|of format 99)"):
            open_store(store)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        prepare_dataset(DOCUMENTS, output_dir=tmp_path / "file", **OPTIONS)


def test_a_second_run_on_the_same_folder_is_refused(tmp_path):
    class TwoRuns:
        def __iter__(self):
            with pytest.raises(StoreError, match="being written by another process"):
                prepare_dataset(DOCUMENTS, output_dir=tmp_path, **OPTIONS)
            yield from DOCUMENTS

    assert len(prepare_dataset(TwoRuns(), output_dir=tmp_path, **OPTIONS)) > 0


def test_a_row_that_is_not_there_is_refused(store):
    with pytest.raises(StoreError, match="has no row 10000: it has rows 0 to"):
        describe_row(store, 10_000)


def test_rows_do_not_depend_on_the_number_of_workers(tmp_path):
    for workers in (1, 4):
        prepare_dataset(DOCUMENTS, output_dir=tmp_path / str(workers), workers=workers, **OPTIONS)
    assert contents(tmp_path / "1") == contents(tmp_path / "4")


def test_a_moved_store_opens(store, tmp_path):
    shutil.move(store, tmp_path / "moved")
    assert len(load_packed(tmp_path / "moved")) > 0


def test_a_shard_that_was_damaged_before_the_work_was_done_is_rebuilt_too(tmp_path, monkeypatch):
    prepare_dataset(DOCUMENTS, output_dir=tmp_path / "whole", **OPTIONS)
    with monkeypatch.context() as patch:
        stopping_after(patch, 2)
        with pytest.raises(StopError):
            prepare_dataset(DOCUMENTS, output_dir=tmp_path / "begun", **OPTIONS)
    (tmp_path / "begun" / "data-00000.arrow").write_bytes(b"torn")
    prepare_dataset(DOCUMENTS, output_dir=tmp_path / "begun", **OPTIONS)
    assert contents(tmp_path / "begun") == contents(tmp_path / "whole")


def test_what_a_kill_just_after_the_manifest_leaves_behind_is_cleared(store):
    whole = contents(store)
    (store / "progress.json").write_text("{}")
    prepare_dataset(DOCUMENTS, output_dir=store, **OPTIONS)
    assert contents(store) == whole
