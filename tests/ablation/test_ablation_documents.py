"""The lab's documents for ablations: rows hold the same documents in every arm."""

from collections import Counter

import pytest

from ultralong_hf.ablation.documents import pool_documents, row_documents
from ultralong_hf.data.packing import prepare_dataset
from ultralong_hf.lab.base import base_model_path
from ultralong_hf.lab.corpus import shipped_tokenizer

ROWS, LENGTH = 6, 1024


@pytest.fixture(scope="module")
def documents():
    return list(row_documents(shipped_tokenizer(), LENGTH, ROWS, seed=3))


@pytest.fixture(scope="module")
def packed(documents, tmp_path_factory):
    """Separator -> the rows' token ids."""
    found = {}
    for kind in ("none", "bos", "text"):
        separator = {"kind": kind, "value": "<s>"} if kind == "text" else {"kind": kind}
        rows = prepare_dataset(
            iter(documents),
            tokenizer=base_model_path(),
            target_length=LENGTH,
            output_dir=tmp_path_factory.mktemp("store") / kind,
            separator=separator,
            keep_tail=False,
            workers=1,
        )
        found[kind] = [row.tolist() for row in rows.with_format("numpy")["input_ids"]]
    return found


def test_every_separator_fills_the_same_number_of_rows(packed):
    assert {kind: len(rows) for kind, rows in packed.items()} == {"none": ROWS, "bos": ROWS, "text": ROWS}


def test_every_row_begins_with_its_own_first_document_in_every_arm(packed):
    starts = {kind: [row[:40] for row in rows] for kind, rows in packed.items()}
    assert starts["none"] == starts["bos"] == starts["text"]
    assert len(set(map(tuple, starts["none"]))) == ROWS


def test_rows_of_two_arms_differ_by_separators_and_by_what_the_end_cuts_off_alone(packed):
    for without, bos in zip(packed["none"], packed["bos"], strict=True):
        kept = [token for token in bos if token != 0]
        assert 0 < len(bos) - len(kept) < 16  # separators
        assert kept == without[: len(kept)]


def test_rows_hold_several_documents_and_facts(documents):
    assert 2 * ROWS <= len(documents) <= 8 * ROWS
    assert sum("What is the" in text for text in documents) > ROWS / 2


def test_a_row_does_not_depend_on_how_many_are_made(documents):
    fewer = list(row_documents(shipped_tokenizer(), LENGTH, ROWS - 2, seed=3))
    assert documents[: len(fewer)] == fewer
    assert list(row_documents(shipped_tokenizer(), LENGTH, 2, seed=4)) != fewer[:2]


def test_the_pool_holds_short_and_long_documents():
    lengths = [len(text) // 3 for text in pool_documents(60_000, seed=0)]
    bins = Counter("short" if n < 128 else "middle" if n < 1024 else "long" for n in lengths)
    assert min(bins.values()) >= 3
    assert len(bins) == 3


def test_sparse_rows_hold_fewer_facts():
    options = {"target_length": 8192, "rows": 2, "seed": 0}
    dense = "".join(row_documents(shipped_tokenizer(), **options))
    sparse = "".join(row_documents(shipped_tokenizer(), characters_a_fact=2000, **options))
    assert dense.count("What is the ") > 4 * sparse.count("What is the ") > 0
