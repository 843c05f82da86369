"""Tokens against the window and measured recall; nothing is cut silently."""

import json

import pytest
from chat_models import BOOK, NOTES, make_engine, make_model

from ultralong_hf.chat.documents import Document
from ultralong_hf.chat.meter import Recall, cut_to_fit, load_recall, measure
from ultralong_hf.chat.prompting import Turn
from ultralong_hf.errors import ChatError, DoesNotFit


def _engine(window=4096):
    return make_engine(make_model(max_position_embeddings=window))


def test_documents_and_surroundings_add_up_to_the_prompt():
    engine = _engine()
    turns = [Turn("Why?", "Because.")]
    meter = measure(engine, "s", [BOOK, NOTES], turns=turns, question="And then?", answer=50)
    from chat_models import question

    prompt = engine.write(question("And then?", session="s", documents=(BOOK, NOTES), turns=turns))
    assert meter.total == len(prompt.ids) + 50
    assert [name for name, _ in meter.documents] == ["book.txt", "notes.md"]
    assert meter.documents[0][1] == len(engine.tokenizer.encode(BOOK.text))
    assert meter.fits
    assert meter.messages == ()


def test_what_does_not_fit_is_refused_with_the_numbers():
    meter = measure(_engine(700), "s", [BOOK], answer=50)
    assert meter.over == meter.total - 700
    with pytest.raises(DoesNotFit, match=rf"{meter.total:,} tokens do not fit.* 700: {meter.over} too many"):
        meter.check()


@pytest.mark.parametrize("keep", ["beginning", "ends"])
def test_a_cut_fits_and_is_told_in_the_text_and_beside_it(keep):
    engine = _engine(1100)
    long = Document("long.txt", "".join(f"Line {n} is here.\n" for n in range(400)), "text")
    documents = [NOTES, long]
    meter = measure(engine, "s", documents, answer=50)
    assert not meter.fits
    cut, notes = cut_to_fit(documents, meter, keep)
    assert measure(engine, "s", cut, answer=50).fits
    assert cut[-1].text.count("are left out]") == 1
    assert any(note.startswith("long.txt: cut here: ") for note in notes)
    assert cut[-1].warnings
    assert cut[-1].digest != long.digest
    assert cut[-1].text.startswith("Line 0")
    assert ("Line 399" in cut[-1].text) == (keep == "ends")
    assert (cut[0] == NOTES) == (keep == "beginning")


def test_places_of_a_cut_document_are_those_of_the_file():
    text = "".join(f"Line {n} is here.\n" for n in range(1, 401))
    document = Document("long.txt", text, "text")
    start = text.index("Line 390")
    cut = document.cut([(0, 90), (start, len(text))], "cut here")
    at = cut.text.index("Line 395")
    assert str(cut.place(at, at + 8)) == "long.txt, line 395"
    at = cut.text.index("Line 3 ")
    assert str(cut.place(at, at + 6)) == "long.txt, line 3"


def test_a_document_without_room_is_told_to_be_left_out():
    documents = [BOOK, NOTES]
    meter = measure(_engine(760), "s", documents, answer=50)
    cut, notes = cut_to_fit(documents, meter, "beginning")
    assert [document.name for document in cut] == ["book.txt"]
    assert "notes.md is left out whole" in notes


def test_no_room_at_all_is_an_error():
    meter = measure(_engine(300), "s", [BOOK], answer=250)
    with pytest.raises(ChatError, match="no room for documents"):
        cut_to_fit([BOOK], meter, "ends")


def test_a_length_beyond_measured_recall_is_told():
    meter = measure(_engine(), "s", [BOOK], recall=Recall(256, 4096, "needle"), answer=10)
    assert meter.fits
    assert meter.beyond_recall
    assert meter.messages == (
        f"Recall was found to hold up to 256 tokens (needle); this is {meter.total}: the model may overlook "
        "passages.",
    )


def _cells(shares, task="needle"):
    return [
        {"task": task, "length": length, "depth": 0, "hits": round(100 * share), "samples": 100}
        for length, share in shares.items()
    ]


@pytest.mark.parametrize(
    ("report", "holds_to"),
    [
        ({"cells": _cells({256: 1.0, 512: 0.95, 1024: 0.5, 2048: 0.99})}, 512),
        ({"cells": _cells({256: 0.2})}, None),
        ({"recall": {"before": _cells({256: 0.1}), "after": _cells({256: 1.0, 4096: 0.97})}}, 4096),
        ({"cells": _cells({256: 1.0, 512: 1.0}) + _cells({256: 1.0, 512: 0.1}, "passkey")}, 256),
        (
            {
                "cells": [],
                "scores": [
                    {"task": "ruler/vt", "length": 4096, "score": 0.95},
                    {"task": "ruler/cwe", "length": 4096, "score": 0.97},
                    {"task": "ruler/vt", "length": 8192, "score": 0.5},
                ],
            },
            4096,
        ),
    ],
)
def test_recall_is_read_from_reports(tmp_path, report, holds_to):
    (tmp_path / "report.json").write_text(json.dumps(report))
    assert load_recall(tmp_path).holds_to == holds_to
    assert load_recall(tmp_path / "report.json").holds_to == holds_to


def test_a_report_without_recall_says_nothing(tmp_path):
    (tmp_path / "report.json").write_text(json.dumps({"cells": [], "perplexity": []}))
    assert load_recall(tmp_path) is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"cells": [{"length": "x"}]}'])
def test_what_is_no_report_is_refused(tmp_path, content):
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(ChatError, match=r"cannot be read as the report\.json"):
        load_recall(tmp_path)
