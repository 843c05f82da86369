from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_tables import uses_of

from ultralong_hf.data.planning.layout import Totals, lay_out_rows

TEXTS = ("aaa", "bb", "cc")


def rows_as_text(texts, *, separator="|", target_length=4, keep_tail=True):
    """The rows of a layout, spelled out from its segments, and the layout."""
    uses = uses_of(range(len(texts)), [len(text) for text in texts])
    layout = lay_out_rows(
        uses, target_length=target_length, separator_length=len(separator), keep_tail=keep_tail
    )
    rows = []
    for row in range(layout.rows):
        text = ""
        for piece in layout.segments(row):
            assert (piece["row"], piece["offset"]) == (row, len(text))
            source = separator if piece["is_separator"] else texts[piece["use"]]
            text += source[piece["start"] : piece["stop"]]
        rows.append(text)
    return rows, layout


def test_a_document_goes_on_in_the_next_row_and_a_short_last_row_is_dropped():
    rows, layout = rows_as_text(TEXTS)
    assert rows == ["aaa|", "bb|c"]
    assert layout.totals() == Totals(7, 2, packed=6, separators=2, dropped_last_row=1, dropped_tails=0)


def test_without_tails_a_cut_document_loses_its_rest_and_the_next_begins_a_row():
    rows, layout = rows_as_text(["aaa", "bbbbbb", "cc", "d", "ee"], keep_tail=False)
    assert rows == ["aaa|", "bbbb", "cc|d"]
    assert layout.totals() == Totals(14, 2, packed=10, separators=2, dropped_last_row=2, dropped_tails=2)


def test_without_tails_a_separator_cut_by_the_edge_loses_its_rest():
    rows, layout = rows_as_text(["aaa", "bb", "cc"], separator="<s>", keep_tail=False)
    assert rows == ["aaa<", "bb<s"]
    assert layout.totals() == Totals(7, 6, packed=5, separators=3, dropped_last_row=2, dropped_tails=3)


def test_a_separator_goes_over_the_edge_when_tails_are_kept():
    assert rows_as_text(["aaa", "bb", "cc"], separator="<s>")[0] == ["aaa<", "s>bb", "<s>c"]
    assert rows_as_text(["aaaa", "bbb"])[0] == ["aaaa", "|bbb"]


def test_a_document_longer_than_rows_fills_them():
    assert rows_as_text(["a", "bbbbbbbbbb"])[0] == ["a|bb", "bbbb", "bbbb"]
    assert rows_as_text(["a", "bbbbbbbbbb", "cccc"], keep_tail=False)[0] == ["a|bb", "cccc"]


def test_pieces_of_a_document_tell_where_in_it_they_lie():
    uses = uses_of([5, 5], [6, 3], starts=[0, 6])
    pieces = lay_out_rows(uses, target_length=4, separator_length=0).segments(0, 2)
    assert pieces.tolist() == [
        (0, 0, False, 0, 0, 4),
        (1, 0, False, 0, 4, 6),
        (1, 2, False, 1, 6, 8),
    ]


@pytest.mark.parametrize("keep_tail", [True, False])
def test_no_documents_make_no_rows(keep_tail):
    layout = lay_out_rows(uses_of([], []), target_length=4, separator_length=1, keep_tail=keep_tail)
    assert layout.rows == 0
    assert layout.totals() == Totals(0, 0, 0, 0, 0, 0)
    assert len(layout.segments(0, 0)) == len(layout.repeats_within_rows()) == 0


def test_refuses_rows_that_there_are_not():
    layout = lay_out_rows(uses_of([0], [9]), target_length=4, separator_length=1)
    assert len(layout.segments(0, 2)) == 2
    for rows in ((2,), (-1,), (0, 3)):
        with pytest.raises(IndexError, match="of 2"):
            layout.segments(*rows)


def test_counts_uses_that_share_a_row_with_another_of_the_same_tokens():
    # rows of 4: aabb ccaa aabb
    uses = uses_of([0, 1, 2, 0, 0, 1], [2, 2, 2])
    layout = lay_out_rows(uses, target_length=4, separator_length=0)
    assert layout.repeats_within_rows().tolist() == []
    uses = uses_of([0, 0, 1, 1, 2, 1], [2, 1, 2])
    layout = lay_out_rows(uses, target_length=4, separator_length=0)
    assert layout.repeats_within_rows().tolist() == [1, 3]
    # other pieces of the same document are other tokens
    uses = uses_of([0, 0, 0], [1, 1, 1], starts=[0, 1, 2])
    layout = lay_out_rows(uses, target_length=3, separator_length=0)
    assert layout.repeats_within_rows().tolist() == []


def naive_rows(documents, separators, target_length, keep_tail):
    """Rows by lists, token by token; and the number of separators put."""
    if keep_tail:
        stream = [
            token for pair in zip(separators, documents, strict=True) for unit in pair for token in unit
        ]
        stream = stream[len(separators[0]) :] if separators else []
        rows = [stream[at : at + target_length] for at in range(0, len(stream), target_length)]
        return [row for row in rows if len(row) == target_length], max(len(documents) - 1, 0)
    rows, put = [[]], 0
    for separator, document in zip(separators, documents, strict=True):
        put += bool(rows[-1])
        for unit in (separator if rows[-1] else [], document):
            rows[-1] += unit[: target_length - len(rows[-1])]
            if len(rows[-1]) == target_length:
                rows.append([])
    return rows[:-1], put


@settings(max_examples=200, deadline=None)
@given(
    documents=st.lists(st.integers(0, 5), max_size=20),
    lengths=st.lists(st.integers(1, 25), min_size=6, max_size=6),
    separator_length=st.integers(0, 4),
    target_length=st.integers(1, 20),
    keep_tail=st.booleans(),
)
def test_rows_are_those_of_packing_token_by_token(
    documents, lengths, separator_length, target_length, keep_tail
):
    uses = uses_of(documents, lengths)
    layout = lay_out_rows(
        uses, target_length=target_length, separator_length=separator_length, keep_tail=keep_tail
    )
    expected, put = naive_rows(
        [[("text", use, at) for at in range(lengths[document])] for use, document in enumerate(documents)],
        [[("separator", use, at) for at in range(separator_length)] for use in range(len(documents))],
        target_length,
        keep_tail,
    )
    packed = [
        [
            ("separator" if piece["is_separator"] else "text", int(piece["use"]), at)
            for piece in layout.segments(row)
            for at in range(piece["start"], piece["stop"])
        ]
        for row in range(layout.rows)
    ]
    assert packed == expected
    assert layout.segments(0, layout.rows).tolist() == [
        piece for row in range(layout.rows) for piece in layout.segments(row).tolist()
    ]

    totals = layout.totals()
    tokens = [token for row in packed for token in row]
    assert len(set(tokens)) == len(tokens)
    assert totals.packed == sum(kind == "text" for kind, *_ in tokens)
    assert totals.separators == sum(kind == "separator" for kind, *_ in tokens)
    assert totals.of_uses == sum(lengths[document] for document in documents)
    assert totals.of_separators == put * separator_length
    assert totals.of_uses + totals.of_separators == (
        totals.packed + totals.separators + totals.dropped_last_row + totals.dropped_tails
    )
    assert 0 <= totals.dropped_last_row < target_length
    assert totals.dropped_tails == 0 if keep_tail else totals.dropped_tails >= 0

    in_rows = [{use for kind, use, _ in row if kind == "text"} for row in packed]
    assert layout.documents_per_row().tolist() == [len(uses) for uses in in_rows]
    assert layout.separators_per_row().tolist() == [
        len({use for kind, use, _ in row if kind == "separator"}) for row in packed
    ]
    repeats = {
        use
        for uses in in_rows
        for use in uses
        if any(other < use and documents[other] == documents[use] for other in uses)
    }
    assert set(layout.repeats_within_rows().tolist()) == repeats


def test_the_order_of_uses_may_be_anything():
    uses = uses_of([3, 0, 3], [2, 1, 1, 5])
    layout = lay_out_rows(uses, target_length=6, separator_length=1)
    assert layout.segments(0, 2)[["row", "use", "start", "stop"]].tolist() == [
        (0, 0, 0, 5),
        (0, 1, 0, 1),
        (1, 1, 0, 2),
        (1, 2, 0, 1),
        (1, 2, 0, 3),
    ]
    assert np.all(layout.ends - layout.starts == [5, 2, 5])
