"""Normalization and token F1, value by value."""

from __future__ import annotations

import pytest

from ultralong_hf.evaluation.chinese_words import cut_words
from ultralong_hf.evaluation.overlap import normalize_chinese, normalize_english, shared, token_f1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Mill, an\told one.", "mill old one"),
        ("it's a co-op", "its coop"),
        ("theatre anon a1", "theatre anon a1"),  # articles are words, not letters
        ("a.the", "athe"),  # punctuation goes first and joins
        ("“The” mill", "“ ” mill"),  # only ASCII punctuation goes
        ("...", ""),
    ],
)
def test_english_is_lowered_and_stripped_of_punctuation_and_articles(text, expected):
    assert normalize_english(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("北京，大学。 A-B", "北京大学ab"),
        ("《水浒》·传", "《水浒·传"),  # the official list has neither the opening mark nor the dot
        ("“你好”……", "你好"),
        ("the 3.5", "the35"),
        ("？！", ""),
    ],
)
def test_chinese_loses_punctuation_and_blanks(text, expected):
    assert normalize_chinese(text) == expected


def test_shared_tokens_count_as_often_as_on_the_poorer_side():
    assert shared(["a", "b", "b", "c"], ["b", "b", "b", "a"]) == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        (["a"], ["a"], 1.0),
        (["a", "b"], ["a"], 2 / 3),
        (["a", "a"], ["a", "b"], 0.5),
        (["a"], ["b"], 0.0),
        ([], ["b"], 0.0),
        ([], [], 0.0),
    ],
)
def test_f1_of_two_bags(answer, reference, expected):
    assert token_f1(answer, reference) == pytest.approx(expected, abs=1e-15)


def test_chinese_words_are_those_of_jiebas_precise_mode():
    assert cut_words("北京大学位于北京市海淀区。") == ["北京大学", "位于", "北京市", "海淀区", "。"]
    assert cut_words("  第3.5章") == [" ", " ", "第", "3.5", "章"]
    assert cut_words("") == []


def test_no_dictionary_is_read_from_the_shared_temporary_folder(tmp_path, monkeypatch):
    """jieba by itself trusts the file jieba.cache there."""
    import marshal

    from ultralong_hf.evaluation import chinese_words

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "jieba.cache").write_bytes(marshal.dumps(({"planted": 1}, 1)))
    chinese_words._segmenter.cache_clear()
    assert cut_words("清华大学，北京") == ["清华大学", "，", "北京"]
    assert [path.name for path in tmp_path.iterdir()] == ["jieba.cache"]
