from __future__ import annotations

import random

import numpy as np
import pytest
from datasketch import MinHash

from ultralong_hf.data.filtering import duplicates
from ultralong_hf.data.filtering.duplicates import (
    PERMUTATIONS,
    band_width,
    digest_texts,
    estimate_similarity,
    find_exact_repeats,
    find_near_repeats,
    sign_words,
)
from ultralong_hf.data.filtering.words import hash_ngrams, hash_words, split_words


def everything(count: int) -> np.ndarray:
    return np.ones(count, bool)


def sign(texts: list[str]) -> np.ndarray:
    return sign_words(hash_words(texts))


def runs_of(text: str) -> set[tuple[str, ...]]:
    words = split_words(text)
    return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}


def jaccard(one: str, other: str) -> float:
    return len(runs_of(one) & runs_of(other)) / len(runs_of(one) | runs_of(other))


def make_text(seed: int, words: int = 400) -> list[str]:
    choose = random.Random(seed)
    return [f"w{choose.randrange(5000)}" for _ in range(words)]


def change(words: list[str], share: float, seed: int) -> list[str]:
    choose = random.Random(seed)
    return [f"v{choose.randrange(5000)}" if choose.random() < share else word for word in words]


def test_the_first_of_equal_texts_is_the_original_of_all():
    digests = digest_texts(["a", "b", "a", "", "b", "a", ""])
    assert find_exact_repeats(digests, everything(7)).tolist() == [0, 1, 0, 3, 1, 0, 3]


def test_a_document_that_is_left_out_already_makes_no_other_an_exact_repeat():
    digests = digest_texts(["a", "a", "a"])
    eligible = np.array([False, True, True])
    assert find_exact_repeats(digests, eligible).tolist() == [0, 1, 1]


def test_digests_are_sixteen_bytes_of_blake2b():
    """As `printf text | b2sum -l 128` has them."""
    digests = digest_texts(["text", ""])
    assert digests.shape == (2, 2)
    assert digests[0].tobytes().hex() == "d732c6be860e019351f99173fa6ae612"


def test_no_documents_make_no_repeats():
    nothing = everything(0)
    assert find_exact_repeats(digest_texts([]), nothing).tolist() == []
    assert find_near_repeats(sign([]), nothing, threshold=0.8).original.tolist() == []


def test_signatures_are_the_lowest_bytes_of_datasketchs_own():
    text = " ".join(make_text(1, words=700))  # more runs than are permuted at once
    runs, _ = hash_ngrams(hash_words([text]), 5)
    theirs = MinHash(PERMUTATIONS, seed=1, hashfunc=int)
    theirs.update_batch((runs >> np.uint64(32)).tolist())
    assert sign(["other words", text])[1].tolist() == (theirs.hashvalues & 255).tolist()


def test_case_punctuation_and_white_space_make_no_difference():
    first, second = sign(["The cat sat on the mat, again.", "the CAT sat -- on the\n\nmat again"])
    assert first.tolist() == second.tolist()


def test_texts_shorter_than_a_run_are_compared_whole():
    signatures = sign(["Read me!", "read me", "read it", "?!"])
    assert find_near_repeats(signatures, everything(4), threshold=0.8).original.tolist() == [0, 0, 2, 3]


def test_texts_without_words_repeat_nothing():
    assert find_near_repeats(sign(["...", "...", ""]), everything(3), threshold=0.3).original.tolist() == [
        0,
        1,
        2,
    ]


def test_estimates_lie_near_the_jaccard_similarity():
    base = make_text(2, words=2000)
    texts = [" ".join(change(base, share, seed=3)) for share in (0, 0.01, 0.03, 0.08, 0.2)]
    signatures = sign(texts)
    exact = np.array([jaccard(texts[0], text) for text in texts])
    assert exact.max() - exact.min() > 0.7
    # five standard deviations of a mean of 128 draws, at their widest
    assert estimate_similarity(signatures[:1], signatures) == pytest.approx(exact, abs=5 * 0.5 / 128**0.5)


def test_likeness_is_passed_on_to_the_first():
    a = make_text(4, words=1000)
    b = [*a[:940], *make_text(5, words=60)]
    c = [*b[60:], *make_text(6, words=60)]
    texts = [" ".join(words) for words in (a, b, c)]
    assert jaccard(texts[0], texts[2]) < 0.8 < min(jaccard(texts[0], texts[1]), jaccard(texts[1], texts[2]))
    found = find_near_repeats(sign(texts), everything(3), threshold=0.8)
    assert found.original.tolist() == [0, 0, 0]
    assert found.similarity[0] == 0
    assert found.similarity[1:].min() >= 0.8


def test_finds_nearly_all_near_duplicates_and_nothing_else():
    """300 texts, each with a copy of which 1 % of the words differ: a similarity of about 0.9."""
    bases = [make_text(seed) for seed in range(300)]
    copies = [change(words, 0.01, seed=n) for n, words in enumerate(bases)]
    texts = [" ".join(words) for words in [*bases, *copies]]
    found = find_near_repeats(sign(texts), everything(600), threshold=0.8)
    assert found.original[:300].tolist() == list(range(300))
    is_near = np.array([jaccard(texts[n], texts[n + 300]) for n in range(300)]) >= 0.85
    assert is_near.sum() > 250
    recalled = found.original[300:] == np.arange(300)
    assert recalled[is_near].mean() > 0.97
    assert (found.original[300:][~recalled] >= 300).all()


def test_a_pair_is_alike_from_the_threshold_on():
    """103 of 128 equal bytes are an estimate of 0.804, 102 one of 0.796."""
    signatures = np.full((3, PERMUTATIONS), 7, np.uint8)
    signatures[1, 103:] = 1
    signatures[2, 102:] = 2
    found = find_near_repeats(signatures, everything(3), threshold=0.8)
    assert found.original.tolist() == [0, 0, 2]
    assert found.similarity[1] == pytest.approx((103 / 128 - 1 / 256) / (255 / 256))


def test_the_earliest_of_several_that_a_document_is_like_is_its_original():
    """The first two are unlike; the third shares early bands with the first, late ones with the second."""
    signatures = np.full((3, PERMUTATIONS), 7, np.uint8)
    signatures[0, 104:] = 1
    signatures[1, :24] = 2
    assert estimate_similarity(signatures[0], signatures[1]) < 0.8
    found = find_near_repeats(signatures, everything(3), threshold=0.8)
    assert found.original.tolist() == [0, 1, 0]


def test_a_document_that_is_left_out_already_makes_no_other_a_near_repeat():
    signatures = sign(["one two three four five six"] * 3)
    found = find_near_repeats(signatures, np.array([False, True, True]), threshold=0.8)
    assert found.original.tolist() == [0, 1, 1]


def test_repeats_do_not_depend_on_how_many_pairs_are_compared_at_once(monkeypatch):
    texts = [" ".join(change(make_text(n % 20), 0.01, seed=n)) for n in range(100)]
    signatures = sign(texts)
    at_once = find_near_repeats(signatures, everything(100), threshold=0.7)
    monkeypatch.setattr(duplicates, "_PAIRS_AT_ONCE", 3)
    in_parts = find_near_repeats(signatures, everything(100), threshold=0.7)
    assert (at_once.original != np.arange(100)).sum() > 50
    assert at_once.original.tolist() == in_parts.original.tolist()
    assert at_once.similarity.tolist() == in_parts.similarity.tolist()


@pytest.mark.parametrize(("threshold", "width"), [(0.5, 3), (0.8, 7), (0.9, 12), (1.0, 16)])
def test_bands_are_as_wide_as_recall_allows(threshold, width):
    assert band_width(threshold) == width

    def missed(size):
        return (1 - threshold**size) ** (128 // size)

    assert missed(width) <= 0.05
    assert width == 16 or missed(width + 1) > 0.05


def test_a_band_that_many_unlike_documents_share_is_not_compared_each_with_each(monkeypatch):
    compared = []
    estimate = duplicates._estimate_pairs

    def counting(signatures, one, other):
        compared.append(len(one))
        return estimate(signatures, one, other)

    monkeypatch.setattr(duplicates, "_estimate_pairs", counting)
    signatures = np.random.default_rng(0).integers(1, 256, (1000, PERMUTATIONS), np.uint8)
    signatures[:, : band_width(0.8)] = 7
    found = find_near_repeats(signatures, everything(1000), threshold=0.8)
    assert found.original.tolist() == list(range(1000))
    assert sum(compared) < 17 * 1000
