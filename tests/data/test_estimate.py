import json

import numpy as np
import pytest
from tiny_tokenizers import byte_tokenizer

from ultralong_hf import prepare_dataset
from ultralong_hf.cli import main
from ultralong_hf.data.reading.row_counts import estimate_rows
from ultralong_hf.data.showing.estimate import draw_corpus, estimate_store
from ultralong_hf.data.store import read_manifest
from ultralong_hf.data.storing.job import open_job
from ultralong_hf.errors import DocumentError


def job(sources, **options):
    return open_job(sources, tokenizer=byte_tokenizer(), target_length=64, **options)


def write_lines(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def texts_of(rng, count):
    return ["x" * int(n) for n in rng.integers(1, 200, size=count)]


@pytest.fixture
def corpus(tmp_path):
    """Six files of 100 documents, of 10,000 characters each on average."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(6):
        write_lines(folder / f"{number}.jsonl", texts_of(rng, 100))
    return folder


def test_a_corpus_that_fits_into_the_sample_is_told_exactly(corpus, tmp_path):
    told = estimate_store(job(corpus), tmp_path)
    prepare_dataset(corpus, tokenizer=byte_tokenizer(), target_length=64, output_dir=tmp_path / "out")
    manifest = read_manifest(tmp_path / "out")
    assert not told["is_estimate"]
    for key in ("documents", "tokens", "rows", "composition"):
        assert told[key] == manifest[key], key
    assert told["bytes"] == manifest["rows"] * 64 * 2
    assert told["disk_needed_bytes"] == told["bytes"]
    shuffled = estimate_store(job(corpus, order="shuffled"), tmp_path)
    assert shuffled["disk_needed_bytes"] == told["bytes"] + 2 * manifest["tokens"]["of_documents"]


def test_a_tenth_of_a_corpus_tells_its_size(corpus, tmp_path):
    true = estimate_store(job(corpus), tmp_path)
    told = estimate_store(job(corpus), tmp_path, sample_characters=6_000)
    assert told["is_estimate"]
    assert told["sources"][0]["sampled"]["documents"] < 90
    assert told["documents"]["read"] == pytest.approx(600, rel=0.2)
    assert told["tokens"]["of_documents"] == pytest.approx(true["tokens"]["of_documents"], rel=0.2)
    assert told["rows"] == pytest.approx(true["rows"], rel=0.2)


def test_the_account_of_an_estimate_closes(corpus, tmp_path):
    tokens = estimate_store(job(corpus), tmp_path, sample_characters=6_000)["tokens"]
    assert tokens["read"] == tokens["packed"] + tokens["separators"] + tokens["dropped"]


def test_a_budget_binds_in_an_estimate(corpus, tmp_path):
    told = estimate_store(job(corpus, token_budget=10_000), tmp_path, sample_characters=6_000)
    assert told["tokens"]["packed"] == pytest.approx(10_000, rel=0.02)


def test_bad_and_empty_records_are_counted_in_the_sample(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", ["a" * 50, "", None, "b" * 50])
    facts = estimate_store(job(path), tmp_path)
    told = facts["sources"][0]
    assert (told["documents"], told["empty"], told["bad"]) == (2, 1, {"null": 1})
    assert "25.0% of the records sampled are bad" in facts["notices"][0]


def test_a_corpus_too_large_to_plan_with_is_planned_as_a_part(corpus, tmp_path, monkeypatch):
    whole = estimate_store(job(corpus), tmp_path)
    monkeypatch.setattr("ultralong_hf.data.showing.estimate._MOST_DOCUMENTS", 300)
    part = estimate_store(job(corpus), tmp_path)
    assert part["documents"]["read"] == 600
    assert part["rows"] == pytest.approx(whole["rows"], rel=0.2)


def test_many_small_files_are_looked_into(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(300):
        (folder / f"{number}.txt").write_text("x" * (1 + number % 100))
    told = estimate_store(job(folder), tmp_path, sample_characters=5_000)["sources"][0]
    assert 80 <= told["sampled"]["documents"] <= 120
    assert told["documents"] == 300
    assert told["tokens"] == pytest.approx(300 * 50.5, rel=0.2)


def test_each_source_is_drawn_from_its_own_sample(corpus, tmp_path):
    other = write_lines(tmp_path / "long.jsonl", ["y" * 1000] * 30)
    told = estimate_store(job([corpus, other]), tmp_path, sample_characters=3_000)
    assert [source["label"] for source in told["sources"]] == ["in", "long.jsonl"]
    assert told["sources"][1]["documents"] == pytest.approx(30, rel=0.05)
    assert told["sources"][1]["tokens"] == pytest.approx(30_000, rel=0.05)


def test_a_corpus_drawn_from_whole_samples_is_itself():
    from ultralong_hf.data.reading.bad_records import SourceCounts
    from ultralong_hf.data.showing.estimate import SourceSample

    lengths = np.array([3, 1, 2])
    sample = SourceSample(lengths, lengths, None, SourceCounts("a"), 3.0, is_whole=True)
    assert draw_corpus([sample], ["a"], [None]).length.tolist() == [3, 1, 2]
    partly = SourceSample(lengths, lengths, None, SourceCounts("a"), 3000.0, is_whole=False)
    drawn = draw_corpus([partly], ["a"], [None]).length
    assert len(drawn) == 3000
    assert np.unique(drawn, return_counts=True)[1] == pytest.approx([1000] * 3, rel=0.1)


def test_an_iterator_cannot_be_tried(tmp_path):
    with pytest.raises(DocumentError, match="gives its documents once"):
        estimate_store(job(iter(["a", "b"])), tmp_path)


def test_rows_are_told_by_the_head_of_a_file(tmp_path):
    import gzip

    lines = [json.dumps({"text": "x" * (n * 37 % 700)}) for n in range(5000)]
    plain = tmp_path / "a.jsonl"
    plain.write_text("\n".join(lines) + "\n")
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert estimate_rows(str(plain), "jsonl") == pytest.approx(5000, rel=0.1)
    assert estimate_rows(str(packed), "jsonl") == 5000
    assert estimate_rows(str(plain), "text") == 1


def test_dry_run_tells_what_would_be_made_and_writes_nothing(corpus, tmp_path, capsys):
    byte_tokenizer().save_pretrained(tmp_path / "tokenizer")
    command = ["prepare", str(corpus), "--tokenizer", str(tmp_path / "tokenizer"), "--dry-run"]
    command += ["--target-length", "64", "--output", str(tmp_path / "out")]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "nothing was written" in out
    assert "in: 600 documents" in out
    assert not (tmp_path / "out").exists()
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["documents"]["read"] == 600
