"""Needle tasks: what their texts hold, read back from the prompts' ids."""

from __future__ import annotations

import re

import pytest
from ruler_prompts import ESSAYS, make_prompt, parts_of, shared_task

from ultralong_hf.evaluation.ruler.definitions import DEPTHS, NOISE, TASKS, Niah
from ultralong_hf.evaluation.ruler.essays import split_sentences
from ultralong_hf.evaluation.ruler.niah import Question
from ultralong_hf.evaluation.ruler.pieces import Layout
from ultralong_hf.evaluation.ruler.words import word_lists

NIAH = [name for name, arguments in TASKS.items() if isinstance(arguments, Niah)]
ESSAY = [name for name in NIAH if TASKS[name].haystack == "essay"]
LINES = [name for name in NIAH if TASKS[name].haystack != "essay"]
STATEMENT = re.compile(r"One of the special magic (\w+) for (\S+(?: \S+)*?) is: ([\w-]+)\.")
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


def _is_of_kind(kind: str, text: str) -> bool:
    if kind == "words":
        nouns, adjectives, _ = map(set, word_lists())
        parts = text.split("-")
        splits = (("-".join(parts[:at]), "-".join(parts[at:])) for at in range(1, len(parts)))
        return any(first in adjectives and second in nouns for first, second in splits)
    return re.fullmatch({"numbers": r"[1-9]\d{6}", "uuids": UUID}[kind], text) is not None


def _needles(name: str, sample: int = 0) -> list[tuple[str, str, str]]:
    """(kind of value, key, value) of each needle with a key of the question's, in their order."""
    prompt = make_prompt(name, sample=sample)
    _, context, _ = parts_of(name, prompt)
    return [found for found in STATEMENT.findall(context) if found[1] in prompt.details["keys"]]


@pytest.mark.parametrize("name", NIAH)
def test_text_holds_each_needle_once(name):
    arguments = TASKS[name]
    for sample in range(3):
        needles = _needles(name, sample)
        assert len(needles) == arguments.num_keys * arguments.num_values
        assert len({key for _, key, _ in needles}) == arguments.num_keys
        assert len({value for _, _, value in needles}) == len(needles)
        assert {kind for kind, _, _ in needles} == {arguments.values}


@pytest.mark.parametrize("name", NIAH)
def test_keys_and_values_are_of_their_kinds(name):
    for _, key, value in _needles(name):
        assert _is_of_kind(TASKS[name].keys, key)
        assert _is_of_kind(TASKS[name].values, value)


@pytest.mark.parametrize("name", NIAH)
def test_question_asks_as_many_keys_as_told_and_references_are_their_values(name):
    arguments, prompt = TASKS[name], make_prompt(name)
    _, _, behind = parts_of(name, prompt)
    [(values, query)] = re.findall(
        r"the special magic (\w+) for (.+) mentioned in the provided text\?", behind
    )
    asked = query.replace(", and ", ", ").split(", ")
    assert len(asked) == arguments.num_queries
    found = [(key, value) for _, key, value in _needles(name)]
    expected = {value for key, value in found if key in asked}
    assert set(prompt.references) == expected
    assert len(prompt.references) == arguments.num_queries * arguments.num_values
    one = len(prompt.references) == 1
    assert values == (arguments.values[:-1] if one else arguments.values)
    assert behind.endswith(f"{query} mentioned in the provided text {'is' if one else 'are'}")


def test_queries_are_listed_with_an_and_before_the_last():
    prompt = make_prompt("niah_multiquery")
    _, _, behind = parts_of("niah_multiquery", prompt)
    assert re.search(r"for [\w -]+, [\w -]+, [\w -]+, and [\w -]+ mentioned", behind)


def test_references_follow_the_order_of_the_queries():
    import numpy as np

    question = Question.draw(TASKS["niah_multiquery"], np.random.default_rng(5))
    by_key = dict(re.findall(r"for (.+) is: (\d+)\.", "\n".join(question.needles)))
    asked = question.query.replace(", and ", ", ").split(", ")
    assert [by_key[key] for key in asked] == list(question.references)


@pytest.mark.parametrize("name", LINES)
def test_needle_is_a_line_before_the_line_that_the_record_tells(name):
    prompt = make_prompt(name)
    _, context, _ = parts_of(name, prompt)
    lines = context.removesuffix("\n").split("\n")
    units, places = prompt.details["units"], prompt.details["needles_at"]
    assert len(lines) == units + len(places)
    found = [index for index, line in enumerate(lines) if prompt.references[0] in line]
    assert found == [place + before for before, place in enumerate(places)]
    assert all(0 <= place < units for place in places)


def test_noise_is_one_sentence_again_and_again():
    _, context, _ = parts_of("niah_single_1", make_prompt("niah_single_1"))
    assert {line for line in context.removesuffix("\n").split("\n") if "magic" not in line} == {NOISE}


@pytest.mark.parametrize("name", ["niah_multikey_2", "niah_multikey_3"])
def test_distractors_have_other_keys_and_values(name):
    prompt = make_prompt(name)
    _, context, _ = parts_of(name, prompt)
    found = STATEMENT.findall(context)
    assert len(found) == prompt.details["units"] + 1
    assert [value for _, _, value in found].count(prompt.references[0]) == 1
    assert [key for _, key, _ in found].count(prompt.details["keys"][0]) == 1
    assert len({key for _, key, _ in found}) > 0.99 * len(found)


@pytest.mark.parametrize("name", ESSAY)
def test_essay_is_the_beginning_of_the_text_with_needles_at_some_of_the_forty_depths(name):
    for sample in range(3):
        prompt = make_prompt(name, sample=sample)
        _, context, _ = parts_of(name, prompt)
        depths = prompt.details["depths"]
        assert set(depths) <= set(DEPTHS)
        assert len(set(depths)) == TASKS[name].num_keys * TASKS[name].num_values
        pieces = STATEMENT.split(context.removesuffix("\n"))[::4]  # the text between needles
        between = [piece.strip().removesuffix(".").strip() for piece in pieces]
        sentences = [len(split_sentences(piece)) for piece in between]
        total = sum(sentences)
        expected = [int(total * (depth / 100)) for depth in depths]
        assert [sum(sentences[: index + 1]) for index in range(len(depths))] == expected
        text = " ".join(piece.strip() for piece in pieces if piece.strip())
        assert len(text.split(" ")) == prompt.details["units"]
        assert " ".join("".join(ESSAYS).split()).startswith(text)


def test_essays_begin_again_at_their_end_and_the_prompt_says_so():
    tokens = shared_task("niah_single_2").workshop.essays.tokens
    prompt = shared_task("niah_single_2").maker.make(2 * tokens, 0)
    _, context, _ = parts_of("niah_single_2", prompt)
    assert context.count("The old keeper number 0 ") == 2
    assert [note for note in prompt.notes if note.startswith("repeated text")]


@pytest.mark.parametrize("name", ["niah_multikey_2", "niah_multikey_3"])
def test_no_distractor_has_an_asked_key_or_value_even_where_all_of_them_are(name):
    generator = shared_task(name).maker.generator
    lines = generator._distractors.draw(4000, 1, [], [])
    texts = Layout(lines.tables, lines.rows.ravel()).text()
    [first, *_] = found = [(key, value) for _, key, value in STATEMENT.findall(texts)]
    fewer = generator._distractors.draw(4000, 1, [first[0]], [found[1][1]])
    kept = [
        (key, value) for _, key, value in STATEMENT.findall(Layout(fewer.tables, fewer.rows.ravel()).text())
    ]
    assert kept == [(key, value) for key, value in found if key != first[0] and value != found[1][1]]
    assert len(kept) == len(found) - 2


def test_values_of_distractors_differ_and_their_order_is_the_samples_own():
    generator = shared_task("niah_multikey_2").maker.generator
    drawn = [generator._distractors.draw(4000, seed, [], []) for seed in (1, 2)]
    values = [
        [value for _, _, value in STATEMENT.findall(Layout(lines.tables, lines.rows.ravel()).text())]
        for lines in drawn
    ]
    assert all(len(set(row)) == len(row) > 100 for row in values)
    assert values[0] != values[1]
