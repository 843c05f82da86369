import numpy as np
import pytest

from ultralong_hf.evaluation.answer_cache import AnswerCache, answer_key, cache_root
from ultralong_hf.evaluation.engines.base import Answer

MODEL = {"weights": "abc"}


def test_an_answer_is_found_by_another_run_of_the_same_model(tmp_path):
    AnswerCache(tmp_path, MODEL).keep([[1, 2], [3]], 16, [[7, 8], Answer("text", notes=("kind: what",))])
    cache = AnswerCache(tmp_path, dict(MODEL))
    assert cache.find(np.array([1, 2], dtype=np.int32), 16) == [7, 8]
    assert cache.find([3], 16) == Answer("text", notes=("kind: what",))
    assert cache.find([1, 2], 17) is None
    assert AnswerCache(tmp_path, {"weights": "abd"}).find([1, 2], 16) is None


def test_an_empty_answer_is_an_answer(tmp_path):
    AnswerCache(tmp_path, MODEL).keep([[1]], 4, [[]])
    assert AnswerCache(tmp_path, MODEL).find([1], 4) == []


def test_failures_are_not_kept(tmp_path):
    AnswerCache(tmp_path, MODEL).keep([[1]], 4, [Answer(failure="500")])
    assert AnswerCache(tmp_path, MODEL).find([1], 4) is None


@pytest.mark.parametrize("torn", [b'{"key": "ab', b"\xff\xfe\n", b"[]\n", b'{"key": "k", "ids": "x"}\n'])
def test_torn_lines_are_passed_over(tmp_path, torn):
    AnswerCache(tmp_path, MODEL).keep([[1]], 4, [[5]])
    (path,) = tmp_path.rglob("*.jsonl")
    path.write_bytes(path.read_bytes() + torn)
    assert AnswerCache(tmp_path, MODEL).find([1], 4) == [5]


def test_runs_at_once_write_files_of_their_own(tmp_path):
    first, second = AnswerCache(tmp_path, MODEL), AnswerCache(tmp_path, MODEL)
    first.keep([[1]], 4, [[5]])
    second.keep([[2]], 4, [[6]])
    assert len(list(tmp_path.rglob("*.jsonl"))) == 2
    both = AnswerCache(tmp_path, MODEL)
    assert (both.find([1], 4), both.find([2], 4)) == ([5], [6])


def test_without_a_folder_nothing_is_kept(tmp_path):
    cache = AnswerCache(None, MODEL)
    cache.keep([[1]], 4, [[5]])
    assert cache.find([1], 4) is None


def test_keys_tell_token_boundaries_and_budgets_apart():
    keys = {answer_key(ids, budget) for ids, budget in [([1, 2], 3), ([1], 23), ([1, 2], 4), ([258], 3)]}
    assert len(keys) == 4


def test_the_cache_lies_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("ULTRALONG_CACHE", str(tmp_path))
    assert cache_root() == tmp_path
    monkeypatch.delenv("ULTRALONG_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert str(cache_root()) == "/somewhere/ultralong_hf"
