import sys

import numpy as np
import pytest

from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.heatmap import before_after_heatmap, draw_heatmap, heatmap_figure, lay_out

CELLS = [
    {"length": 512, "depth": 100, "hits": 3, "samples": 4, "beyond_window": True},
    {"length": 256, "depth": 0, "hits": 4, "samples": 4, "beyond_window": False},
    {"length": 256, "depth": 100, "hits": 1, "samples": 4},
    {"length": 256, "depth": 100, "hits": 2, "samples": 2},
]
PNG = b"\x89PNG\r\n\x1a\n"


def test_cells_are_laid_out_by_depth_and_length():
    grid = lay_out(CELLS)
    assert (grid.lengths, grid.depths) == ([256, 512], [0, 100])
    assert grid.hits.tolist() == [[4, 0], [3, 3]]  # cells of one place add up
    np.testing.assert_allclose(grid.recall, [[1.0, np.nan], [0.5, 0.75]])
    assert grid.lengths_within_window == 1


def test_many_lengths_get_short_labels_that_stay_apart():
    def labels(lengths):
        return lay_out([{"length": n, "depth": 0, "hits": 0, "samples": 1} for n in lengths]).tick_labels

    assert labels([0, 26_887, 1_048_576]) == ["0*", "26K", "1M"]
    assert labels([20_500, 20_600]) == ["20,500", "20,600"]


def test_the_figure_says_hits_and_interval():
    (trace,) = heatmap_figure([("model", CELLS)]).data
    assert trace.z == ([100.0, None], [50.0, 75.0])
    assert trace.x == ("256", "512")
    assert trace.customdata[0] == ["4 of 4 found<br>95 % interval 51% to 100%", "not measured"]


def test_the_window_is_marked_where_lengths_cross_it():
    within = [{**cell, "beyond_window": False} for cell in CELLS]
    figure = heatmap_figure([("base", CELLS), ("extended", within)])
    assert [(shape.x0, shape.xref) for shape in figure.layout.shapes] == [(0.5, "x")]


@pytest.mark.parametrize("name", ["map.png", "map.html"])
def test_before_and_after_stand_in_one_file(tmp_path, name):
    path = before_after_heatmap(CELLS, CELLS, tmp_path / "new" / name, titles=("Base <256>", "Extended"))
    assert [file.name for file in path.parent.iterdir()] == [name]
    content = path.read_bytes()
    if name.endswith("png"):
        assert content.startswith(PNG)
        alone = draw_heatmap([("Base", CELLS)], tmp_path / "alone.png").read_bytes()
        assert _width(content) > 1.5 * _width(alone)
    else:
        assert content.count(b'"type":"heatmap"') >= 2
        assert b"Extended" in content


def test_the_papers_grid_is_drawn(tmp_path):
    cells = [
        {"length": 1000 * length, "depth": depth, "hits": 1, "samples": 1}
        for length in range(1, 41)
        for depth in range(10)
    ]
    assert draw_heatmap([("paper", cells)], tmp_path / "p.png", title="Passkey").read_bytes().startswith(PNG)


def test_drawing_leaves_pyplot_alone(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)  # another test may have imported it
    draw_heatmap([("", CELLS)], tmp_path / "map.png")
    assert "matplotlib.pyplot" not in sys.modules


def test_refuses_no_cells_and_other_files(tmp_path):
    with pytest.raises(EvaluationError, match="no cell to draw"):
        lay_out([])
    with pytest.raises(EvaluationError, match=r"map\.gif is neither"):
        draw_heatmap([("", CELLS)], tmp_path / "map.gif")


def _width(png: bytes) -> int:
    return int.from_bytes(png[16:20], "big")
