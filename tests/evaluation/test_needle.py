import re
from itertools import pairwise

import numpy as np
import pytest
from evaluation_models import make_tokenizer

from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.engines.prefixes import common_prefix
from ultralong_hf.evaluation.haystack import Break, Haystack, build_haystack
from ultralong_hf.evaluation.needle import (
    NEEDLE_TASKS,
    PASSKEY_FILLER,
    build_sample,
    cut_text,
    even_lengths,
    is_found,
    needle_tasks,
    paper_lengths,
    passkey_tasks,
)
from ultralong_hf.evaluation.tasks import TaskContext

NEEDLE, PASSKEY = NEEDLE_TASKS["needle"], NEEDLE_TASKS["passkey"]


@pytest.fixture(scope="module")
def haystack(tokenizer, documents):
    return build_haystack(documents, tokenizer, 10**6)


@pytest.fixture(scope="module")
def filler(tokenizer):
    return build_haystack([PASSKEY_FILLER * 50], tokenizer, 10**6)


def test_the_papers_lengths():
    lengths = paper_lengths(1_048_576)
    assert len(lengths) == 40
    assert lengths[:3] == [0, 26_887, 53_773]
    assert lengths[-1] == 1_048_576


def test_even_lengths_end_at_the_longest():
    assert even_lengths(4096, 4) == [1024, 2048, 3072, 4096]
    assert even_lengths(4096, 1) == [4096]


@pytest.mark.parametrize("task", [NEEDLE, PASSKEY])
@pytest.mark.parametrize("depth", [0, 11, 50, 89, 100])
@pytest.mark.parametrize("length", [256, 700, 5_000])
def test_prompt_and_answer_fill_the_length_exactly(tokenizer, haystack, filler, task, depth, length):
    text = filler if task is PASSKEY else haystack
    for sample in range(3):
        built = build_sample(task, tokenizer, text, length=length, depth=depth, sample=sample)
        assert len(built.ids) + task.max_new_tokens == length


@pytest.mark.parametrize("style", ["plain", "chat"])
@pytest.mark.parametrize("depth", [0, 25, 50, 90, 100])
def test_the_needle_stands_at_its_depth(documents, depth, style):
    tokenizer = make_tokenizer(adds_bos=True, chat=True)
    text = build_haystack(documents, tokenizer, 10**6)
    longest_line = int(np.diff(text.breaks).max())
    for sample in range(10):
        built = build_sample(NEEDLE, tokenizer, text, length=2_000, depth=depth, sample=sample, style=style)
        prompt = tokenizer.decode(built.ids[built.details["needle_at"] :])
        assert re.match(rf"The [\w ]+ of the [\w ]+ is {built.references[0]}\.\n", prompt)
        first = 1 if style == "plain" else 2  # BOS, and the template's user token
        tail = prompt[prompt.rindex("\nWhat is") :]
        hidden = re.match(r".*\n", prompt).group()
        text_tokens = len(built.ids) - first - len(tokenizer.tokenize(tail)) - len(tokenizer.tokenize(hidden))
        assert built.details["needle_at"] == pytest.approx(
            first + depth / 100 * text_tokens, abs=longest_line / 2 + 2
        )
        if depth in (0, 100):
            assert built.details["needle_at"] == first + depth / 100 * text_tokens


def test_the_needle_follows_a_line_end_and_the_question_comes_last(tokenizer, haystack):
    built = build_sample(NEEDLE, tokenizer, haystack, length=600, depth=40, sample=0)
    prompt = tokenizer.decode(built.ids)
    statement = re.search(rf"\nThe ([\w ]+) of the ([\w ]+) is {built.references[0]}\.\n", prompt)
    assert statement is not None
    kind, place = statement.groups()
    assert prompt.endswith(f"end\n\nWhat is the {kind} of the {place}? The {kind} of the {place} is")
    assert prompt.count(built.references[0]) == 1


@pytest.mark.parametrize("depth", [0, 20, 50, 80, 100])
def test_the_needle_is_a_line_where_the_tokenizer_merges_line_ends_with_indentation(tokenizer, depth):
    code = "".join(f"    def method_{number}(self):\n        return {number}\n" for number in range(200))
    text = build_haystack([code], tokenizer, 10**6)
    assert (text.kinds == Break.LINE_END).mean() > 0.9
    for sample in range(5):
        built = build_sample(NEEDLE, tokenizer, text, length=900, depth=depth, sample=sample)
        assert len(built.ids) == 900 - NEEDLE.max_new_tokens
        lines = tokenizer.decode(built.ids).splitlines()
        found = [line for line in lines if line.endswith(f" is {built.references[0]}.")]
        assert len(found) == 1
        assert re.fullmatch(rf"The [\w ]+ of the [\w ]+ is {built.references[0]}\.", found[0])
        assert lines[-1].startswith("What is the ")


def test_passkey_has_the_classic_words(tokenizer, filler):
    built = build_sample(PASSKEY, tokenizer, filler, length=900, depth=56, sample=0)
    prompt = tokenizer.decode(built.ids)
    assert prompt.startswith("There is an important info hidden inside a lot of irrelevant text.")
    assert (
        f"\nThe pass key is {built.references[0]}. Remember it. {built.references[0]} is the pass key.\n"
        in prompt
    )
    assert prompt.endswith("\nWhat is the pass key? The pass key is")
    assert prompt.count("The grass is green. The sky is blue. The sun is yellow. Here we go.") > 3


def test_texts_without_breaks_take_the_needle_anywhere(letters):
    text = Haystack(np.full(500, 70, dtype=np.int32), np.array([0]), np.array([Break.LINE_START]))
    built = build_sample(NEEDLE, letters, text, length=1_000, depth=50, sample=0)
    assert len(built.ids) == 1_000 - NEEDLE.max_new_tokens
    assert built.details["needle_at"] == pytest.approx(400, abs=40)


def test_a_part_of_a_grid_has_the_prompts_of_the_whole(tokenizer, haystack):
    def grid(lengths, depths, samples):
        return {
            (length, depth, sample): build_sample(
                NEEDLE, tokenizer, haystack, length=length, depth=depth, sample=sample, seed=7
            ).ids.tolist()
            for length in lengths
            for depth in depths
            for sample in range(samples)
        }

    whole, part = grid([300, 600], [0, 50], 3), grid([600], [50], 2)
    assert len(part) == 2
    assert part == {key: whole[key] for key in part}
    assert len(set(map(tuple, whole.values()))) == 12


@pytest.mark.parametrize("task", [NEEDLE, PASSKEY])
def test_one_sample_reads_one_text_at_every_length_and_depth(tokenizer, haystack, filler, task):
    """What stands before the needle is the same: an engine computes it once."""
    text = filler if task is PASSKEY else haystack

    def built(length, depth, sample):
        return build_sample(task, tokenizer, text, length=length, depth=depth, sample=sample)

    longest = built(3_000, 100, 0)
    for length in (600, 1_000, 3_000):
        for depth in (20, 50, 80, 100):
            prompt = built(length, depth, 0)
            # The last line lacks its beginning: only there may texts differ.
            shared = prompt.details["needle_at"] - (200 if depth == 100 else 0)
            assert shared > 10
            assert prompt.ids[:shared].tolist() == longest.ids[:shared].tolist()
    if task is NEEDLE:
        other = built(3_000, 50, 1)
        assert other.ids[:200].tolist() != longest.ids[:200].tolist()


def test_prompts_are_asked_in_the_order_that_shares_most(tokenizer, documents):
    context = TaskContext(
        tokenizer=tokenizer, style="plain", lengths=[300, 900], depths=[0, 50, 100], haystack=documents
    )
    (grid,) = needle_tasks(None, context)
    keys = list(grid.keys([300, 900], 2))
    assert len(keys) == len(set(keys)) == 12
    assert keys[:6] == [
        ("needle", n, d, 0) for n, d in [(900, 100), (900, 50), (300, 100), (300, 50), (900, 0), (300, 0)]
    ]
    prompts = [grid.build(key) for key in keys[:5]]
    for earlier, later in pairwise(prompts):
        at = later.details["needle_at"]
        assert common_prefix(earlier.ids, later.ids) >= at - (40 if later.depth == 100 else 0)


def test_a_prompt_of_four_million_tokens_is_an_array(tokenizer):
    """int32: 16 MiB, not 128 as a list of Python's numbers."""
    context = TaskContext(tokenizer=tokenizer, style="plain", lengths=[4_194_304], depths=[50])
    (grid,) = passkey_tasks(None, context)
    built = grid.build(("passkey", 4_194_304, 50.0, 0))
    assert len(built.ids) + PASSKEY.max_new_tokens == 4_194_304
    assert built.ids.dtype == np.int32
    at = built.details["needle_at"]
    assert at == pytest.approx(2_097_152, abs=200)
    assert tokenizer.decode(built.ids[at : at + 60]).startswith(f"\nThe pass key is {built.references[0]}.")


@pytest.mark.parametrize("tokens", range(1, 40))
def test_a_cut_text_fills_its_tokens_and_ends_with_a_line(letters, tokens):
    text = build_haystack(["one\ntwo three\nfour\n\nfive six seven\n"], letters, 100)
    cut = cut_text(text, 4, tokens)
    whole = letters.decode(text.window(4 + 80, 80))
    found = letters.decode(cut.ids)
    assert len(cut.ids) == tokens
    assert found.endswith("\n")
    assert whole.startswith(found[: cut.seam - 4])
    end = next(at for at in range(tokens, 80) if whole[at - 1] == "\n" != whole[at])
    lines = whole[:end]
    assert lines.endswith(found[cut.seam - 4 :])


def test_seeds_give_other_prompts(tokenizer, haystack):
    first, second = (
        build_sample(NEEDLE, tokenizer, haystack, length=600, depth=50, sample=0, seed=seed)
        for seed in (0, 1)
    )
    assert first.references != second.references


def test_length_zero_is_the_shortest_prompt(tokenizer, haystack):
    built = build_sample(NEEDLE, tokenizer, haystack, length=0, depth=50, sample=0)
    assert re.fullmatch(
        rf"(The [\w ]+ is) {built.references[0]}\.\n\nWhat is [\w ]+\? \1", tokenizer.decode(built.ids)
    )


def test_lengths_that_no_prompt_fits_are_an_error(tokenizer, haystack):
    with pytest.raises(EvaluationError, match=r"40 tokens are too few for the task 'needle'"):
        build_sample(NEEDLE, tokenizer, haystack, length=40, depth=0, sample=0)
    shortest = build_sample(NEEDLE, tokenizer, haystack, length=40, depth=0, sample=0, clamp_short=True)
    assert len(shortest.ids) > 40


def test_every_length_from_the_shortest_prompt_on_is_exact(tokenizer, haystack):
    exact = 0
    for length in range(60, 260):
        try:
            built = build_sample(NEEDLE, tokenizer, haystack, length=length, depth=50, sample=0)
        except EvaluationError:
            assert exact == 0 or length < 200  # needles differ in length, so the limit is not one number
            continue
        assert len(built.ids) + NEEDLE.max_new_tokens == length
        exact += 1
    assert exact > 60


@pytest.mark.parametrize(
    ("expected", "answer", "found"),
    [
        ("40713", " 40713.", True),
        ("40713", "The code is 40713 and no other", True),
        ("40713", " 4071 3", False),
        ("40713", "", False),
        ("abc-D", "it is ABC-d", True),
    ],
)
def test_found_means_the_value_stands_in_the_answer(expected, answer, found):
    assert is_found(expected, answer) is found
