from __future__ import annotations

from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ultralong_hf.data.filtering import words as module
from ultralong_hf.data.filtering.words import hash_ngrams, hash_words, split_words

TEXTS = st.lists(st.text(alphabet="aB9é \n.,_-’日本\U00020000\ud800ा", max_size=40), max_size=5)


def ngrams_of(text: str, n: int) -> list[tuple[str, ...]]:
    words = split_words(text)
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't  STOP, now!", ["don", "t", "stop", "now"]),
        ("snake_case x86-64 3.14", ["snake", "case", "x86", "64", "3", "14"]),
        ("Straße ΣΑΣ İstanbul", ["straße", "σασ", "istanbul"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("東京は大きい。ok", ["東", "京", "は", "大", "き", "い", "ok"]),
        (" .,;\n", []),
        ("", []),
    ],
)
def test_splits_words_without_case_and_punctuation(text, words):
    assert split_words(text) == words


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_equal_hashes_are_equal_words_at_the_same_places(texts):
    found = hash_words(texts)
    expected = [split_words(text) for text in texts]
    assert np.diff(found.bounds).tolist() == [len(words) for words in expected]
    pairs = set(zip(chain.from_iterable(expected), found.hashes.tolist(), strict=True))
    assert len(pairs) == len({word for word, _ in pairs}) == len({number for _, number in pairs})
    for index, text in enumerate(texts):
        starts = found.starts[found.bounds[index] : found.bounds[index + 1]].tolist()
        pieces = [text[a:b] for a, b in pairwise([*starts, len(text)])]
        assert [split_words(piece) for piece in pieces] == [[word] for word in expected[index]]


@settings(max_examples=100, deadline=None)
@given(TEXTS, st.integers(1, 4))
def test_ngrams_stay_within_a_text(texts, n):
    found = hash_words(texts)
    hashes, first_words = hash_ngrams(found, n)
    expected = [ngram for text in texts for ngram in ngrams_of(text, n)]
    assert len(hashes) == len(expected)
    pairs = set(zip(expected, hashes.tolist(), strict=True))
    assert len(pairs) == len({ngram for ngram, _ in pairs}) == len({number for _, number in pairs})
    words = [word for text in texts for word in split_words(text)]
    assert [words[i] for i in first_words] == [ngram[0] for ngram in expected]


def test_a_text_longer_than_a_block_has_the_same_words(monkeypatch):
    text = " ".join(f"word{n}, 語" for n in range(300))
    whole = hash_words(["x", text, "", "y z"])
    monkeypatch.setattr(module, "_BLOCK_CHARACTERS", 50)
    cut = hash_words(["x", text, "", "y z"])
    assert len(cut.hashes) == 1 + 600 + 2
    assert all(np.array_equal(one, other) for one, other in zip(whole, cut, strict=True))


def test_hashes_do_not_depend_on_what_else_is_in_the_batch():
    alone = hash_words(["one two"])
    among = hash_words(["zero zero zero", "one two", "three"])
    assert among.hashes[3:5].tolist() == alone.hashes.tolist()
