"""lm-eval's real path on tasks and data that the tests write: the same scores as a plain loop gives."""

from __future__ import annotations

import json
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from standard_tasks import CHOICE_ROWS, WORD_ROWS, write_hub_copy, write_tasks

from ultralong_hf import evaluate
from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.engines import TransformersEngine
from ultralong_hf.lab.base import base_model_path


def run(model: Any, tasks: str | list[str], folder: Path, **options: Any) -> list[dict[str, Any]]:
    return evaluate(model, tasks, include_path=folder, progress=False, **options).standard


def choice_accuracy(model: Any, tokenizer: Any, rows: list[dict[str, Any]]) -> float:
    """The option with the highest sum of log probabilities, by one forward pass each."""
    right = 0
    for row in rows:
        sums = []
        for choice in row["choices"]:
            context = tokenizer(row["question"])["input_ids"]
            whole = tokenizer(row["question"] + choice)["input_ids"]
            with torch.inference_mode():
                logits = model(torch.tensor([whole])).logits[0].log_softmax(-1)
            sums.append(sum(float(logits[at - 1, whole[at]]) for at in range(len(context), len(whole))))
        right += sums.index(max(sums)) == row["answer"]
    return right / len(rows)


def test_multiple_choice_equals_a_plain_loop(model, tokenizer, task_folder):
    [entry] = run((model, tokenizer), "standard/tiny_choice", task_folder)
    expected = choice_accuracy(model, tokenizer, CHOICE_ROWS)
    assert entry["others"]["acc,none"] == pytest.approx(expected)
    assert 0 < expected < 1
    assert (entry["task"], entry["metric"], entry["filter"], entry["samples"]) == (
        "tiny_choice",
        "acc_norm",
        "none",
        6,
    )
    # The error of a mean of zeros and ones, by n - 1.
    share = entry["value"]
    assert entry["stderr"] == pytest.approx((share * (1 - share) / 5) ** 0.5)


def test_the_labs_base_model_answers_as_our_engine_does(task_folder, tmp_path):
    """Its own greedy words are the right answers: all count, and the others do not."""
    engine = TransformersEngine.from_pretrained(base_model_path())
    prompts = [engine.tokenizer(row["question"])["input_ids"] for row in WORD_ROWS]
    answers = [engine.tokenizer.decode(ids) for ids in engine.generate(prompts, 6)]
    folder = write_tasks(tmp_path / "own")
    rows = [
        {"question": row["question"], "answer": answer.partition("\n")[0] if number else "never this"}
        for number, (row, answer) in enumerate(zip(WORD_ROWS, answers, strict=True))
    ]
    (folder / "tiny_words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    [entry] = run(str(base_model_path()), "standard/tiny_words", folder, prompt="plain")
    assert entry["value"] == 0.75


def test_a_group_is_summed_up_by_lm_eval_and_a_tag_here_in_the_same_way(model, tokenizer, task_folder):
    group, tag = run((model, tokenizer), ["standard/tiny_group", "standard/tiny_tag"], task_folder)
    assert group["value"] == pytest.approx(choice_accuracy(model, tokenizer, CHOICE_ROWS))
    assert group["value"] == tag["others"]["acc,none"]
    assert (group["samples"], tag["samples"]) == (6, 6)
    assert group["stderr"] is not None


def test_samples_limits_the_rows_of_each_task(model, tokenizer, task_folder):
    [entry] = run((model, tokenizer), "standard/tiny_choice", task_folder, samples=3)
    assert (entry["samples"], entry["settings"]["limit"]) == (3, 3)
    assert entry["others"]["acc,none"] == pytest.approx(choice_accuracy(model, tokenizer, CHOICE_ROWS[:3]))


def test_chat_models_are_asked_through_their_template(model, task_folder, monkeypatch):
    from evaluation_models import make_tokenizer

    asked: list[str] = []
    tokenizer = make_tokenizer(chat=True)
    render = tokenizer.apply_chat_template
    monkeypatch.setattr(
        type(tokenizer),
        "apply_chat_template",
        lambda self, *a, **k: asked.append(text := render(*a, **k)) or text,
    )
    [entry] = run((model, tokenizer), "standard/tiny_choice", task_folder)
    assert entry["settings"]["chat_template"] is True
    assert any(text.startswith("<|bos|><|user|>The harbour office keeps 0.<|end|>") for text in asked)


def test_results_are_kept_and_a_second_run_asks_nothing(model, tokenizer, task_folder, tmp_path, monkeypatch):
    options = {"output_dir": tmp_path / "run"}
    first = run((model, tokenizer), "standard/tiny_choice", task_folder, **options)
    assert json.loads((tmp_path / "run" / "standard.json").read_text()) == {"tasks": first}
    assert json.loads((tmp_path / "run" / "report.json").read_text())["standard"] == first
    monkeypatch.setattr("lm_eval.simple_evaluate", None)
    assert run((model, tokenizer), "standard/tiny_choice", task_folder, **options) == first


def test_a_stopped_run_goes_on_at_the_next_request(model, tokenizer, task_folder, tmp_path, monkeypatch):
    from lm_eval.models.huggingface import HFLM

    seen = []
    score = HFLM._loglikelihood_tokens

    def counting(self, requests, **options):
        seen.append(len(requests))
        if len(seen) == 1:  # killed after a part of the requests
            score(self, requests[:7], **options)
            raise KeyboardInterrupt
        return score(self, requests, **options)

    monkeypatch.setattr(HFLM, "_loglikelihood_tokens", counting)
    options = {"output_dir": tmp_path / "run"}
    with pytest.raises(KeyboardInterrupt):
        run((model, tokenizer), "standard/tiny_choice", task_folder, **options)
    assert not (tmp_path / "run" / "standard.json").exists()
    [entry] = run((model, tokenizer), "standard/tiny_choice", task_folder, **options)
    assert seen == [18, 11]
    assert entry["others"]["acc,none"] == pytest.approx(choice_accuracy(model, tokenizer, CHOICE_ROWS))


def test_kept_answers_are_json_not_pickles(model, tokenizer, task_folder, tmp_path):
    import sqlite3

    run((model, tokenizer), "standard/tiny_choice", task_folder, output_dir=tmp_path)
    with closing(sqlite3.connect(tmp_path / "standard_answers.sqlite")) as database:
        values = [value for (value,) in database.execute("select value from unnamed")]
    assert len(values) == 18
    assert all(isinstance(json.loads(value), list) for value in values)


def test_a_cache_that_is_none_is_refused(model, tokenizer, task_folder, tmp_path):
    (tmp_path / "standard_answers.sqlite").write_text("no database, but text of some length " * 9)
    with pytest.raises(EvaluationError, match=r"standard_answers.sqlite is no cache of answers"):
        run((model, tokenizer), "standard/tiny_choice", task_folder, output_dir=tmp_path)


def test_code_of_the_model_runs_only_with_leave(model, tokenizer, task_folder, monkeypatch):
    monkeypatch.delenv("HF_ALLOW_CODE_EVAL", raising=False)
    with pytest.raises(
        EvaluationError, match=r"tiny_code runs code that the model writes.*--allow-code-exec"
    ):
        run((model, tokenizer), "standard/tiny_code", task_folder)
    [entry] = run((model, tokenizer), "standard/tiny_code", task_folder, allow_code_execution=True)
    assert entry["value"] == 1.0  # the task saw the switch on
    assert "HF_ALLOW_CODE_EVAL" not in os.environ


def test_data_are_read_from_a_local_copy_of_the_dataset(model, tokenizer, task_folder, tmp_path):
    with pytest.raises(EvaluationError) as caught:
        run((model, tokenizer), "standard/tiny_hub", task_folder)
    message = str(caught.value)
    assert message.startswith(
        "standard/tiny_hub cannot be loaded: ConnectionError: Couldn't reach 'owner/tiny'"
    )
    assert "`hf download owner/tiny --repo-type dataset --local-dir DIR/owner/tiny`" in message
    write_hub_copy(tmp_path / "data" / "owner" / "tiny")
    tasks = ["standard/tiny_hub", "standard/tiny_hub_group"]
    one, group = run((model, tokenizer), tasks, task_folder, data_dir=tmp_path / "data")
    assert one["others"]["acc,none"] == pytest.approx(choice_accuracy(model, tokenizer, CHOICE_ROWS))
    assert (group["others"]["acc,none"], group["samples"]) == (one["others"]["acc,none"], 12)


def test_a_prompt_that_lm_eval_cuts_is_told(tokenizer, task_folder, tmp_path):
    from evaluation_models import make_model

    folder = write_tasks(tmp_path / "own")
    model = make_model()
    window = model.config.max_position_embeddings
    long = [{**row, "question": "walk " * window} for row in CHOICE_ROWS[:2]]
    (folder / "tiny_choice.jsonl").write_text("".join(json.dumps(row) + "\n" for row in long))
    [entry] = run((model, tokenizer), "standard/tiny_choice", folder)
    assert entry["notes"][0].startswith("cut: lm-eval cut prompts on the left to the window")


def test_a_task_at_zero_is_told(model, tokenizer, task_folder):
    [entry] = run((model, tokenizer), "standard/tiny_words", task_folder)
    assert entry["value"] == 0
    assert entry["notes"] == [
        "zero: no answer counts as right. Look at the prompts (chat template, few-shot) before believing it"
    ]


class Mute:
    window = None

    def batch_size(self, prompt_tokens: int, max_new_tokens: int) -> int:
        return 1

    def generate(self, prompts: Any, max_new_tokens: int) -> Any:
        raise AssertionError

    def identity(self) -> dict[str, Any]:
        return {}


def test_an_engine_without_model_or_server_is_refused(tokenizer, task_folder):
    with pytest.raises(EvaluationError, match="needs a model in this process or a server; Mute is neither"):
        run("mute", "standard/tiny_choice", task_folder, engine=Mute(), tokenizer=tokenizer)


def test_an_error_inside_lm_eval_is_one_of_ours(model, tokenizer, tmp_path):
    folder = write_tasks(tmp_path / "own")
    (folder / "tiny_words.jsonl").write_text('{"question": "a"}\n')
    with pytest.raises(EvaluationError, match=r"UndefinedError: 'answer' is undefined\.$"):
        run((model, tokenizer), "standard/tiny_words", folder)
