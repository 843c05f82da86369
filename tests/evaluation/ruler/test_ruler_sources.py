"""Which texts are taken: the given haystack, the data folder, the hub, or what stands in for them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ruler_prompts import make_task, parts_of

from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.ruler import sources
from ultralong_hf.evaluation.ruler.essays import LONGEST_SENTENCE, split_sentences

OFFICIAL = "Startups are hard.  Most fail,\nand some do not. Why is that? "


@pytest.fixture
def data_dir(tmp_path):
    folder = tmp_path / "json"
    folder.mkdir()
    (folder / "PaulGrahamEssays.json").write_text(json.dumps({"text": OFFICIAL * 200}), encoding="utf-8")
    words = {str(number): f"word{number}" for number in range(9000)}
    (folder / "english_words.json").write_text(json.dumps(words), encoding="utf-8")
    return tmp_path


def _context_of(name: str, task: Any, length: int = 4000) -> tuple[str, tuple[str, ...]]:
    prompt = task.maker.make(length, 0)
    return parts_of(name, prompt)[1], prompt.notes


def test_essays_of_the_data_folder_are_read_with_single_blanks_and_no_note(data_dir):
    context, notes = _context_of(
        "niah_single_2", make_task("niah_single_2", haystack=None, data_dir=data_dir)
    )
    assert "Startups are hard. Most fail, and some do not. Why is that? Startups" in context
    assert notes == ()


def test_given_haystack_is_taken_before_the_essays_and_is_named(data_dir, tmp_path):
    text = tmp_path / "own.txt"
    text.write_text("A text of my own. " * 1000, encoding="utf-8")
    task = make_task("niah_single_2", haystack=text, data_dir=data_dir)
    context, [note] = _context_of("niah_single_2", task)
    assert "A text of my own." in context
    assert note == f"stand-in: {text} in place of Paul Graham's essays"


def test_documents_of_the_lab_stand_in_where_neither_folder_nor_hub_has_essays():
    task = make_task("niah_single_2", haystack=None)
    _, [note] = _context_of("niah_single_2", task)
    assert note.startswith("stand-in: documents of the lab")


def test_essays_of_the_hub_are_taken_where_the_folder_has_none(monkeypatch):
    asked: list[Any] = []

    def load_dataset(*place: Any, split: str) -> list[dict[str, str]]:
        asked.append((*place, split))
        return [{"text": OFFICIAL * 100}, {"text": OFFICIAL * 100}]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    context, notes = _context_of("niah_single_2", make_task("niah_single_2", haystack=None))
    assert asked == [("baber/paul_graham_essays", None, "train")]
    assert "Startups are hard." in context
    assert notes == ()


def test_nvidias_longer_word_list_is_used_where_the_words_run_out(data_dir, monkeypatch):
    from ultralong_hf.evaluation.ruler import common

    whole = common.all_words()
    monkeypatch.setattr(common, "all_words", lambda: whole[::40])
    task = make_task("cwe", data_dir=data_dir)
    prompt = task.maker.make(16_384, 0)
    assert all(word.startswith("word") for word in prompt.references)
    assert prompt.notes == ()


def test_missing_data_folder_is_an_error(tmp_path):
    with pytest.raises(EvaluationError, match="no folder"):
        _ = make_task("qa_1", data_dir=tmp_path / "nowhere").maker


def test_damaged_essays_are_named(data_dir):
    (data_dir / "json" / "PaulGrahamEssays.json").write_text("{", encoding="utf-8")
    with pytest.raises(EvaluationError, match=r"PaulGrahamEssays\.json.* is no JSON"):
        _ = make_task("niah_single_2", haystack=None, data_dir=data_dir).maker


def test_empty_haystack_is_an_error():
    with pytest.raises(EvaluationError, match="hold no text"):
        _ = make_task("niah_single_2", haystack=["  ", ""]).maker


def test_text_without_sentence_ends_is_cut_all_the_same():
    sentences = split_sentences("word " * 450)
    assert [len(sentence.split()) for sentence in sentences] == [LONGEST_SENTENCE, LONGEST_SENTENCE, 50]


def test_sentences_put_together_are_the_text():
    text = 'Dr. Who came. "No!" he said (loudly). 3 left... And then? Yes.'
    assert " ".join(split_sentences(text)) == text
    assert len(split_sentences(text)) > 3


def test_every_stand_in_says_what_it_stands_for():
    library = sources.generated_library(["A sentence of a text. " * 300], hops=1, name="squad")
    assert library.stand_in == "stand-in: generated facts in place of SQuAD"
    assert len(library.documents) > 9000
    assert len({question.query for question in library.questions}) == len(library.questions)
