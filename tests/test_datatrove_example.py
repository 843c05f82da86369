from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from ultralong_hf import prepare_dataset

pytest.importorskip("datatrove")

ROOT = Path(__file__).parent.parent
TOKENIZER = ROOT / "ultralong_hf/lab/base"


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def test_a_store_made_by_datatrove_equals_one_made_at_once_and_is_not_made_twice(tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for file in range(4):
        texts = [f"File {file} holds document {row}. " * (3 + row) for row in range(20)]
        lines = [json.dumps({"text": text}) for text in texts]
        (corpus / f"{file}.jsonl").write_text("\n".join(lines))
    options = ["--tokenizer", str(TOKENIZER), "--target-length", "512", "--output", str(tmp_path / "store")]
    command = [sys.executable, str(ROOT / "examples/datatrove_prepare.py"), str(corpus), *options]
    command += ["--tasks", "3", "--workers", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = prepare_dataset(
        str(corpus), tokenizer=str(TOKENIZER), target_length=512, output_dir=tmp_path / "at-once"
    )
    assert len(rows) > 10
    made = digests(tmp_path / "store")
    assert made == digests(tmp_path / "at-once")
    again = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0
    assert "all 1 tasks have already been completed" in again.stderr
    assert digests(tmp_path / "store") == made
