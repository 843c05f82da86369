"""LV-Eval's rules on answers that take every branch; values are worked out by hand from its metrics.py."""

from __future__ import annotations

import sys

import pytest

from ultralong_hf.errors import MachineError
from ultralong_hf.evaluation.lveval.scoring import (
    chinese_f1,
    chinese_f1_with_keywords,
    english_f1,
    english_f1_with_keywords,
    filtered_rouge_l,
)


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("The mill, in the harbour.", "mill harbour", 0.8),  # mill in harbour: P 2/3, R 1
        ("Mill", "a mill", 1.0),
        ("north", "south", 0.0),
        ("", "south", 0.0),
        ("north", "", 0.0),
    ],
)
def test_factrecall_is_word_f1(answer, reference, expected):
    assert english_f1(answer, reference) == pytest.approx(expected, abs=1e-15)
    assert english_f1(answer, reference, "keywords play no part") == english_f1(answer, reference)


REFERENCE = "the old mill by the harbour office"  # old mill by harbour office


@pytest.mark.parametrize(
    ("answer", "keywords", "expected"),
    [
        ("mill", "one two three four mill", 1 / 3),  # recall 1/5 = 0.2 is enough; P 1, R 1/5
        ("mill", "one two three four five mill", 0.0),  # 1/6 is not
        ("by was with", "with was by", 0.0),  # all three are blacklisted, so none is recalled
        ("by mill", "with was by mill", 4 / 7),  # mill alone counts: 1/4; F1: P 2/2, R 2/5
        ("mill mill", "mill mill mill mill mill mill mill", 2 / 7),  # 2/7; F1: P 1/2, R 1/5
        ("mill", "The Mill!", 1 / 3),  # keywords are normalized as answers are
        ("nothing of it", None, 0.0),
        ("mill", None, 1 / 3),  # without keywords there is no gate
        ("mill", "", 1 / 3),
        ("by", None, 1 / 3),  # the blacklist never touches F1
        ("mill", "the a an", 1 / 3),  # only articles: upstream divides by zero here
    ],
)
def test_english_answers_pass_a_gate_of_keyword_recall(answer, keywords, expected):
    score = english_f1_with_keywords(answer, REFERENCE, keywords)
    assert score == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("北京大学", "北京大学位于北京市海淀区。", 0.4),  # words: 北京大学 位于 北京市 海淀区; P 1, R 1/4
        ("北京大学。", "“北京大学”", 1.0),
        ("。", "北京", 0.0),
        ("北京", "。", 0.0),
        ("", "北京", 0.0),
    ],
)
def test_chinese_factrecall_is_f1_over_words(answer, reference, expected):
    assert chinese_f1(answer, reference) == pytest.approx(expected, abs=1e-15)
    assert chinese_f1(answer, reference, "北京") == chinese_f1(answer, reference)


@pytest.mark.parametrize(
    ("answer", "reference", "keywords", "expected"),
    [
        # 清华大学 北京 of 清华大学 北京 研究 方法 黄河: recall 2/5 = 0.4 is enough; F1 against 清华大学 北京
        ("清华大学，北京", "清华大学，北京", "清华大学，北京。研究方法，黄河", 1.0),
        # of six keywords it is 1/3
        ("清华大学，北京", "清华大学，北京", "清华大学，北京。研究方法，黄河，上海", 0.0),
        # no keywords: the reference's words are taken. 清华大学 is 1/2 of them
        ("清华大学", "清华大学，北京", None, 2 / 3),
        ("清华大学", "清华大学，北京", "", 2 / 3),
        # 1 of 长江大桥 和 黄河 is under 0.4: 和 is found, but blacklisted, so 0; F1 would be 0.5
        ("和", "长江大桥和黄河", None, 0.0),
        # 长江大桥 和: 和 does not count, so 1/3
        ("长江大桥和", "长江大桥和黄河", None, 0.0),
        # 长江大桥 黄河: 2/3, F1 P 1, R 2/3
        ("长江大桥，黄河", "长江大桥和黄河", None, 0.8),
        # keywords of punctuation alone: upstream divides by zero here
        ("北京", "北京", "。", 1.0),
    ],
)
def test_chinese_answers_pass_a_higher_gate(answer, reference, keywords, expected):
    score = chinese_f1_with_keywords(answer, reference, keywords)
    assert score == pytest.approx(expected, abs=1e-15)


def rouge_f(precision: float, recall: float) -> float:
    """As the library rouge rounds it: 1e-8 is added below."""
    return 2 * precision * recall / (precision + recall + 1e-8)


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("长江大桥", "长江大桥和黄河", rouge_f(1, 1 / 2)),  # 和 is blacklisted and taken out
        ("黄河和长江大桥", "长江大桥和黄河", rouge_f(1 / 2, 1 / 2)),  # the order counts
        ("长江大桥。", "“长江大桥”", rouge_f(1, 1)),
        ("清华大学，北京，黄河", "清华大学，上海，黄河", rouge_f(2 / 3, 2 / 3)),
        ("上海", "北京", 0.0),
        ("", "北京", 0.0),  # the library refuses an empty text
        ("的", "的", 0.0),  # so does it here: nothing is left
        ("。", "北京", 0.0),
        ("北京", "的", 0.0),
    ],
)
def test_dureader_is_rouge_l_of_words_off_the_blacklist(answer, reference, expected):
    assert filtered_rouge_l(answer, reference) == pytest.approx(expected, abs=1e-12)


def test_an_answer_that_never_ends_scores_zero_as_upstream():
    """The library recurses over the words; upstream catches that and gives 0."""
    words = 550
    assert filtered_rouge_l("黄河，" + "北京，" * 50, "黄河，" + "上海，" * 50) == rouge_f(1 / 2, 1 / 2)
    assert filtered_rouge_l("黄河，" + "北京，" * words, "黄河，" + "上海，" * words) == 0.0


@pytest.mark.parametrize(
    ("library", "score"), [("jieba", chinese_f1), ("rouge", filtered_rouge_l)], ids=["jieba", "rouge"]
)
def test_a_missing_library_is_named_with_its_extra(library, score, monkeypatch):
    from ultralong_hf.evaluation.chinese_words import _segmenter

    if library == "jieba":
        _segmenter.cache_clear()
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MachineError, match=rf"the library {library} .* pip install 'ultralong-hf\[eval\]'"):
        score("北京", "北京")
