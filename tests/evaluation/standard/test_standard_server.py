"""Through a server the standard side gives what it gives in this process."""

from __future__ import annotations

from typing import Any

import pytest
from completions_server import serve
from evaluation_models import make_tokenizer

from ultralong_hf import evaluate
from ultralong_hf.errors import EvaluationError


class AnyServer:
    window = None
    model = "tiny"
    form = "token ids"

    def __init__(self, url: str, tokenizer: Any, concurrency: int = 1) -> None:
        self.url, self.tokenizer, self.concurrency = url, tokenizer, concurrency

    def batch_size(self, prompt_tokens: int, max_new_tokens: int) -> int:
        return 8

    def generate(self, prompts: Any, max_new_tokens: int) -> Any:
        raise AssertionError

    def identity(self) -> dict[str, Any]:
        return {"server": self.url}


def measure(model: Any, task_folder: Any, tasks: list[str], **options: Any) -> list[dict[str, Any]]:
    return evaluate(model, tasks, include_path=task_folder, progress=False, **options).standard


@pytest.mark.parametrize("concurrency", [1, 2])
def test_choices_and_words_are_scored_as_in_process(model, tokenizer, task_folder, concurrency):
    tasks = ["standard/tiny_choice", "standard/tiny_words"]
    here = measure((model, tokenizer), task_folder, tasks)
    with serve(model, tokenizer) as (url, asked):
        engine = AnyServer(url, tokenizer, concurrency)
        there = measure("tiny", task_folder, tasks, engine=engine)
    assert [(one["value"], one["others"], one["samples"]) for one in here] == [
        (one["value"], one["others"], one["samples"]) for one in there
    ]
    assert len(asked) == 6 * 3 + 4
    assert {(one["path"], one["model"]) for one in asked} == {("/v1/completions", "tiny")}


@pytest.mark.parametrize(
    ("options", "count"),
    [({"adds_bos": True}, 1), ({}, 0), ({"chat": True, "adds_bos": True}, 1)],
    ids=["tokenizer adds it", "none", "template writes it"],
)
def test_a_prompt_has_one_bos_at_most(model, task_folder, options, count):
    tokenizer = make_tokenizer(**options)
    with serve(model, tokenizer) as (url, asked):
        measure("tiny", task_folder, ["standard/tiny_words"], engine=AnyServer(url, tokenizer))
    assert asked
    assert {one["prompt"][0].count(tokenizer.bos_token_id) for one in asked} == {count}


def test_prompts_are_not_cut_where_the_window_is_unknown(model, tokenizer, tmp_path):
    import json

    from standard_tasks import write_tasks

    folder = write_tasks(tmp_path / "own")
    row = {"question": "walk " * 2_500, "answer": "x"}
    (folder / "tiny_words.jsonl").write_text(json.dumps(row) + "\n")
    with serve(model, tokenizer) as (url, asked):
        measure("tiny", folder, ["standard/tiny_words"], engine=AnyServer(url, tokenizer))
    assert asked[0]["prompt"][0] == tokenizer(row["question"])["input_ids"]
    assert len(asked[0]["prompt"][0]) > 2_047


def test_a_server_that_fails_is_an_error_not_a_score(model, tokenizer, task_folder, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between its retries
    with serve(model, tokenizer, broken=True) as (url, asked):
        engine = AnyServer(url, tokenizer)
        with pytest.raises(EvaluationError, match=r"^standard/tiny_words ended: HTTPError: 500 Server Error"):
            measure("tiny", task_folder, ["standard/tiny_words"], engine=engine)
    assert len(asked) == 3


def test_a_server_that_takes_no_token_ids_is_refused(tokenizer, task_folder):
    engine = AnyServer("http://127.0.0.1:9/v1", tokenizer)
    engine.form = "chat messages"
    with pytest.raises(
        EvaluationError, match=r"completions take token ids.*127.0.0.1:9/v1 takes chat messages"
    ):
        measure("tiny", task_folder, ["standard/tiny_words"], engine=engine)


def test_the_key_goes_with_each_request(model, tokenizer, task_folder, monkeypatch):
    monkeypatch.setenv("ULTRALONG_ENGINE_KEY", "secret")
    with serve(model, tokenizer) as (url, asked):
        measure("tiny", task_folder, ["standard/tiny_words"], engine=AnyServer(url, tokenizer))
    assert {one["key"] for one in asked} == {"Bearer secret"}
