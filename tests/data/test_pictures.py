import numpy as np
import pytest

from ultralong_hf.data.showing.pictures import (
    attention_blocks,
    composition_figure,
    draw_composition,
    draw_row,
    row_figure,
)
from ultralong_hf.errors import StoreError

SEPARATOR, A, B = (
    {"offset": 3, "length": 1, "document": 1, "is_separator": True},
    {"offset": 0, "length": 3, "document": 0, "is_separator": False},
    {"offset": 4, "length": 2, "document": 1, "is_separator": False},
)
PIECES = [A, SEPARATOR, B]
FACTS = {"row": 3, "documents": 2, "pieces": PIECES}


def manifest(*labels):
    def tokens(*values):
        return {"documents": [int(value > 0) for value in values], "tokens": list(values)}

    return {
        "documents": {"read": 5},
        "tokens": {"of_documents": 60},
        "rows": 7,
        "settings": {"target_length": 4096},
        "composition": {
            "edges": [0, 1024, 2048, 4096],
            "sources": [
                {"label": label, "before": tokens(0, 10, 20, 0), "after": tokens(0, 5, 45, 0)}
                for label in labels
            ],
        },
    }


def test_a_token_sees_all_before_it_across_documents():
    assert attention_blocks(PIECES, cells=6, mask_documents=False).tolist() == [
        [2, 0, 0, 0, 0, 0],
        [2, 2, 0, 0, 0, 0],
        [2, 2, 2, 0, 0, 0],
        [1, 1, 1, 2, 0, 0],
        [1, 1, 1, 1, 2, 0],
        [1, 1, 1, 1, 2, 2],
    ]


def test_a_masked_row_sees_its_own_document_alone_which_its_separator_ends():
    assert attention_blocks(PIECES, cells=6, mask_documents=True).tolist() == [
        [2, 0, 0, 0, 0, 0],
        [2, 2, 0, 0, 0, 0],
        [2, 2, 2, 0, 0, 0],
        [2, 2, 2, 2, 0, 0],
        [0, 0, 0, 0, 2, 0],
        [0, 0, 0, 0, 2, 2],
    ]


def test_a_cell_stands_for_its_middle_token():
    halves = attention_blocks(PIECES, cells=2, mask_documents=False)
    np.testing.assert_array_equal(halves, [[2, 0], [1, 2]])


def test_bars_show_shares_of_all_sources_as_read_and_in_the_store():
    figure = composition_figure(manifest("books", "web"))
    above, below = figure.axes
    heights = [[bar.get_height() for bar in axes.patches] for axes in (above, below)]
    assert heights[0] == pytest.approx([10 / 60, 20 / 60] * 2)
    assert heights[1] == pytest.approx([5 / 100, 45 / 100] * 2)
    assert [label.get_text() for label in below.get_xticklabels()] == ["1K", "2K", "4K"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["books", "web"]
    assert sum(bar.get_height() for bar in below.patches) == pytest.approx(1)


def test_the_title_of_a_row_says_who_sees_whom():
    assert (
        "2 documents; all that came before is seen" in row_figure(FACTS, mask_documents=False).get_suptitle()
    )
    assert "each document sees itself alone" in row_figure(FACTS, mask_documents=True).get_suptitle()


def test_pictures_are_png_files(tmp_path):
    for path in (
        draw_composition(manifest("books"), tmp_path / "store.png"),
        draw_row(FACTS, tmp_path / "row.png", mask_documents=False),
    ):
        assert path.read_bytes().startswith(b"\x89PNG")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["row.png", "store.png"]


def test_a_picture_that_cannot_be_written_is_an_error_of_ours(tmp_path):
    with pytest.raises(StoreError, match=r"missing/store\.png cannot be written"):
        draw_composition(manifest("books"), tmp_path / "missing" / "store.png")
