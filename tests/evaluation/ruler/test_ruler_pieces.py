"""Ids laid out of pieces are those that the tokenizer gives the whole text."""

from __future__ import annotations

import numpy as np
import pytest
from ruler_prompts import make_prompt, make_task, tasks_of_kind
from tiny_tokenizers import KINDS, ids_of, tokenizer_of_kind

from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.ruler.building import PromptMaker
from ultralong_hf.evaluation.ruler.definitions import TASKS
from ultralong_hf.evaluation.ruler.pieces import Layout, PieceEncoder

LENGTH = 6500
QUICK = ("GPT-2", "Llama 3", "Llama 2", "Unigram", "WordPiece")
JOIN_ACROSS_WORDS = ("Llama 2", "Mistral", "Gemma", "no words")
"""These small ones were trained without a split into words; the models' own, by SentencePiece, with one."""


@pytest.fixture
def layouts(monkeypatch) -> list[tuple[bool, str]]:
    """(whether the pieces' ids were used, the context's text) of each prompt that is made."""
    seen: list[tuple[bool, str]] = []
    original = PieceEncoder.agrees

    def agrees(self: PieceEncoder, layout: Layout, rng: np.random.Generator) -> bool:
        found = original(self, layout, rng)
        seen.append((found, layout.text()))
        return found

    monkeypatch.setattr(PieceEncoder, "agrees", agrees)
    return seen


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize(
    "kind", [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
def test_prompt_has_the_ids_of_its_whole_text(kind, name, layouts):
    if name == "fwe" and kind in JOIN_ACROSS_WORDS:
        pytest.skip("its context begins within a line, and these join a stop with the next word")
    prompt = tasks_of_kind(kind)[name].maker.make(LENGTH, 0)
    by_pieces, context = layouts[-1]
    text = prompt.frame.before + context + prompt.frame.after + prompt.frame.answer_prefix
    tokenizer = tokenizer_of_kind(kind)
    expected = ids_of(text, tokenizer)
    if tokenizer("a").input_ids[0] == tokenizer.bos_token_id:
        expected = [tokenizer.bos_token_id, *expected]
    assert prompt.ids.tolist() == expected
    assert by_pieces or kind in JOIN_ACROSS_WORDS


@pytest.mark.parametrize("name", TASKS)
def test_decoded_prompt_is_tokenized_to_the_same_ids(name):
    prompt = make_prompt(name)
    tokenizer = tokenizer_of_kind("Llama 3")
    text = tokenizer.decode(prompt.ids, clean_up_tokenization_spaces=False)
    assert ids_of(text, tokenizer) == prompt.ids.tolist()


def test_layout_puts_pieces_of_several_tables_in_order():
    encoder = PieceEncoder(tokenizer_of_kind("Llama 3"))
    words, ends = encoder.encode([" one", " two"]), encoder.encode(["three\n"])
    layout = Layout((words, ends), np.array([1, 0, 2, 1]))
    assert layout.text() == " two onethree\n two"
    one, two = encoder.encode([" one"]), encoder.encode([" two"])
    parts = [two, one, ends, two]
    assert layout.ids().tolist() == [token for part in parts for token in part.ids.tolist()]
    assert layout.tokens == len(layout.ids())
    assert layout.part(1, 3).text() == " onethree\n"


def test_pieces_that_do_not_stand_alone_are_seen():
    """ "th" and "e" are one word, whichever pieces it comes in."""
    encoder = PieceEncoder(tokenizer_of_kind("GPT-2"))
    table = encoder.encode([" import", " retu", "rn"])
    rng = np.random.default_rng(0)
    assert encoder.agrees(Layout((table,), np.array([0, 0, 0])), rng)
    assert not encoder.agrees(Layout((table,), np.array([0, 1, 2])), rng)


def test_prompt_falls_back_on_the_whole_text_and_still_fits(monkeypatch):
    monkeypatch.setattr(PieceEncoder, "agrees", lambda *_: False)
    whole = make_task("niah_multikey_2").maker.make(LENGTH, 0)
    monkeypatch.undo()
    assert whole.ids.tolist() == make_prompt("niah_multikey_2", LENGTH).ids.tolist()


def test_tokenizer_that_joins_across_pieces_gets_a_prompt_that_fits():
    for name in ("niah_single_2", "vt", "cwe", "fwe"):
        maker: PromptMaker = make_task(name, kind="no words", lengths=(LENGTH,)).maker
        prompt = maker.make(LENGTH, 1)
        room = LENGTH - TASKS[name].answer_tokens
        assert 0.8 * room < len(prompt.ids) <= room


def test_slow_tokenizer_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(EvaluationError, match="load the fast"):
        PieceEncoder(Slow())
