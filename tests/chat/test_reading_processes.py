"""Limits of the readers' processes, with readers that misbehave."""

import os
import time

import pytest

from ultralong_hf.chat.documents import Limits, process, read_document, read_documents
from ultralong_hf.errors import UploadError

MISBEHAVING = """
import json, os, sys, time
request = json.load(open(sys.argv[1]))
for name, path in request["files"]:
    if "hang" in name:
        time.sleep(60)
    if "crash" in name:
        os._exit(139)
    if "liar" in name:
        sys.stdout.write("no answer\\n")
        sys.exit()
    if "env" in name:
        text = repr(sorted(os.environ)).encode()
    else:
        text = b"text of " + name.encode()
    header = {"kind": "text", "marks": [], "warnings": [], "pages": None, "bytes": len(text)}
    sys.stdout.buffer.write(json.dumps(header).encode() + b"\\n" + text)
    sys.stdout.buffer.flush()
"""


@pytest.fixture
def misbehaving(monkeypatch, tmp_path):
    """Readers that do what the file's name says."""
    script = tmp_path / "worker.py"
    script.write_text(MISBEHAVING)
    start = process.subprocess.Popen

    def popen(command, **options):
        return start([command[0], str(script), command[-1]], **options)

    monkeypatch.setattr(process.subprocess, "Popen", popen)


def _read(names, tmp_path, **limits):
    files = [(name, "/nowhere") for name in names]
    return list(process.read_files(files, tmp_path, Limits(**limits)))


def test_a_reader_that_hangs_is_ended_and_the_next_file_is_read(misbehaving, tmp_path):
    began = time.monotonic()
    hung, fine = _read(["hang", "fine"], tmp_path, seconds=1.0)
    assert "more than 1 s" in hung.refusal
    assert fine.text == "text of fine"
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("fault", ["crash", "liar"])
def test_a_reader_that_breaks_down_costs_its_own_file_alone(misbehaving, tmp_path, fault):
    first, broken, last = _read(["first", fault, "last"], tmp_path)
    assert (first.text, last.text) == ("text of first", "text of last")
    assert "broke down" in broken.refusal


def test_a_reader_sees_no_variables_of_ours(misbehaving, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    (answer,) = _read(["env"], tmp_path)
    assert "OPENAI_API_KEY" not in answer.text
    assert "PATH" in answer.text


def test_no_process_and_no_file_is_left(misbehaving, tmp_path):
    before = set(os.listdir(tmp_path))
    _read(["fine", "crash", "fine"], tmp_path)
    assert set(os.listdir(tmp_path)) == before


def test_reading_is_stopped_on_request(misbehaving, tmp_path):
    files = [("hang", "/nowhere")]
    began = time.monotonic()
    with pytest.raises(UploadError, match="stopped"):
        list(process.read_files(files, tmp_path, Limits(), stopped=lambda: time.monotonic() - began > 0.3))


def test_memory_of_a_reader_is_bounded(tmp_path):
    (tmp_path / "large.txt").write_bytes(b"some words and more\n" * 1_500_000)
    with pytest.raises(UploadError, match=r"MiB of memory|broke down"):
        read_document(tmp_path / "large.txt", Limits(memory_bytes=90 * 1024**2))


def test_sizes_and_counts_are_bounded(tmp_path):
    paths = []
    for number in range(3):
        path = tmp_path / f"{number}.txt"
        path.write_text("words " * 2000)
        paths.append(path)
    with pytest.raises(UploadError, match="3 files were given at once; the limit is 2"):
        read_documents(paths, Limits(uploads=2))
    with pytest.raises(UploadError, match="together; the limit is 0"):
        read_documents(paths, Limits(total_bytes=20_000))
    with pytest.raises(UploadError, match="the limit is 0"):
        read_document(paths[0], Limits(file_bytes=5_000))


def test_one_bad_file_does_not_stop_the_others(tmp_path):
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "bad.pdf").write_bytes(b"%PDF-1.7 nothing")
    readings = read_documents([tmp_path / "bad.pdf", tmp_path / "good.txt", tmp_path / "gone.txt"])
    assert [document.name for document in readings.documents] == ["good.txt"]
    assert [refusal.name for refusal in readings.refusals] == ["bad.pdf", "gone.txt"]
    assert "cannot be opened" in readings.refusals[1].reason
    assert str(tmp_path) not in str(readings.refusals)


def test_two_files_of_one_name_are_told_apart(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "notes.md").write_text(f"notes {folder}")
    readings = read_documents([tmp_path / "a" / "notes.md", tmp_path / "b" / "notes.md"])
    assert [document.name for document in readings.documents] == ["notes.md", "notes (2).md"]
