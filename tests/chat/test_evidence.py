"""Quotes and values of an answer, found in the documents or not."""

import time

import pytest

from ultralong_hf.chat.documents import Document, Mark
from ultralong_hf.chat.evidence import find_evidence

REPORT = Document(
    "report.pdf",
    "The mill was built in 1887 by the river.\n\nIts access code is 40713.\nThe code of the barn is 91234.\n",
    "PDF",
    marks=(Mark(0, page=1), Mark(42, page=2)),
    pages=2,
)
LOG = Document("log.txt", "first line\nThe pump failed at 10:45,\nand was replaced.\n", "text")


def _one(answer, documents=(REPORT, LOG), **options):
    (claim,) = find_evidence(answer, documents, **options).claims
    return claim


def test_a_quote_is_found_with_its_page():
    claim = _one('It says "The mill was built in 1887 by the river".')
    assert (claim.kind, claim.text) == ("quote", "The mill was built in 1887 by the river")
    assert [str(hit.place) for hit in claim.hits] == ["report.pdf, page 1"]
    assert claim.hits[0].exact
    assert REPORT.text[claim.hits[0].start : claim.hits[0].end] == claim.text


@pytest.mark.parametrize("marks", ['"{}"', "“{}”", "„{}“", "«{}»", "「{}」", "`{}`"])
def test_all_quotation_marks_count(marks):
    assert _one("He wrote: " + marks.format("The pump failed")).found


def test_a_block_quote_counts():
    assert _one("As the log has it:\n> The pump failed").hits[0].place.line == 2


def test_a_quote_across_lines_is_found_up_to_blanks_case_and_punctuation():
    claim = _one('"the pump failed at 10:45 and was replaced"')
    assert not claim.hits[0].exact
    assert str(claim.hits[0].place) == "log.txt, lines 2-3"


def test_a_quote_that_is_not_there_is_said_to_be_missing():
    evidence = find_evidence('It says "the mill was sold in 1999".', [REPORT, LOG])
    assert not evidence.verified
    assert [claim.text for claim in evidence.missing] == ["the mill was sold in 1999"]
    assert evidence.message == (
        'Not in the documents: "the mill was sold in 1999". Do not rely on this answer without checking.'
    )


def test_a_quote_with_words_left_out_needs_its_parts_in_order():
    assert _one('"The mill was built ... by the river"').found
    assert not _one('"by the river ... The mill was built"').found


def test_a_value_is_found_as_a_whole_word():
    claim = _one("The access code is 40713.")
    assert (claim.kind, claim.text, str(claim.hits[0].place)) == ("value", "40713", "report.pdf, page 2")
    assert not _one("It is 1234.").found, "a part of 91234 is another number"


def test_a_value_that_the_question_names_proves_nothing():
    evidence = find_evidence("Yes, 40713 it is.", [REPORT], question="Is it 40713?")
    assert evidence.claims == ()
    assert evidence.message.startswith("The answer quotes nothing")
    assert not evidence.verified


def test_the_passage_whose_words_fit_comes_first():
    text = (
        "The ball bearing has 40713 parts.\n"
        + "filler line\n" * 100
        + "The access code of the mill is 40713.\n"
    )
    (value,) = find_evidence("The code of the mill: 40713", [Document("a.txt", text, "text")]).claims
    assert [hit.place.line for hit in value.hits] == [102, 1]


def test_wording_taken_without_quotation_marks_is_found():
    claims = find_evidence("Well, the mill was built in 1887 by the river, I think.", [REPORT]).claims
    wording = [claim for claim in claims if claim.kind == "wording"]
    assert [claim.text for claim in wording] == ["the mill was built in 1887 by the river"]


def test_short_emphasis_is_no_quote():
    assert find_evidence('The answer is "yes".', [REPORT]).claims == ()


def test_an_empty_answer_claims_nothing():
    assert find_evidence("", [REPORT]).claims == ()


@pytest.mark.parametrize(
    "answer",
    [
        '"' + "a " * 999 + '"',
        "“" * 500 + "x",
        "1." * 5000,
        "`" * 999,
        '"...…... ...", "(.*)+$ [\\"',
        "> " * 999,
    ],
)
def test_odd_answers_over_a_long_document_take_no_long_time(answer):
    document = Document("long.txt", "a a a a b. " * 20_000, "text")
    began = time.process_time()
    find_evidence(answer, [document])
    assert time.process_time() - began < 20


def test_everything_goes_into_json():
    import json

    evidence = find_evidence('"The pump failed" at 77:77.', [LOG])
    found = json.loads(json.dumps(evidence.to_dict()))
    assert found["verified"] is False
    assert found["claims"][0]["found"][0]["place"] == "log.txt, line 2"
    assert found["claims"][1] == {"kind": "value", "text": "77:77", "answer": [21, 26], "found": []}
