"""Variable tracking: the chain, its example and the noise, read back from the prompts' ids."""

from __future__ import annotations

import re

import numpy as np
import pytest
from ruler_prompts import budget_of, make_prompt, make_task, parts_of, shared_task

from ultralong_hf.evaluation.ruler.definitions import NOISE, VariableTracking
from ultralong_hf.evaluation.ruler.tracking import Chains, TrackingGenerator, place_statements

ASSIGNMENT = re.compile(r"VAR ([A-Z]+) = (VAR [A-Z]+|\d+)")


def _parts(length: int = 8192, sample: int = 0) -> tuple[str, str, str, tuple[str, ...], dict]:
    prompt = make_prompt("vt", length, sample)
    before, context, behind = parts_of("vt", prompt)
    return before, context, behind, prompt.references, dict(prompt.details)


def test_chain_has_four_hops_and_each_variable_takes_the_one_before():
    for sample in range(4):
        _, context, behind, references, details = _parts(sample=sample)
        assignments = ASSIGNMENT.findall(context)
        assert [name for name, _ in assignments] == list(references)
        assert len(references) == 5
        assert len(set(references)) == 5
        assert all(re.fullmatch(r"[A-Z]{5}", name) for name in references)
        values = [value for _, value in assignments]
        assert values == [details["value"], *(f"VAR {name}" for name in references[:-1])]
        assert 10_000 <= int(details["value"]) < 99_999
        assert f"assigned the value {details['value']} in the text above." in behind
        assert behind.endswith(f"5 variables are assgined the value {details['value']}, they are:")


def test_rest_of_the_text_is_noise_joined_by_blanks():
    _, context, _, _, details = _parts()
    lines = re.sub(r"VAR [A-Z]+ = \d+ |VAR [A-Z]+ = VAR [A-Z]+  ", "", context)
    assert lines == " ".join([f"{NOISE}\n"] * details["units"]) + "\n"


def test_statement_stands_before_the_noise_that_its_depth_tells():
    _, context, _, _, details = _parts()
    before = [context[: found.start()].count(NOISE) for found in ASSIGNMENT.finditer(context)]
    assert [round(100 * noise / details["units"], 2) for noise in before] == details["depths"]
    assert before == sorted(before)
    assert len(set(before)) == 5


def test_example_stands_before_with_its_answer_and_names_of_three_letters():
    before, _, _, references, _ = _parts()
    example, question = before.split("\n\n\n\n")
    assert question == VariableTracking.before
    assignments = ASSIGNMENT.findall(example)
    names = [name for name, _ in assignments]
    assert all(re.fullmatch(r"[A-Z]{3}", name) for name in names)
    assert example.endswith(f"they are: {' '.join(names)}")
    assert example.startswith(VariableTracking.before)
    assert not set(names) & set(references)


def test_example_is_the_same_in_all_but_its_names():
    examples = [_parts(sample=sample)[0] for sample in range(3)]
    assert len(set(examples)) == 3
    assert len({re.sub(r"\b[A-Z]{3}\b", "X", example) for example in examples}) == 1


def test_example_with_its_answers_budget_is_the_largest_that_500_tokens_hold():
    encoder = shared_task("vt").workshop.encoder
    generator = TrackingGenerator(VariableTracking(), encoder, seed=0)
    units = generator._example_units
    names = np.random.default_rng(0)
    assert units % 5 == 0
    assert encoder.count(generator._example(units + 5, names)) > 500 - budget_of("vt")


@pytest.mark.parametrize("units", [1, 5])
def test_little_noise_is_taken_apart_into_its_sentences(units):
    draft = shared_task("vt").maker.generator.draw(1024, 0, 7)
    text = draft.layout(units).text()
    assignments = ASSIGNMENT.findall(text)
    assert [name for name, _ in assignments] == list(draft.references)
    bare = re.sub(r"VAR [A-Z]+ = \d+|VAR [A-Z]+ = VAR [A-Z]+", "", text)
    assert bare.split() == (f"{NOISE} " * units).split()
    assert ". \n" not in text


def test_statements_of_a_second_chain_stand_among_the_first():
    rng = np.random.default_rng(3)
    order = place_statements(20, [5, 5], rng)
    assert len(order) == 30
    assert order[order >= 0][order[order >= 0] < 5].tolist() == list(range(5))
    assert order[order >= 5].tolist() == list(range(5, 10))


def test_statements_are_worded_as_nvidias():
    chains = Chains((("AB", "CD", "EF"),), ("12345",))
    assert chains.statements() == [["VAR AB = 12345", "VAR CD = VAR AB ", "VAR EF = VAR CD "]]


def test_example_depends_on_the_runs_seed():
    one, other = (make_task("vt", seed=seed).maker.make(8192, 0).frame.before for seed in (1, 2))
    values = [re.findall(r"= (\d+)", text)[0] for text in (one, other)]
    assert values[0] != values[1]
