"""Common and frequent words: how often each word stands, read back from the prompts' ids."""

from __future__ import annotations

import itertools
import re
from collections import Counter

import numpy as np
import pytest
from ruler_prompts import make_prompt, make_task, parts_of, shared_task

from ultralong_hf.evaluation.ruler.definitions import CommonWords
from ultralong_hf.evaluation.ruler.frequent import word_counts, zeta
from ultralong_hf.evaluation.ruler.words import all_words, compound_words, draw, draw_different, word_lists


def _listed(text: str) -> list[tuple[int, str]]:
    """(number, word) of a numbered list."""
    found = re.findall(r"(\d+)\. (.+?)(?= \d+\. |$)", text.strip())
    return [(int(number), word) for number, word in found]


@pytest.mark.parametrize(("length", "repeats"), [(2048, (6, 1)), (16_384, (30, 3))])
def test_ten_words_stand_more_often_than_all_others(length, repeats):
    prompt = make_prompt("cwe", length)
    _, context, _ = parts_of("cwe", prompt)
    entries = _listed(context)
    assert [number for number, _ in entries] == list(range(1, len(entries) + 1))
    counts = Counter(word for _, word in entries)
    assert Counter(counts.values()) == {repeats[0]: 10, repeats[1]: prompt.details["units"] - 10}
    assert {word for word, count in counts.items() if count == repeats[0]} == set(prompt.references)
    assert set(counts) <= set(all_words())


@pytest.mark.parametrize(("length", "example"), [(2048, (20, 3, 1)), (16_384, (40, 10, 3))])
def test_example_list_stands_before_with_its_answer(length, example):
    before, _, _ = parts_of("cwe", make_prompt("cwe", length))
    shown, rest = before.split(f"\n{CommonWords.after} {CommonWords.answer_prefix} ")
    answer, question = rest.split("\n", 1)
    assert question == CommonWords.before
    words, common, uncommon = example
    counts = Counter(word for _, word in _listed(shown.removeprefix(CommonWords.before)))
    assert Counter(counts.values()) == {common: 10, uncommon: words - 10}
    assert [word for _, word in _listed(answer)] == [
        word for word in dict.fromkeys(word for _, word in _listed(answer)) if counts[word] == common
    ]
    assert len(_listed(answer)) == 10


def test_common_words_of_two_samples_differ():
    assert make_prompt("cwe", sample=0).references != make_prompt("cwe", sample=1).references


def test_compounds_stand_in_where_the_words_run_out_and_the_prompt_says_so(monkeypatch):
    from ultralong_hf.evaluation.ruler import common

    monkeypatch.setattr(common, "all_words", lambda: all_words()[::40])
    prompt = make_task("cwe").maker.make(16_384, 0)
    _, context, _ = parts_of("cwe", prompt)
    assert set(prompt.references) <= set(compound_words(16_384))
    assert Counter(Counter(word for _, word in _listed(context)).values())[30] == 10
    assert any("english_words.json" in note for note in prompt.notes)


@pytest.mark.parametrize("length", [1024, 16_384])
def test_counts_of_coded_words_follow_the_zeta_distribution(length):
    prompt = make_prompt("fwe", length)
    _, context, _ = parts_of("fwe", prompt)
    counts = Counter(context.split())
    ranked = [count for _, count in counts.most_common()]
    units = prompt.details["units"]
    expected = [int(units * rank**-2.0 / (np.pi**2 / 6)) for rank in range(1, len(ranked) + 1)]
    assert ranked == expected
    assert len(ranked) <= length // 50
    assert counts.most_common(1)[0][0] == "..."
    assert all(re.fullmatch(r"[a-z]{6}", word) for word in counts if word != "...")


def test_references_are_the_three_most_frequent_coded_words():
    for length, sample in itertools.product((512, 16_384), range(3)):
        prompt = make_prompt("fwe", length, sample)
        _, context, _ = parts_of("fwe", prompt)
        ranked = Counter(context.split()).most_common(5)
        assert {word for word, _ in ranked[1:4]} == set(prompt.references)
        assert len(ranked) < 5 or ranked[3][1] > ranked[4][1]


@pytest.mark.parametrize("alpha", [1.1, 1.5, 2.0, 3.5])
def test_zeta_is_scipys(alpha):
    special = pytest.importorskip("scipy.special")
    assert zeta(alpha) == pytest.approx(float(special.zeta(alpha)), rel=1e-12)


def test_word_counts_are_rounded_down():
    assert word_counts(100, 4, 2.0).tolist() == [60, 15, 6, 3]


@pytest.mark.parametrize("kind", ["words", "numbers", "uuids"])
def test_drawn_values_differ_where_they_must(kind):
    rng = np.random.default_rng(0)
    assert len(set(draw_different(kind, rng, 500))) == 500
    assert draw(kind, np.random.default_rng(1), 5) == draw(kind, np.random.default_rng(1), 5)


def test_compounds_are_an_adjective_and_a_noun_and_longer_lists_begin_alike():
    nouns, adjectives, _ = word_lists()
    few, more = compound_words(50), compound_words(5000)
    assert more[:50] == few
    assert len(set(more)) == 5000
    of_one = [word for word in more if word.startswith(f"{adjectives[100]}-")]
    assert of_one
    assert set(of_one) <= {f"{adjectives[100]}-{noun}" for noun in nouns}


def test_words_are_those_of_wonderwords():
    from wonderwords import RandomWord

    words = RandomWord()
    for ours, kind in zip(word_lists(), ("noun", "adjective", "verb"), strict=True):
        assert ours == sorted(set(words.filter(include_categories=[kind])))
        assert len(ours) > 900


def test_list_numbers_are_tokenized_once_for_all_samples():
    generator = shared_task("cwe").maker.generator
    first = generator._numbers(16_384)
    assert generator._numbers(8192) is first
