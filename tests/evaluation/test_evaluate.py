import json
import re

import pytest
from evaluation_models import make_model, make_tokenizer

import ultralong_hf
from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation import evaluate
from ultralong_hf.evaluation import running as module
from ultralong_hf.evaluation.asking import prompt_text
from ultralong_hf.evaluation.engines import TransformersEngine

QUIET = {"progress": False}


class Reader:
    """An engine that looks the answer up in the prompt, or answers something else."""

    window = 2_048

    def __init__(self, tokenizer, right=True):
        self.tokenizer, self.right, self.asked = tokenizer, right, []

    def batch_size(self, prompt_tokens, max_new_tokens):
        return 3

    def identity(self):
        return {"reader": self.right}

    def generate(self, prompts, max_new_tokens):
        self.asked += prompts
        return [self.tokenizer(self._answer(prompt))["input_ids"] for prompt in prompts]

    def _answer(self, prompt):
        text = self.tokenizer.decode(prompt)
        prefix = re.search(r"The [\w ]+ is$", text).group()
        value = re.search(rf"{prefix} (\d+)\.", text).group(1)
        return f" {value if self.right else 'unknown'}. And so on."


def _run(engine, tokenizer, documents, tasks="needle", **options):
    options = {"lengths": [300, "1K"], "samples": 4, "depths": [0, 50, 100], **QUIET, **options}
    return evaluate("reader", tasks, engine=engine, tokenizer=tokenizer, haystack=documents, **options)


@pytest.mark.parametrize(("right", "share"), [(True, 1.0), (False, 0.0)])
@pytest.mark.parametrize("chat", [True, False])
def test_an_engine_that_reads_scores_one_and_one_that_does_not_zero(documents, right, share, chat):
    tokenizer = make_tokenizer(chat=chat)
    report = _run(Reader(tokenizer, right), tokenizer, documents, ["needle", "passkey"], lengths=[512, 1024])
    assert len(report.cells) == 2 * 2 * 3
    assert [cell["hits"] / cell["samples"] for cell in report.cells] == [share] * 12
    assert {cell["samples"] for cell in report.cells} == {4}
    assert any("nothing at all was found" in note for note in report.notes) is not right


def test_prompts_of_one_length_need_no_padding(tokenizer, documents):
    reader = Reader(tokenizer)
    report = _run(reader, tokenizer, documents)
    assert {len(prompt) for prompt in reader.asked} == {300 - 16, 1024 - 16}
    assert {(cell["length"], cell["prompt_tokens"]) for cell in report.cells} == {(300, 284), (1024, 1008)}


def test_every_prompt_is_kept_with_its_answer(tokenizer, documents, tmp_path):
    _run(Reader(tokenizer), tokenizer, documents, lengths=[300], output_dir=tmp_path)
    records = [json.loads(line) for line in (tmp_path / "prompts.jsonl").read_text().splitlines()]
    assert sorted((r["depth"], r["sample"]) for r in records) == [
        (d, s) for d in (0.0, 50.0, 100.0) for s in range(4)
    ]
    for record in records:
        assert {"task", "length", "prompt_tokens", "prompt", "expected", "answer", "hit"} < set(record)
        assert len(tokenizer(record["prompt"])["input_ids"]) == pytest.approx(record["prompt_tokens"], abs=8)
        assert record["answer"] == f" {record['expected']}. And so on."
        assert record["hit"] is True
        assert f"is {record['expected']}." in record["prompt"]


class StoppedHereError(Exception):
    pass


@pytest.mark.parametrize("torn", [b"", b'{"task": "needle", "len'])
def test_a_resumed_run_equals_one_that_was_not_stopped(tokenizer, documents, tmp_path, torn):
    class Stopping(Reader):
        def generate(self, prompts, max_new_tokens):
            if len(self.asked) >= 9:
                raise StoppedHereError
            return super().generate(prompts, max_new_tokens)

    whole = _run(Reader(tokenizer), tokenizer, documents, output_dir=tmp_path / "whole")
    with pytest.raises(StoppedHereError):
        _run(Stopping(tokenizer), tokenizer, documents, output_dir=tmp_path / "stopped")
    with (tmp_path / "stopped" / "prompts.jsonl").open("ab") as file:
        file.write(torn)
    second = Reader(tokenizer)
    resumed = _run(second, tokenizer, documents, output_dir=tmp_path / "stopped")
    assert len(second.asked) == 24 - 9
    assert resumed.cells == whole.cells
    for name in ("prompts.jsonl", "cells.json", "cells.csv"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    third = Reader(tokenizer)
    _run(third, tokenizer, documents, output_dir=tmp_path / "stopped")
    assert third.asked == []


@pytest.mark.parametrize(
    ("change", "named"),
    [({"seed": 1}, "seed"), ({"samples": 5}, "samples"), ({"haystack": ["other\n"] * 99}, "haystack")],
)
def test_a_folder_of_other_settings_is_refused(tokenizer, documents, tmp_path, change, named):
    options = {"lengths": [300], "samples": 1, "haystack": documents, "output_dir": tmp_path, **QUIET}
    evaluate("m", "needle", engine=Reader(tokenizer), tokenizer=tokenizer, **options)
    with pytest.raises(EvaluationError, match=f"differs in {named}"):
        evaluate("m", "needle", engine=Reader(tokenizer), tokenizer=tokenizer, **{**options, **change})


def test_another_models_folder_is_refused(tokenizer, documents, tmp_path):
    options = {"lengths": [200], "samples": 1, "depths": [0], "haystack": documents, **QUIET}
    evaluate((make_model(seed=0), tokenizer), "needle", output_dir=tmp_path, **options)
    with pytest.raises(EvaluationError, match="differs in identity"):
        evaluate((make_model(seed=1), tokenizer), "needle", output_dir=tmp_path, **options)


def test_folder_pair_and_keyword_give_the_same(model, model_folder, documents):
    options = {"lengths": [200], "samples": 2, "depths": [0, 100], "haystack": documents, **QUIET}
    tokenizer = make_tokenizer(chat=True)
    reports = [
        evaluate(model_folder, "needle", **options),
        evaluate((model, tokenizer), "needle", **options),
        evaluate(model, "needle", tokenizer=tokenizer, **options),
    ]
    answers = [[(record["prompt"], record["answer"]) for record in report.prompts] for report in reports]
    assert len(answers[0]) == 4
    assert answers[0] == answers[1] == answers[2]


def test_lengths_beyond_the_window_are_marked(tokenizer, documents):
    options = {"lengths": [128, 200], "samples": 1, "depths": [50], "haystack": documents, **QUIET}
    pair = make_model(window=128), tokenizer
    with pytest.raises(EvaluationError, match="200 tokens are more than the model's window of 128"):
        evaluate(pair, "needle", **options)
    report = evaluate(pair, "needle", beyond_window=True, **options)
    assert [cell["beyond_window"] for cell in report.cells] == [False, True]
    assert "Lengths from 200 on lie beyond the model's window of 128 tokens." in report.notes


def test_length_zero_and_clamped_lengths_are_noted(tokenizer, documents):
    report = _run(Reader(tokenizer), tokenizer, documents, lengths=[0, 20, 400], clamp_short=True)
    assert [cell["hits"] for cell in report.cells] == [4] * 9
    assert "Lengths 0, 20 are shorter than any prompt: measured with the shortest one." in report.notes
    with pytest.raises(EvaluationError, match="20 tokens are too few"):
        _run(Reader(tokenizer), tokenizer, documents, lengths=[0, 20, 400])


def test_a_short_haystack_is_noted(tokenizer):
    report = _run(Reader(tokenizer), tokenizer, ["one line\n" * 20], lengths=[1024], samples=1)
    assert any("repeats in longer prompts" in note for note in report.notes)


def test_a_second_run_of_the_same_model_asks_nothing(model, tokenizer, documents, tmp_path, monkeypatch):
    options = {"lengths": [200, 300], "samples": 2, "haystack": documents, **QUIET, "cache": tmp_path}
    first = evaluate((model, tokenizer), "needle", output_dir=tmp_path / "one", **options)
    assert not any("from the cache" in note for note in first.notes)
    asked = []
    monkeypatch.setattr(TransformersEngine, "generate", lambda self, *prompts: asked.append(prompts))
    second = evaluate((model, tokenizer), "needle", output_dir=tmp_path / "two", **options)
    assert asked == []
    assert second.cells == first.cells
    assert "20 prompts were answered from the cache of earlier runs of the same model." in second.notes
    one, two = ((tmp_path / name / "prompts.jsonl").read_bytes() for name in ("one", "two"))
    assert one == two
    with pytest.raises(TypeError):  # another model is asked: the answers that are no list
        evaluate((make_model(seed=1), tokenizer), "needle", **options)
    assert len(asked) == 1


def test_more_samples_cost_the_new_ones_alone(model, tokenizer, documents, tmp_path):
    options = {"lengths": [300], "haystack": documents, **QUIET, "cache": tmp_path}
    evaluate((model, tokenizer), "needle", samples=2, **options)
    more = evaluate((model, tokenizer), "needle", samples=3, **options)
    assert "10 prompts were answered from the cache of earlier runs of the same model." in more.notes


def test_other_engines_are_cached_where_a_folder_is_named(tokenizer, documents, tmp_path):
    first, second = Reader(tokenizer), Reader(tokenizer)
    for engine in (first, second):
        _run(engine, tokenizer, documents, cache=tmp_path)
    assert (len(first.asked), second.asked) == (24, [])
    third = Reader(tokenizer)
    _run(third, tokenizer, documents)
    assert len(third.asked) == 24


def test_a_prompt_that_begins_with_bos_twice_is_named(documents):
    tokenizer = make_tokenizer(chat=True)
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    report = _run(Reader(tokenizer), tokenizer, documents, lengths=[300])
    assert "needle: 12 of 12 prompts: double BOS: the prompt begins with '<|bos|>' twice" in report.notes


def test_very_long_prompts_are_kept_by_their_ends(tokenizer):
    ids = tokenizer("The grass is green. " * 3_000)["input_ids"]
    kept = prompt_text(tokenizer, ids, limit=10_000)
    assert len(ids) > 10_000
    assert kept.startswith("The grass is green.")
    assert kept.endswith("green. ")
    assert f"[... {len(ids) - 2 * 2_048:,} tokens are not kept here ...]" in kept
    assert prompt_text(tokenizer, ids, limit=len(ids)) == "The grass is green. " * 3_000


def test_perplexity_is_measured_on_the_documents(model, tokenizer, documents, tmp_path):
    report = evaluate(
        (model, tokenizer),
        "perplexity",
        lengths=[100, 200],
        samples=2,
        haystack=documents,
        output_dir=tmp_path,
        **QUIET,
    )
    assert [(b["from"], b["to"], b["tokens"]) for b in report.perplexity] == [
        (0, 64, 126),
        (64, 128, 128),
        (128, 200, 144),
    ]
    assert report.cells == []
    assert (tmp_path / "report.html").exists()


def test_perplexity_needs_weights(tokenizer, documents):
    with pytest.raises(EvaluationError, match="needs the weights"):
        _run(Reader(tokenizer), tokenizer, documents, "perplexity")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": "neddle"}, r"'neddle' is no task. Nearest: 'needle'"),
        ({"tasks": []}, "no task to evaluate"),
        ({"engine": "transfomers"}, "is no engine. Nearest: 'transformers'"),
        ({"lengths": []}, "no length to measure"),
        ({"lengths": [0]}, "at least one above 0"),
        ({"depths": []}, "no depth to measure"),
        ({"depths": [101]}, "depth of 101 is out of range"),
        ({"depths": [float("nan")]}, "depth of nan is out of range"),
        ({"samples": 0}, "samples=0 is no whole number"),
        ({"prompt": "raw"}, "prompt='raw' is none of"),
        ({"haystack": "/does/not/exist"}, "does not exist"),
    ],
)
def test_bad_input_is_one_clear_error(tokenizer, documents, options, message):
    arguments = {
        "tasks": "needle",
        "lengths": [300],
        "engine": Reader(tokenizer),
        "tokenizer": tokenizer,
        "haystack": documents,
        **QUIET,
        **options,
    }
    with pytest.raises(EvaluationError, match=message):
        evaluate("m", **arguments)


def test_an_engine_without_a_tokenizer_needs_one(tokenizer, documents):
    engine = Reader(tokenizer)
    del engine.tokenizer
    with pytest.raises(EvaluationError, match="pass tokenizer="):
        _run(engine, None, documents)


def test_all_unknown_tasks_are_told_together(tokenizer):
    with pytest.raises(EvaluationError) as caught:
        evaluate("m", ["neddle", "pass"], lengths=[300])
    assert len(caught.value.faults) == 2


def test_a_loaded_model_needs_its_tokenizer(model, documents):
    with pytest.raises(EvaluationError, match="comes with its tokenizer"):
        evaluate(model, "needle", lengths=[200], haystack=documents)
    with pytest.raises(EvaluationError, match="tuple of 3"):
        evaluate((model, None, None), "needle", lengths=[200], haystack=documents)


def test_evaluate_is_a_public_name():
    assert ultralong_hf.evaluate is evaluate is module.evaluate
