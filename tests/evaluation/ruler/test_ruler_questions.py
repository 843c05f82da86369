"""Question tasks: documents, their numbers and their order, from official files and from stand-ins."""

from __future__ import annotations

import json
import re

import pytest
from ruler_prompts import make_prompt, make_task, parts_of

from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.ruler.sources import _hotpotqa_rows, _squad_rows, generated_library

SQUAD = {
    "data": [
        {
            "title": f"Article {article}",
            "paragraphs": [
                {
                    "context": f" Paragraph {article}.{part} tells of the town {article}{part}. "
                    + "More of it. " * 6,
                    "qas": [
                        {
                            "question": f"Which town does {article}.{part} tell of?",
                            "answers": [{"text": f"town {article}{part}"}, {"text": f"{article}{part}"}],
                            "is_impossible": False,
                        },
                        {"question": "Unanswerable?", "answers": [], "is_impossible": True},
                    ],
                }
                for part in range(4)
            ],
        }
        for article in range(6)
    ]
}
HOTPOT = [
    {
        "question": f"Question {row}?",
        "answer": f"answer {row}",
        "context": [[f"Title {row}.{part}", [f"First {row}.{part}. ", "Second."]] for part in range(3)],
    }
    for row in range(5)
]


@pytest.fixture
def data_dir(tmp_path):
    (tmp_path / "dev-v2.0.json").write_text(json.dumps(SQUAD), encoding="utf-8")
    (tmp_path / "ruler").mkdir()
    (tmp_path / "ruler" / "hotpotqa.json").write_text(json.dumps(HOTPOT), encoding="utf-8")
    return tmp_path


def _documents(context: str) -> list[str]:
    parts = re.split(r"Document (\d+):\n", context)
    assert parts[0] == ""
    assert [int(number) for number in parts[1::2]] == list(range(1, len(parts) // 2 + 1))
    return [text.removesuffix("\n\n") for text in parts[2::2]]


def test_paragraphs_of_the_article_come_before_all_others(data_dir):
    task = make_task("qa_1", data_dir=data_dir)
    prompt = task.maker.make(700, 5)  # question 5: paragraph 1.1
    _, context, behind = parts_of("qa_1", prompt)
    documents = _documents(context)
    assert 4 < len(documents) < 24
    assert {f"Paragraph 1.{part}" for part in range(4)} <= {text[:13] for text in documents}
    assert "Question: Which town does 1.1 tell of?" in behind
    assert prompt.references == ("town 11", "11")
    assert documents[prompt.details["needed_at"][0] - 1].startswith("Paragraph 1.1 ")
    assert prompt.notes == ()


def test_documents_are_stripped_and_stand_once(data_dir):
    task = make_task("qa_1", data_dir=data_dir)
    prompt = task.maker.make(1100, 0)
    documents = _documents(parts_of("qa_1", prompt)[1])
    assert len(set(documents)) == len(documents)
    assert all(text == text.strip() for text in documents)


def test_all_documents_come_again_where_they_run_out_and_the_prompt_says_so(data_dir):
    task = make_task("qa_1", data_dir=data_dir)
    prompt = task.maker.make(8192, 0)
    documents = _documents(parts_of("qa_1", prompt)[1])
    assert len(set(documents)) == 24
    assert len(documents) > 48
    assert [note for note in prompt.notes if note.startswith("repeated text: there are 24 documents")]


def test_all_documents_of_a_hotpot_question_are_there(data_dir):
    prompt = make_task("qa_2", data_dir=data_dir).maker.make(600, 3)
    documents = _documents(parts_of("qa_2", prompt)[1])
    assert {f"Title 3.{part}\nFirst 3.{part}. Second." for part in range(3)} <= set(documents)
    assert prompt.references == ("answer 3",)
    assert len(prompt.details["needed_at"]) == 3


def test_rows_of_the_hub_give_the_same_library_as_the_files(data_dir):
    squad_rows = [
        {
            "title": article["title"],
            "context": paragraph["context"],
            "question": question["question"],
            "answers": {"text": [answer["text"] for answer in question["answers"]]},
        }
        for article in SQUAD["data"]
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ]
    hotpot_rows = [
        {
            **row,
            "context": {
                "title": [title for title, _ in row["context"]],
                "sentences": [sentences for _, sentences in row["context"]],
            },
        }
        for row in HOTPOT
    ]
    for name, rows in (("qa_1", _squad_rows(squad_rows)), ("qa_2", _hotpotqa_rows(hotpot_rows))):
        library = make_task(name, data_dir=data_dir).maker.generator._library
        assert rows.digest == library.digest
        assert len(rows.questions) == {"qa_1": 24, "qa_2": 5}[name]


def test_damaged_file_is_named(data_dir):
    (data_dir / "dev-v2.0.json").write_text("[1, 2]", encoding="utf-8")
    with pytest.raises(EvaluationError, match=r"squad\.json has no 'data' at its top"):
        _ = make_task("qa_1", data_dir=data_dir).maker


@pytest.mark.parametrize(("name", "hops"), [("qa_1", 1), ("qa_2", 2)])
def test_stand_in_has_its_answer_in_the_documents_and_is_named(name, hops):
    prompt = make_prompt(name)
    _, context, behind = parts_of(name, prompt)
    documents = _documents(context)
    needed = [documents[number - 1] for number in prompt.details["needed_at"]]
    assert len(needed) == hops
    assert any(f"is {prompt.references[0]}." in text for text in needed)
    [(kind, place)] = re.findall(r"What is the (.+) of the (.+)\?", behind)
    assert any(f"The {kind} of the {place} is" in text for text in needed)
    assert any(note.startswith("stand-in: generated facts") for note in prompt.notes)


def test_two_hops_lead_over_a_second_document():
    library = generated_library(["A sentence. " * 200], hops=2, name="hotpotqa")
    question = library.questions[0]
    first, second = (library.documents[index] for index in question.needed)
    [value] = question.answers
    given = re.search(rf"The (.+) of the (.+) is {value}\.", first)
    assert given is not None
    assert re.search(rf"is the {given[1]} of the {given[2]}\.", second)
