import random
import re

import pytest

from ultralong_hf.errors import MachineError
from ultralong_hf.lab import corpus
from ultralong_hf.lab.facts import PLACES, Fact, draw_facts

STATEMENT = re.compile(r"The ([a-z]+ [a-z]+) of the ([a-z]+ [a-z]+) is (\d{5})\.")


def test_fact_speaks_in_three_sentences():
    fact = Fact("access code", "upper harbour", "40713")
    assert fact.statement == "The access code of the upper harbour is 40713."
    assert fact.question == "What is the access code of the upper harbour?"
    assert fact.answer_prefix == "The access code of the upper harbour is"


def test_facts_of_one_draw_are_about_different_places():
    facts = draw_facts(random.Random(0), len(PLACES))
    assert {fact.place.split()[1] for fact in facts} == set(PLACES)
    assert all(10_000 <= int(fact.value) < 100_000 for fact in facts)


def test_held_out_documents_are_about_one_in_twenty_and_never_trained_on():
    held_out, training = set(corpus.held_out_documents()), set(corpus.real_training_documents())
    assert len(held_out) > 20
    assert 0.02 < len(held_out) / (len(held_out) + len(training)) < 0.08
    # files of equal text, such as two empty packages with one comment, may lie on either side
    assert len(held_out & training) <= 3


def test_split_hangs_on_the_path_alone():
    assert [corpus.is_held_out(name) for name in ("abc.py", "json/decoder.py")] == [
        corpus.is_held_out(name) for name in ("abc.py", "json/decoder.py")
    ]
    assert sum(corpus.is_held_out(f"{n}.py") for n in range(2000)) in range(60, 140)


def test_training_documents_depend_on_the_seed_alone():
    once, again, other = (list(corpus.training_documents(256, seed)) for seed in (0, 0, 1))
    assert once == again
    assert once != other
    tokens = sum(len(corpus.shipped_tokenizer().encode(text)) + corpus.SEPARATOR_TOKENS for text in once)
    assert corpus.TRAINING_ROWS * 256 <= tokens < (corpus.TRAINING_ROWS + 2) * 256


def test_every_fact_of_a_document_is_said_again_after_it():
    rng = random.Random(3)
    for _ in range(5):
        text = corpus.fact_document(rng, corpus.Filler(rng), 12_000)
        seen: dict[tuple[str, str], str] = {}
        again = questions = 0
        for line in text.splitlines():
            if not (match := STATEMENT.search(line)):
                continue
            key = match.group(1), match.group(2)
            if key in seen:
                assert seen[key] == match.group(3)
                again += 1
                questions += line.startswith(f"What is the {key[0]} of the {key[1]}? The ")
            seen[key] = match.group(3)
        assert len(seen) == again == 12_000 // corpus.CHARACTERS_A_FACT
        assert 0.25 < questions / again < 0.75
        assert abs(len(text) - 12_000) < 400


def test_conversation_answers_from_its_own_text():
    rng = random.Random(5)
    for _ in range(20):
        messages = corpus.conversation(rng, corpus.Filler(rng), 500)["messages"]
        assert [m["role"] for m in messages] == ["user", "assistant"] * (len(messages) // 2)
        assert messages
        for question, answer in zip(messages[::2], messages[1::2], strict=True):
            kind, place, _ = STATEMENT.fullmatch(answer["content"]).groups()
            assert question["content"].endswith(f"What is the {kind} of the {place}?")
            assert answer["content"] in messages[0]["content"]


def test_filler_gives_consecutive_lines_up_to_the_size():
    lines = corpus.Filler(random.Random(0)).lines(500)
    assert 0 < sum(len(line) + 1 for line in lines) <= 500


def test_a_python_without_its_library_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus.sysconfig, "get_path", lambda name: str(tmp_path))
    corpus._library_files.cache_clear()
    try:
        with pytest.raises(MachineError, match="holds 0 readable Python files"):
            list(corpus.held_out_documents())
    finally:
        corpus._library_files.cache_clear()
