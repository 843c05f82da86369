from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_tables import table, tables, uses_of

from ultralong_hf.data.mixture import CutMixture, LengthMixture
from ultralong_hf.data.planning.choice import choose_documents
from ultralong_hf.data.planning.layout import lay_out_rows
from ultralong_hf.data.planning.ordering import order_uses
from ultralong_hf.data.planning.sketches import SKETCH_BYTES
from ultralong_hf.data.planning.tables import Uses
from ultralong_hf.errors import DocumentError

LARGE = {"target_length": 10**6, "separator_length": 1}


def with_sketches(documents, seed=0):
    sketch = np.random.default_rng(seed).integers(0, 256, (len(documents), SKETCH_BYTES), dtype=np.uint8)
    return table(
        documents.length,
        source=documents.source,
        labels=documents.labels,
        removed=documents.removed,
        sketch=sketch,
    )


def rows_and_repeats(uses, **options):
    layout = lay_out_rows(uses, **options)
    return layout.rows, len(layout.repeats_within_rows())


def in_any_order(uses):
    return sorted(zip(*(column.tolist() for column in vars(uses).values()), strict=True))


def test_source_order_takes_documents_as_they_come_and_then_again():
    documents = table([1, 2, 3, 4])
    uses = uses_of([0, 0, 0, 1, 2, 2, 3], documents.length)
    ordered = order_uses(uses, documents, order="source", seed=0, target_length=6, separator_length=0)
    # rows of 6: 0 1 2 | 3 0 .. | .. 2 0
    assert ordered.document.tolist() == [0, 1, 2, 3, 0, 2, 0]
    assert ordered.copy.tolist() == [0, 0, 0, 0, 1, 1, 2]


def test_repeats_that_would_share_a_row_are_moved_and_first_uses_are_not():
    documents = table([4] * 8)
    uses = uses_of([0] * 4 + list(range(1, 8)), documents.length)
    ordered = order_uses(uses, documents, order="source", seed=0, target_length=8, separator_length=0)
    assert ordered.document[ordered.copy == 0].tolist() == list(range(8))
    assert rows_and_repeats(ordered, target_length=8, separator_length=0) == (5, 0)
    assert in_any_order(ordered) == in_any_order(uses)


def test_shuffled_order_depends_on_the_seed_and_not_on_other_documents():
    documents = table(np.arange(1, 201))
    uses = uses_of(range(200), documents.length)
    ordered = order_uses(uses, documents, order="shuffled", seed=1, **LARGE).document
    assert sorted(ordered.tolist()) == list(range(200)) != ordered.tolist()
    again = order_uses(uses, documents, order="shuffled", seed=1, **LARGE).document
    assert again.tolist() == ordered.tolist()
    other = order_uses(uses, documents, order="shuffled", seed=2, **LARGE).document
    assert other.tolist() != ordered.tolist()
    half = order_uses(uses_of(range(100), documents.length), documents, order="shuffled", seed=1, **LARGE)
    assert half.document.tolist() == ordered[ordered < 100].tolist()


def test_shuffled_uses_of_a_document_lie_evenly_over_the_store():
    documents = table(np.full(3000, 10))
    uses = uses_of(np.sort(np.concatenate([np.arange(3000), np.arange(0, 3000, 3)] * 2)), documents.length)
    ordered = order_uses(uses, documents, order="shuffled", seed=0, **LARGE)
    place = np.arange(len(uses)) / len(uses)
    fourfold = ordered.document % 3 == 0
    by_document = place[fourfold][np.argsort(ordered.document[fourfold], kind="stable")].reshape(-1, 4)
    assert np.diff(by_document, axis=1) == pytest.approx(0.25, abs=0.04)
    twofold = place[~fourfold][np.argsort(ordered.document[~fourfold], kind="stable")].reshape(-1, 2)
    assert np.diff(twofold, axis=1) == pytest.approx(0.5, abs=0.04)


def test_pieces_of_a_cut_document_are_shuffled_each_by_itself():
    documents = table([400])
    pieces = choose_documents(documents, CutMixture(length=4), seed=0).uses
    ordered = order_uses(pieces, documents, order="shuffled", seed=0, **LARGE)
    assert sorted(ordered.start.tolist()) == list(range(0, 400, 4))
    assert np.mean(np.abs(np.diff(ordered.start)) == 4) < 0.1
    assert order_uses(pieces, documents, order="source", seed=0, **LARGE).start.tolist() == list(
        range(0, 400, 4)
    )


def test_related_documents_lie_next_to_each_other_pass_by_pass():
    rng = np.random.default_rng(0)
    topics = rng.integers(0, 256, (4, SKETCH_BYTES), dtype=np.uint8)
    topic = rng.permutation(np.repeat(range(4), 25))
    documents = table(np.full(100, 5), sketch=topics[topic])
    uses = uses_of(np.repeat(range(100), 2), documents.length)
    ordered = order_uses(uses, documents, order="related", seed=0, target_length=50, separator_length=0)
    assert np.count_nonzero(np.diff(topic[ordered.document])) == 2 * 4 - 1
    assert ordered.copy.tolist() == [0] * 100 + [1] * 100


def test_related_order_needs_sketches_and_orders_are_known_by_name():
    documents = table([1])
    for order, fault in (("related", "needs sketches"), ("random", "order is 'random': source, shuffled")):
        with pytest.raises(DocumentError, match=fault):
            order_uses(uses_of([0], [1]), documents, order=order, seed=0, **LARGE)


def test_a_document_with_more_uses_than_rows_is_repeated_within_as_few_as_it_must():
    documents = table([2, 2, 2, 2])
    uses = uses_of([0] * 6 + [1, 2, 3] * 2, documents.length)
    options = {"target_length": 6, "separator_length": 0}
    ordered = order_uses(uses, documents, order="shuffled", seed=0, **options)
    assert rows_and_repeats(ordered, **options) == (4, 2)


def test_what_can_be_avoided_is_avoided_in_every_small_store():
    """Against all orders that make as many rows."""
    rng = np.random.default_rng(0)
    outcomes = []
    while len(outcomes) < 300:
        counts = rng.integers(1, 4, rng.integers(1, 4))
        lengths = rng.integers(1, 8, len(counts))
        options = {
            "target_length": int(rng.integers(2, 9)),
            "separator_length": int(rng.integers(0, 3)),
            "keep_tail": bool(rng.integers(0, 2)),
        }
        if counts.sum() > 6:
            continue
        uses = uses_of(np.repeat(np.arange(len(counts)), counts), lengths)
        ordered = order_uses(uses, table(lengths), order="shuffled", seed=len(outcomes), **options)
        rows, repeats = rows_and_repeats(ordered, **options)
        others = (
            rows_and_repeats(uses_of(order, lengths), **options)
            for order in set(itertools.permutations(uses.document.tolist()))
        )
        can_be_avoided = any(found == 0 for other, found in others if other >= rows)
        assert (repeats == 0) == can_be_avoided, (counts, lengths, options)
        outcomes.append(can_be_avoided)
    assert 20 < sum(outcomes) < 280


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=12, max_size=60),
    copies=st.lists(st.integers(1, 3), min_size=12, max_size=60),
    target_length=st.integers(9, 12),
    separator_length=st.integers(0, 2),
    keep_tail=st.booleans(),
    order=st.sampled_from(["source", "shuffled", "related"]),
    seed=st.integers(0, 99),
)
def test_no_document_is_twice_in_one_row_of_a_store_of_some_rows(
    lengths, copies, target_length, separator_length, keep_tail, order, seed
):
    documents = with_sketches(table(lengths))
    counts = np.resize(copies, len(lengths))
    counts[: len(counts) // 2] = 1
    uses = uses_of(np.repeat(np.arange(len(lengths)), counts), documents.length)
    options = {
        "target_length": target_length,
        "separator_length": separator_length,
        "keep_tail": keep_tail,
    }
    ordered = order_uses(uses, documents, order=order, seed=seed, **options)
    assert in_any_order(ordered) == in_any_order(uses)
    rows, repeats = rows_and_repeats(ordered, **options)
    assert repeats == 0 or rows < 6


@settings(max_examples=120, deadline=None)
@given(
    documents=tables(),
    mixture=st.sampled_from([None, LengthMixture(short_below=10, long_above=20), CutMixture(length=7)]),
    order=st.sampled_from(["source", "shuffled", "related"]),
    epochs=st.sampled_from([1, 2.5]),
    token_budget=st.none() | st.integers(1, 2000),
    target_length=st.integers(1, 50),
    separator_length=st.integers(0, 3),
    keep_tail=st.booleans(),
)
def test_a_plan_accounts_for_every_token_once_and_in_order(
    documents, mixture, order, epochs, token_budget, target_length, separator_length, keep_tail
):
    documents = with_sketches(documents)
    options = {
        "target_length": target_length,
        "separator_length": separator_length,
        "keep_tail": keep_tail,
    }
    uses, drops, _ = choose_documents(documents, mixture, epochs=epochs, token_budget=token_budget, seed=0)
    ordered = order_uses(uses, documents, order=order, seed=0, **options)
    layout = lay_out_rows(ordered, **options)
    assert in_any_order(ordered) == in_any_order(uses)

    totals = layout.totals()
    of_repeats = int(ordered.length[ordered.copy > 0].sum())
    read = int(documents.length.sum()) + of_repeats + totals.of_separators
    dropped = sum(drops.tokens.values()) + totals.dropped_last_row + totals.dropped_tails
    assert read == totals.packed + totals.separators + dropped

    pieces = layout.segments(0, layout.rows)
    sizes = pieces["stop"] - pieces["start"]
    assert (
        np.bincount(pieces["row"], weights=sizes, minlength=layout.rows).tolist()
        == [target_length] * layout.rows
    )
    text = pieces[~pieces["is_separator"]]
    assert (np.diff(text["use"]) >= 0).all(), "uses one after the other"
    goes_on = text["use"][1:] == text["use"][:-1]
    assert (text["start"][1:][goes_on] == text["stop"][:-1][goes_on]).all(), "no token twice or left out"
    begins = np.append(True, ~goes_on)[: len(text)]
    assert (text["start"][begins] == ordered.start[text["use"][begins]]).all()
    assert (text["stop"] <= (ordered.start + ordered.length)[text["use"]]).all()


def test_the_uses_given_stay_as_they_were():
    uses = uses_of([0, 0, 1], [5, 5])
    before = in_any_order(uses)
    assert isinstance(order_uses(uses, table([5, 5]), order="shuffled", seed=0, **LARGE), Uses)
    assert in_any_order(uses) == before
