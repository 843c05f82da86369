import gzip
import json

import pyarrow as pa
import pyarrow.parquet
import pytest
from datasets import Dataset
from word_tokenizers import pair, write_lines

from ultralong_hf.data.instructions.records import open_source, read_rows
from ultralong_hf.errors import ConversationError
from ultralong_hf.recipes.schema import ConversationSource, Source

ROWS = [{"messages": pair(f"hi {n}", "ok")} for n in range(3)]


def read(path, data_dir=None, **entry):
    """Places and values, and the faults."""
    faults = []
    source = open_source(ConversationSource(path=str(path), **entry), data_dir and str(data_dir))
    return [(record.place, record.value) for record in source.read(faults.append)], faults


def test_all_kinds_of_files_give_the_same_records_in_order(tmp_path):
    write_lines(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "b.json").write_text(json.dumps(ROWS))
    pa.parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "c.parquet")
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    (tmp_path / "README.md").write_text("no conversations")
    records, faults = read(tmp_path)
    assert not faults
    assert records == [
        (f"{name}, row {n + 1}", row)
        for name in ("a.jsonl", "b.json", "c.parquet", "d.jsonl.gz")
        for n, row in enumerate(ROWS)
    ]


def test_a_dataset_saved_to_disk_is_read(tmp_path):
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    records, _ = read(tmp_path / "saved")
    assert [value for _, value in records] == ROWS


def test_bad_lines_are_faults_and_the_others_are_read(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n{no\n\n"text"\n\xff\xfe\n{"a": NaN}\n')
    records, faults = read(path)
    assert [place for place, _ in records] == ["a.jsonl, row 1", "a.jsonl, row 4", "a.jsonl, row 6"]
    assert [(fault.place, fault.word) for fault in faults] == [
        ("a.jsonl, row 2", "not JSON"),
        ("a.jsonl, row 5", "not UTF-8"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("a.json", b'[{"a": 1}, {"a": ', "ends early"),
        ("a.parquet", b"no parquet", "damaged"),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 3, mtime=0)[:-9], "ends early"),
    ],
)
def test_a_damaged_file_is_one_fault_after_what_can_be_read(tmp_path, name, content, word):
    (tmp_path / name).write_bytes(content)
    _, faults = read(tmp_path / name)
    assert [fault.word for fault in faults] == [word]
    assert "the file can be read up to row" in faults[0].detail


def test_copies_of_hub_datasets_are_found_under_three_names(tmp_path):
    for number, name in enumerate(["owner/one/data.jsonl", "owner--two.jsonl", "three.json"]):
        (write_lines if name.endswith("l") else lambda path, rows: path.write_text(json.dumps(rows)))(
            tmp_path / name, ROWS[number : number + 1]
        )
    for number, name in enumerate(["one", "two", "three"]):
        records, _ = read(f"owner/{name}", tmp_path)
        assert [value for _, value in records] == ROWS[number : number + 1]


def test_a_split_of_a_copy_is_the_files_named_after_it(tmp_path):
    write_lines(tmp_path / "owner/set/data/math_sft.jsonl", ROWS[:1])
    write_lines(tmp_path / "owner/set/data/general_sft_stage2.jsonl", ROWS[1:])
    records, _ = read("owner/set", tmp_path, split="general_sft_stage2")
    assert [value for _, value in records] == ROWS[1:]
    with pytest.raises(ConversationError, match="no file is named after the split 'code'"):
        read("owner/set", tmp_path, split="code")


def test_named_files_of_a_hub_dataset_are_downloaded_at_its_revision_and_read_here(tmp_path, monkeypatch):
    asked = []

    def snapshot_download(repo, **options):
        asked.append((repo, options))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    (tmp_path / "chats.json").write_text(json.dumps(ROWS))
    records, _ = read("owner/set", data_files="chats.json", revision="abc")
    assert [value for _, value in records] == ROWS
    assert asked == [
        ("owner/set", {"repo_type": "dataset", "revision": "abc", "allow_patterns": ["chats.json"]})
    ]


def test_without_the_network_it_says_how_to_give_a_copy():
    with pytest.raises(
        ConversationError, match=r"owner/set cannot be loaded: .*instruct.data_dir \(--data\)"
    ):
        read("owner/set")


@pytest.mark.parametrize("path", ["no/such/file.jsonl", "nothing", "folder/chat.jsonl"])
def test_a_path_that_is_nowhere_is_named(path):
    with pytest.raises(ConversationError, match=f"{path} is no file, folder or glob here"):
        open_source(Source(path=path))


def test_a_file_of_another_kind_is_named(tmp_path):
    (tmp_path / "chat.csv").write_text("a,b")
    with pytest.raises(ConversationError, match=r"chat.csv: conversations are read from JSON lines"):
        open_source(Source(path=str(tmp_path / "chat.csv")))


def test_rows_for_other_stages_come_with_their_places_and_stop_at_the_first_fault(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n{no\n')
    rows = read_rows([Source(path=str(path))])
    assert next(rows) == ("a.jsonl, row 1", {"a": 1})
    with pytest.raises(ConversationError, match=r"a.jsonl, row 2: not JSON"):
        next(rows)


def test_the_fingerprint_hangs_on_the_content_and_not_on_the_folder(tmp_path):
    for name in ("one", "two"):
        write_lines(tmp_path / name / "a.jsonl", ROWS)
    one, two = (open_source(Source(path=str(tmp_path / name))).fingerprint for name in ("one", "two"))
    write_lines(tmp_path / "two/a.jsonl", ROWS[:2])
    assert one == two != open_source(Source(path=str(tmp_path / "two"))).fingerprint
