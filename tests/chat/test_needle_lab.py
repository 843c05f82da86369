"""The needle lab over a small model: what is hidden where, what counts, what is kept."""

import pytest
from chat_models import BOOK, NOTES, make_engine

from ultralong_hf.chat.engine import Options, Piece
from ultralong_hf.chat.needle_lab import Attempt, NeedleLab
from ultralong_hf.chat.session import ChatService
from ultralong_hf.errors import ChatError, DoesNotFit

SENTENCE, QUESTION = "The code of the mill is 4711.", "What is the code of the mill?"
OPTIONS = Options(max_new_tokens=8, passages=0)


def make_lab(*documents, answer=""):
    session = ChatService(make_engine(answer_start=answer), options=OPTIONS).open()
    for document in documents:
        session.add_document(document)
    return NeedleLab(session)


def test_the_sentence_stands_in_all_documents_joined():
    lab = make_lab(BOOK, NOTES)
    text = lab.hide(SENTENCE, 100).text
    assert text.startswith(BOOK.text[:50])
    assert text.endswith(f"there and back again.\n{SENTENCE}\n")
    assert text.count(SENTENCE) == 1


def test_lengths_are_powers_of_two_and_cut_the_text():
    lab = make_lab(BOOK, NOTES)
    total = lab._tokens()
    lengths = lab.lengths()
    assert lengths[0] == 256
    assert lengths == [256 * 2**n for n in range(len(lengths))]
    assert lengths[-1] < total <= 2 * lengths[-1]
    session = lab.session
    for length in lengths:
        found = session.engine.count("other", lab.hide(SENTENCE, 50, length)).tokens
        assert abs(found - length) < 0.05 * length + 30
    assert make_lab().lengths() == []


@pytest.mark.parametrize(("answer", "found"), [("It is 4711", True), ("It is 4712", False)])
def test_a_try_is_a_hit_if_the_answer_holds_the_value(answer, found):
    lab = make_lab(BOOK, answer=answer)
    *events, attempt = lab.attempt(SENTENCE, QUESTION, "", depth=30, length=256)
    assert any(isinstance(event, Piece) for event in events)
    assert isinstance(attempt, Attempt)
    assert (attempt.found, attempt.depth, attempt.length) == (found, 30, 256)
    assert attempt.answer.startswith(answer)
    assert lab.attempts == [attempt]
    assert lab.session.turns == []


def test_what_is_expected_can_be_named_and_case_does_not_count():
    lab = make_lab(BOOK, answer="THE MOON")
    assert list(lab.attempt(SENTENCE, QUESTION, " the moon ", depth=0))[-1].found


def test_a_stopped_answer_is_no_try():
    lab = make_lab(BOOK)
    for event in lab.attempt(SENTENCE, QUESTION, "", depth=0, options=Options(max_new_tokens=300)):
        if isinstance(event, Piece):
            lab.session.stop()
    assert lab.attempts == []


def test_what_cannot_be_hidden_is_refused():
    with pytest.raises(ChatError, match="no document"):
        make_lab().hide(SENTENCE, 50)
    lab = make_lab(BOOK)
    for sentence in ("", "  ", "x" * 3_000):
        with pytest.raises(ChatError, match="can be hidden"):
            lab.hide(sentence, 50)
    with pytest.raises(DoesNotFit):
        list(lab.attempt(SENTENCE, QUESTION, "", depth=0, options=Options(max_new_tokens=10_000)))
