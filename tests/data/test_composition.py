from __future__ import annotations

import json

import numpy as np
from plan_tables import table, uses_of

from ultralong_hf.data.planning.composition import LENGTH_EDGES, composition
from ultralong_hf.data.planning.layout import lay_out_rows


def test_tells_tokens_by_source_and_length_before_and_after():
    documents = table([100, 5000, 0, 9000], source=[0, 0, 1, 1], labels=["web", "books"])
    uses = uses_of([1, 3, 3], documents.length)
    layout = lay_out_rows(uses, target_length=10_000, separator_length=10)
    told = composition(documents, uses, layout)
    assert json.loads(json.dumps(told)) == told
    assert told["edges"][:5] == [0, 1024, 2048, 4096, 8192]
    assert told["edges"][-1] == 4 * 1024**2
    web, books = told["sources"]
    assert web["label"] == "web"
    assert web["before"]["documents"][:5] == [1, 0, 0, 1, 0]
    assert web["before"]["tokens"][:5] == [100, 0, 0, 5000, 0]
    assert web["after"]["tokens"][:5] == [0, 0, 0, 5000, 0]
    assert books["before"]["documents"][:5] == [1, 0, 0, 0, 1]
    assert books["after"]["documents"][:5] == [0, 0, 0, 0, 2]
    assert sum(books["after"]["tokens"]) == 18_000
    assert all(len(books[when]["tokens"]) == len(LENGTH_EDGES) for when in ("before", "after"))
    # rows of 10,000: 5,000 | 4,990 | 10 goes on: 4,010 | 5,980
    assert told["documents_per_row"] == {"min": 2, "median": 2.0, "max": 2}
    assert told["separators_per_row"] == {"min": 1, "median": 1.0, "max": 1}
    assert told["repeats"] == {
        "documents": 1,
        "uses": 1,
        "tokens": 9000,
        "share_of_tokens": 9000 / 23_000,
        "most_uses_of_a_document": 2,
        "within_rows": 1,
    }


def test_pieces_are_counted_by_the_length_of_their_document():
    documents = table([5000])
    uses = uses_of([0, 0], [4096, 904], starts=[0, 4096])
    told = composition(documents, uses, lay_out_rows(uses, target_length=1000, separator_length=0))
    assert told["sources"][0]["after"]["documents"][:4] == [0, 0, 0, 2]
    assert told["sources"][0]["after"]["tokens"][:4] == [0, 0, 0, 5000]
    assert told["repeats"]["uses"] == 0


def test_a_store_without_rows_or_documents_is_told_as_such():
    documents = table([], labels=["web"])
    uses = uses_of([], np.array([], dtype=int))
    told = composition(documents, uses, lay_out_rows(uses, target_length=4, separator_length=1))
    assert told["documents_per_row"] == {"min": 0, "median": 0, "max": 0}
    assert told["repeats"]["share_of_tokens"] == 0.0
    assert sum(told["sources"][0]["before"]["tokens"]) == 0
