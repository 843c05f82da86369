from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from tiny_tokenizers import byte_tokenizer

from ultralong_hf import load_packed, prepare_dataset
from ultralong_hf.cli import main
from ultralong_hf.data.encoding import filling, token_cache
from ultralong_hf.data.store import LOCK, StoreWriter
from ultralong_hf.data.storing.parts import merge_parts, parse_part, prepare_part
from ultralong_hf.errors import DocumentError, InputError, StoreError

TOKENIZER = byte_tokenizer()
OPTIONS = {
    "tokenizer": TOKENIZER,
    "target_length": 64,
    "rows_per_shard": 8,
    "order": "shuffled",
    "mixture": {"short_below": 50, "short_keep": 0.5, "long_above": 100, "long_repeat": 2},
    "filters": {"exact_duplicates": True},
    "separator": {"kind": "new_token", "value": "<doc>"},
    "max_bad_share": 0.2,
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Two sources: five files of 30 documents, a bad and an empty record each, and one file of 40."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = random.Random(0)
    words = ["lorem", "ipsum", "dolor", "sit", "amet"]

    def document() -> str:
        return json.dumps({"text": " ".join(rng.choices(words, k=rng.randrange(1, 40)))}) + "\n"

    (folder / "many").mkdir()
    for number in range(5):
        lines = [document() for _ in range(30)]
        lines[7:7] = ["{broken\n", '{"text": ""}\n']
        (folder / "many" / f"{number}.jsonl").write_text("".join(lines))
    same = json.dumps({"text": "twice " * 20}) + "\n"
    (folder / "one.jsonl").write_text(same + "".join(document() for _ in range(38)) + same)
    return [{"path": str(folder / "many")}, {"path": str(folder / "one.jsonl")}]


def contents(folder: Path) -> dict[str, bytes]:
    files = (f for f in folder.rglob("*") if f.is_file() and f.name != LOCK)
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in files}


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "store"
    prepare_dataset(corpus, output_dir=folder, **OPTIONS)
    return contents(folder)


def make_parts(corpus, folder: Path, count: int, **changes) -> list[Path]:
    for index in range(count):
        prepare_part(corpus, part=(index, count), output_dir=folder / str(index), **{**OPTIONS, **changes})
    return sorted(folder.iterdir())


@pytest.mark.parametrize("count", [1, 2, 7])
def test_joined_parts_have_the_bytes_of_one_machine(corpus, whole, tmp_path, count):
    parts = make_parts(corpus, tmp_path / "parts", count)
    before = [contents(part) for part in parts]
    merge_parts(tmp_path / "store", reversed(parts))
    assert contents(tmp_path / "store") == whole
    assert [contents(part) for part in parts] == before
    assert json.loads(whole["manifest.json"])["documents"]["dropped_by_filters"] == 2
    assert len(whole["removed.jsonl"].splitlines()) == 2
    assert len(whole["bad_records.jsonl"].splitlines()) == 10


def test_a_finished_merge_is_opened_not_made_again(corpus, tmp_path, monkeypatch):
    parts = make_parts(corpus, tmp_path / "parts", 2)
    rows = merge_parts(tmp_path / "store", parts)
    monkeypatch.setattr(StoreWriter, "make_shard", None)
    assert len(merge_parts(tmp_path / "store", parts)) == len(rows)


def test_a_damaged_shard_of_a_merged_store_is_made_again_from_the_parts(corpus, whole, tmp_path):
    parts = make_parts(corpus, tmp_path / "parts", 2)
    merge_parts(tmp_path / "store", parts)
    (tmp_path / "store" / "data-00001.arrow").unlink()
    merge_parts(tmp_path / "store", parts)
    assert contents(tmp_path / "store") == whole


def test_a_merged_store_is_repaired_from_the_documents_too(corpus, whole, tmp_path):
    merge_parts(tmp_path / "store", make_parts(corpus, tmp_path / "parts", 2))
    (tmp_path / "store" / "data-00001.arrow").unlink()
    prepare_dataset(corpus, output_dir=tmp_path / "store", **OPTIONS)
    assert contents(tmp_path / "store") == whole


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ([0], "of 3 parts 2 are missing: 1, 2"),
        ([0, 1], "of 3 parts 1 are missing: 2"),
        ([0, 1, 2, 1], "both part 1/3: give each part once"),
        ([], "no part is given"),
    ],
)
def test_parts_that_are_missing_or_given_twice_are_named(corpus, tmp_path, given, fault):
    parts = make_parts(corpus, tmp_path / "parts", 3)
    twin = tmp_path / "twin"
    shutil.copytree(parts[1], twin)
    chosen = [twin if given.index(n) != place else parts[n] for place, n in enumerate(given)]
    with pytest.raises(StoreError, match=fault):
        merge_parts(tmp_path / "store", chosen)
    assert not (tmp_path / "store").exists()


def test_parts_of_other_settings_or_counts_are_named(corpus, tmp_path):
    parts = make_parts(corpus, tmp_path / "parts", 2)
    prepare_part(corpus, part="1/2", output_dir=tmp_path / "other", **{**OPTIONS, "target_length": 32})
    with pytest.raises(StoreError, match="another target_length: 32 there, 64 now"):
        merge_parts(tmp_path / "store", [parts[0], tmp_path / "other"])
    prepare_part(corpus, part="1/3", output_dir=tmp_path / "third", **OPTIONS)
    with pytest.raises(StoreError, match=r"is one of 3 parts, but .* is one of 2"):
        merge_parts(tmp_path / "store", [parts[0], tmp_path / "third"])


@pytest.mark.parametrize("file", ["tokens-00000.bin", "tokens-00000.parquet"])
@pytest.mark.parametrize("damage", ["flip", "delete"])
def test_a_damaged_part_is_named_and_made_again(corpus, whole, tmp_path, file, damage):
    parts = make_parts(corpus, tmp_path / "parts", 2)
    path = parts[1] / "cache" / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink() if damage == "delete" else path.write_bytes(data)
    with pytest.raises(StoreError, match=r"tokens-00000 is missing or damaged.*of part 1/2 again"):
        merge_parts(tmp_path / "store", parts)
    make_parts(corpus, tmp_path / "parts", 2)
    merge_parts(tmp_path / "store", parts)
    assert contents(tmp_path / "store") == whole


class StopError(Exception):
    pass


def test_an_unfinished_part_is_named_and_goes_on(corpus, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(token_cache, "FILE_TOKENS", 500)
    monkeypatch.setattr(filling, "BATCH_CHARACTERS", 200)
    parts = make_parts(corpus, tmp_path / "parts", 2)
    shutil.rmtree(parts[0])
    append = token_cache.TokenCache.append

    def stopping(self, *arguments):
        if len(self.files) == 2:
            raise StopError
        append(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(token_cache.TokenCache, "append", stopping)
        with pytest.raises(StopError):
            prepare_part(corpus, part="0/2", output_dir=parts[0], **OPTIONS)
    with pytest.raises(StoreError, match="is no finished part: it is unfinished"):
        merge_parts(tmp_path / "store", parts)
    first = parts[0] / "cache" / "tokens-00000.bin"
    before = first.stat().st_mtime_ns
    prepare_part(corpus, part="0/2", output_dir=parts[0], **OPTIONS)
    assert first.stat().st_mtime_ns == before
    merge_parts(tmp_path / "store", parts)
    assert contents(tmp_path / "store") == whole


def test_a_part_and_a_store_do_not_share_a_folder(corpus, tmp_path):
    prepare_part(corpus, part="0/2", output_dir=tmp_path / "part", **OPTIONS)
    with pytest.raises(StoreError, match="holds a part of a store already"):
        prepare_dataset(corpus, output_dir=tmp_path / "part", **OPTIONS)
    with pytest.raises(StoreError, match="is a part of a store: join all parts"):
        load_packed(tmp_path / "part")
    with pytest.raises(StoreError, match="is for part 0/2, not for part 1/2"):
        prepare_part(corpus, part="1/2", output_dir=tmp_path / "part", **OPTIONS)
    prepare_dataset(corpus, output_dir=tmp_path / "store", **OPTIONS)
    with pytest.raises(StoreError, match="holds a whole store already"):
        prepare_part(corpus, part="1/2", output_dir=tmp_path / "store", **OPTIONS)
    with pytest.raises(StoreError, match=r"is no finished part: it has no part\.json"):
        merge_parts(tmp_path / "new", [tmp_path / "store"])


def test_the_share_of_bad_records_is_looked_at_over_all_parts(corpus, tmp_path):
    parts = make_parts(corpus, tmp_path / "parts", 2, max_bad_share=0.01)
    with pytest.raises(DocumentError, match=r"3\.1%, more than 1\.0%"):
        merge_parts(tmp_path / "store", parts)


@pytest.mark.parametrize("text", ["1", "2/2", "-1/2", "a/b", "1/0", "/", "1/2/3"])
def test_refuses_what_is_no_part(text):
    with pytest.raises(InputError, match="is no part: write i/n, such as 0/8"):
        parse_part(text)


def test_the_command_makes_and_joins_parts(corpus, tmp_path, capsys):
    TOKENIZER.save_pretrained(tmp_path / "tokenizer")
    source = corpus[1]["path"]
    plain = ["prepare", source, "--tokenizer", str(tmp_path / "tokenizer"), "--target-length", "64"]
    assert main([*plain, "--output", str(tmp_path / "whole")]) == 0
    for index in range(2):
        capsys.readouterr()
        assert main([*plain, "--shard", f"{index}/2", "--output", str(tmp_path / f"part{index}")]) == 0
        assert f"part {index}/2: 20 documents" in capsys.readouterr().out
    parts = [str(tmp_path / "part0"), str(tmp_path / "part1")]
    assert main(["prepare", "--merge", str(tmp_path / "store"), *parts]) == 0
    assert "40 read, 40 used" in capsys.readouterr().out
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")
    assert main(["prepare", "--merge", str(tmp_path / "new"), parts[0]]) == 2
    assert "error: of 2 parts 1 are missing: 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--merge", "out"], "--merge OUT PART..."),
        (["--merge", "out", "part", "--seed", "1"], "--seed would have no effect"),
        (["--recipe", "lab", "--shard", "0/2"], "--shard needs --output"),
        (["in", "--tokenizer", "t", "--target-length", "8", "--output", "o", "--shard", "2/2"], "no part"),
    ],
)
def test_the_command_refuses_what_makes_no_sense(tmp_path, monkeypatch, capsys, arguments, fault):
    monkeypatch.chdir(tmp_path)
    assert main(["prepare", *arguments]) == 2
    assert fault in capsys.readouterr().err
