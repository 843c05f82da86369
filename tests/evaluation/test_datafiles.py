"""Data files: a folder first, then the hub; a missing one is named with every place looked at."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.datafiles import DataFile, HubSource, find_data, read_json, read_rows, read_text

SOURCE = HubSource("owner/Bench", folders=("bench",))
LOCAL = ("task.jsonl", "task.zip::task.jsonl")
ROWS = [{"id": 0, "text": "erste"}, {"id": 1, "text": "第二"}, {"id": 2, "text": "third"}]


def write_lines(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n\n", encoding="utf-8")
    return path


def write_zip(path: Path, members: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return path


def local(path: Path, member: str | None = None) -> DataFile:
    return DataFile(path, member, "local")


def test_finds_a_file_in_the_folder(tmp_path):
    path = write_lines(tmp_path / "task.jsonl")
    file = find_data(SOURCE, local=LOCAL, hub="task.jsonl", data_dir=tmp_path)
    assert (file.path, file.member, file.origin) == (path, None, "local")


def test_finds_a_file_in_the_named_sub_folder(tmp_path):
    path = write_lines(tmp_path / "bench" / "task.jsonl")
    assert find_data(SOURCE, local=LOCAL, hub="task.jsonl", data_dir=tmp_path).path == path


def test_finds_a_member_of_a_zip_file_by_its_last_part(tmp_path):
    write_zip(tmp_path / "task.zip", {"deep/task.jsonl": '{"a": 1}\n', "__MACOSX/task.jsonl": "junk"})
    file = find_data(SOURCE, local=LOCAL, data_dir=tmp_path)
    assert (file.member, file.name) == ("deep/task.jsonl", "task.zip::deep/task.jsonl")
    assert list(read_rows(file)) == [{"a": 1}]


def test_a_missing_file_is_named_with_every_place_and_the_way_to_get_it(tmp_path):
    with pytest.raises(EvaluationError) as caught:
        find_data(SOURCE, local=LOCAL, hub="task.zip::task.jsonl", data_dir=tmp_path)
    message = str(caught.value)
    assert message.startswith("The data file task.zip is missing: HF_HUB_OFFLINE is set. Looked at ")
    assert f"{tmp_path}, {tmp_path / 'bench'} (for task.jsonl or task.zip::task.jsonl)" in message
    assert "https://huggingface.co/datasets/owner/Bench (task.zip at main)" in message
    assert "`hf download owner/Bench task.zip --repo-type dataset --local-dir DIR`" in message


def test_a_file_that_no_hub_has_is_missing_too(tmp_path):
    with pytest.raises(EvaluationError, match=r"task.jsonl is missing: it is on no hub repository"):
        find_data(SOURCE, local=LOCAL, data_dir=tmp_path)


def test_refuses_a_data_folder_that_is_not_there(tmp_path):
    with pytest.raises(EvaluationError, match="is no folder: --data is a folder"):
        find_data(SOURCE, local=LOCAL, data_dir=tmp_path / "nowhere")


def test_takes_the_hub_cache_with_its_commit(tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = write_lines(tmp_path / "datasets--owner--Bench" / "snapshots" / commit / "task.jsonl")
    asked = []

    def download(repo, filename, **options):
        asked.append((repo, filename, options))
        return str(cached)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    source = HubSource("owner/Bench", revision=commit)
    file = find_data(source, local=LOCAL, hub="task.jsonl")
    assert (file.path, file.origin) == (cached, f"hub: owner/Bench@{commit}")
    assert asked == [("owner/Bench", "task.jsonl", {"repo_type": "dataset", "revision": commit})]


def test_a_hub_error_becomes_one_line(monkeypatch):
    def download(*args, **options):
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(EvaluationError, match=r"task.jsonl is missing: first second Looked at"):
        find_data(SOURCE, local=LOCAL, hub="task.jsonl")


def test_refuses_scripts_and_pickles(tmp_path):
    (tmp_path / "task.pkl").write_bytes(b"")
    with pytest.raises(EvaluationError, match="only data files are read"):
        find_data(SOURCE, local=("task.pkl",), data_dir=tmp_path)


def test_lines_are_read_by_row_and_blank_ones_passed_over(tmp_path):
    rows = read_rows(local(write_lines(tmp_path / "task.jsonl")))
    assert len(rows) == 3
    assert rows[1] == ROWS[1]
    assert list(rows) == ROWS


def test_a_damaged_line_is_named(tmp_path):
    path = write_lines(tmp_path / "task.jsonl")
    path.write_text('{"id": 0}\n\n{"id": \n', encoding="utf-8")
    rows = read_rows(local(path))
    with pytest.raises(EvaluationError, match=r"task.jsonl, line 3, is no JSON record"):
        rows[1]


def test_parquet_rows_equal_the_lines(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "task.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=2)
    rows = read_rows(local(path))
    assert [rows[2], rows[0], rows[1]] == [ROWS[2], ROWS[0], ROWS[1]]
    with pytest.raises(IndexError):
        rows[3]


def test_what_is_no_parquet_is_said(tmp_path):
    (tmp_path / "task.parquet").write_text("no")
    with pytest.raises(EvaluationError, match=r"task.parquet is no Parquet file"):
        read_rows(local(tmp_path / "task.parquet"))


@pytest.mark.parametrize("content", [ROWS, {"data": ROWS}], ids=["list", "under data"])
def test_json_rows_equal_the_lines(tmp_path, content):
    path = tmp_path / "task.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    assert list(read_rows(local(path))) == ROWS
    assert read_json(local(path)) == content


def test_json_without_records_is_refused(tmp_path):
    path = tmp_path / "task.json"
    path.write_text('{"rows": []}', encoding="utf-8")
    with pytest.raises(EvaluationError, match="neither a list of records nor one under 'data'"):
        read_rows(local(path))


def test_a_record_tells_which_fields_it_lacks(tmp_path):
    rows = read_rows(local(write_lines(tmp_path / "task.jsonl")))
    assert rows.record(0, ["id"]) == ROWS[0]
    with pytest.raises(EvaluationError, match=r"task.jsonl, row 0, has no answer, input; it has id, text"):
        rows.record(0, ["answer", "input"])


def test_text_is_utf8(tmp_path):
    path = tmp_path / "task.txt"
    path.write_bytes("第".encode())
    assert read_text(local(path)) == "第"
    path.write_bytes(b"\xff")
    with pytest.raises(EvaluationError, match="is no UTF-8 text"):
        read_text(local(path))


def test_an_unpacked_member_is_kept_in_the_cache_and_made_again_for_another_archive(tmp_path):
    archive = write_zip(tmp_path / "task.zip", {"task.jsonl": '{"a": 1}\n'})
    cache = tmp_path / "cache"
    rows = read_rows(local(archive, "task.jsonl"), cache)
    assert list(rows) == [{"a": 1}]
    [kept] = cache.iterdir()
    stamp = kept.stat().st_mtime_ns
    read_rows(local(archive, "task.jsonl"), cache)
    assert kept.stat().st_mtime_ns == stamp
    write_zip(archive, {"task.jsonl": '{"a": 2}\n{"a": 3}\n'})
    assert list(read_rows(local(archive, "task.jsonl"), cache)) == [{"a": 2}, {"a": 3}]


def test_a_member_with_a_path_upwards_stays_in_the_cache(tmp_path):
    archive = write_zip(tmp_path / "task.zip", {"../../task.jsonl": '{"a": 1}\n'})
    cache = tmp_path / "deep" / "cache"
    file = find_data(SOURCE, local=LOCAL, data_dir=tmp_path)
    assert list(read_rows(file, cache)) == [{"a": 1}]
    assert [path.parent for path in tmp_path.rglob("*task.jsonl")] == [cache]
    assert archive.exists()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"other.jsonl": ""}, "holds no task.jsonl; it holds other.jsonl"),
        ({"a/task.jsonl": "", "b/task.jsonl": ""}, "holds 2 files called task.jsonl"),
    ],
)
def test_a_zip_file_has_the_member_once(tmp_path, members, message):
    write_zip(tmp_path / "task.zip", members)
    with pytest.raises(EvaluationError, match=message):
        find_data(SOURCE, local=LOCAL, data_dir=tmp_path)


def test_a_member_that_is_a_link_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "task.zip", "w") as archive:
        info = zipfile.ZipInfo("task.jsonl")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(EvaluationError, match="is a link, not a file"):
        find_data(SOURCE, local=LOCAL, data_dir=tmp_path)


def test_a_damaged_member_leaves_nothing_behind(tmp_path):
    archive = write_zip(tmp_path / "task.zip", {"task.jsonl": '{"text": "' + "abcdefgh" * 4096 + '"}\n'})
    damaged = bytearray(archive.read_bytes())
    damaged[60] ^= 0xFF
    archive.write_bytes(damaged)
    cache = tmp_path / "cache"
    with pytest.raises(EvaluationError, match=r"task.jsonl is damaged"):
        read_rows(local(archive, "task.jsonl"), cache)
    assert list(cache.iterdir()) == []


def test_what_is_no_zip_file_is_said(tmp_path):
    (tmp_path / "task.zip").write_text("no")
    with pytest.raises(EvaluationError, match=r"task.zip is no readable zip file"):
        find_data(SOURCE, local=("task.zip::task.jsonl",), data_dir=tmp_path)


def test_the_fingerprint_tells_members_and_files_apart(tmp_path):
    archive = write_zip(tmp_path / "task.zip", {"a.jsonl": "", "b.jsonl": ""})
    other = write_zip(tmp_path / "other.zip", {"a.jsonl": "x"})
    found = [local(archive, "a.jsonl"), local(archive, "b.jsonl"), local(other, "a.jsonl")]
    assert len({file.fingerprint for file in found}) == 3
