import csv
import json
import re
from html.parser import HTMLParser

import plotly.graph_objects as go
import pytest

from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.pages import Preformatted, Table, write_html_report
from ultralong_hf.evaluation.report import Report, count_cells, perplexity_figure

BUCKETS = [
    {"from": 0, "to": 64, "value": 20.0, "loss": 2.9957, "tokens": 630},
    {"from": 64, "to": 128, "value": 12.5, "loss": 2.5257, "tokens": 640},
]


def _records(hits_by_cell):
    return [
        {
            "task": "needle",
            "length": length,
            "depth": depth,
            "sample": sample,
            "prompt_tokens": length - 16,
            "prompt": "p",
            "expected": "1",
            "answer": "1",
            "hit": sample < hits,
        }
        for (length, depth), hits in hits_by_cell.items()
        for sample in range(20)
    ]


RECORDS = _records({(256, 0.0): 20, (256, 100.0): 18, (512, 0.0): 1, (512, 100.0): 0})


@pytest.fixture
def report():
    return Report(
        model="base <tiny>",
        settings={"seed": 0},
        cells=count_cells(RECORDS, window=256),
        perplexity=BUCKETS,
        notes=["mind & beware"],
        window=256,
        prompts=RECORDS,
    )


def test_cells_hold_counts_intervals_and_the_window():
    cells = count_cells(RECORDS, window=256)
    assert cells[0] == {
        "task": "needle",
        "length": 256,
        "depth": 0.0,
        "hits": 20,
        "samples": 20,
        "low": pytest.approx(0.8389, abs=1e-4),
        "high": 1.0,
        "prompt_tokens": 240,
        "beyond_window": False,
    }
    assert [(c["hits"], c["beyond_window"]) for c in cells[1:]] == [(18, False), (1, True), (0, True)]


def test_recall_is_pooled_over_depths(report):
    assert report.recall("needle", 256) == 38 / 40
    with pytest.raises(EvaluationError, match="not measured at 9,999"):
        report.recall("needle", 9_999)


def test_the_table_shows_percents_totals_and_notes(report):
    assert report.table().splitlines() == [
        "needle: % found by depth (rows) and length in tokens (columns)",
        "   depth   256  512>",
        "     0 %   100     5",
        "   100 %    90     0",
        "     all    95     2",
        "> beyond the model's window",
        "",
        "perplexity by position",
        "              positions   perplexity      tokens",
        "                0 to 63       20.000         630",
        "              64 to 127       12.500         640",
        "",
        "note: mind & beware",
    ]


def test_saves_every_file(report, tmp_path):
    report.save(tmp_path / "out")
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {
        "cells.csv",
        "cells.json",
        "heatmap.png",
        "perplexity.csv",
        "prompts.jsonl",
        "report.html",
        "report.json",
    }
    stored = json.loads((tmp_path / "out" / "report.json").read_text())
    assert stored == json.loads(json.dumps(report.to_dict()))
    assert json.loads((tmp_path / "out" / "cells.json").read_text()) == report.cells
    with (tmp_path / "out" / "cells.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["length"], row["hits"]) for row in rows] == [
        ("256", "20"),
        ("256", "18"),
        ("512", "1"),
        ("512", "0"),
    ]
    prompts = (tmp_path / "out" / "prompts.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in prompts] == RECORDS


def test_a_report_of_perplexity_alone_has_no_heat_map(tmp_path):
    report = Report(model="m", settings={}, perplexity=BUCKETS)
    report.save(tmp_path)
    assert not (tmp_path / "heatmap.png").exists()
    assert (tmp_path / "report.html").exists()
    with pytest.raises(EvaluationError, match="no grid to draw"):
        report.plot(tmp_path / "x.png")


def test_plots_png_and_html(report, tmp_path):
    assert report.plot(tmp_path / "x.png").stat().st_size > 5_000
    assert "heatmap" in report.plot(tmp_path / "x.html").read_text()


class _Outside(HTMLParser):
    """Collects what a browser would load from elsewhere, and checks that tags are balanced."""

    def __init__(self):
        super().__init__()
        self.loaded, self.open, self.text = [], [], []

    def handle_starttag(self, tag, attributes):
        self.loaded += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)


def test_pages_are_whole_and_escape_all_text(tmp_path):
    path = write_html_report(
        tmp_path / "page.html",
        "Title <b>",
        [
            ("Heading & co", ["A <script>alert(1)</script> paragraph", Preformatted("a\n  <b>")]),
            ("Numbers", [Table(("name", "tokens"), [("<x>", 4096), ("y", 12)], caption="<caption>")]),
            ("Figures", [perplexity_figure([("before", BUCKETS)]), go.Figure(go.Bar(y=[1, 2]))]),
        ],
    )
    page = path.read_text()
    parser = _Outside()
    parser.feed(page)
    assert (parser.loaded, parser.open) == ([], [])
    text = " ".join(parser.text)
    for expected in (
        "Title <b>",
        "Heading & co",
        "A <script>alert(1)</script> paragraph",
        "<x>",
        "4,096",
        "<caption>",
    ):
        assert expected in text
    assert "prefers-color-scheme: dark" in page
    assert len(re.findall(r'class="plotly-graph-div"', page)) == 2
    assert page.count("* plotly.js v") == 1


def test_pages_without_figures_carry_no_library(tmp_path):
    page = write_html_report(tmp_path / "p.html", "t", [("h", ["text"])])
    assert page.stat().st_size < 10_000
    assert [file.name for file in tmp_path.iterdir()] == ["p.html"]


def test_a_prompt_cut_to_the_window_is_not_beyond_it():
    from ultralong_hf.evaluation.report import count_scores

    record = {"task": "t", "score": 1.0, "notes": []}
    cases = {
        "cut to it": ({"length": 16_384, "prompt_tokens": 900, "notes": ["cut: much"]}, False),
        "filled beyond it": ({"length": 2_048, "prompt_tokens": 1_020}, True),
        "longer than its level tells": ({"length": 512, "prompt_tokens": 1_500}, True),
        "within": ({"length": 1_024, "prompt_tokens": 900}, False),
    }
    for name, (changes, expected) in cases.items():
        [row] = count_scores([{**record, **changes}], 1_024)
        assert row["beyond_window"] is expected, name


def test_the_page_shows_scores_the_standard_side_and_notes_first(tmp_path):
    report = Report(
        model="m",
        settings={},
        scores=[
            {
                "task": "ruler/vt",
                "length": 4096,
                "score": 0.375,
                "samples": 8,
                "prompt_tokens": 4066,
                "beyond_window": True,
            }
        ],
        standard=[
            {
                "task": "mmlu",
                "metric": "acc",
                "value": 0.66,
                "stderr": 0.004,
                "samples": 100,
                "retention": {"value": 0.98},
            }
        ],
        notes=["ruler/vt: cut."],
    )
    page = (report.save(tmp_path) / "report.html").read_text()
    assert page.index("ruler/vt: cut.") < page.index("<td>ruler/vt</td>")
    for cell in ("37.5", "beyond", "66.00 ± 0.40", "98.0"):
        assert f">{cell}</td>" in page
