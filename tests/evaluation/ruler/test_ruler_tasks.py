"""RULER through `evaluate`, answered by an engine that reads the prompt; and its prompts' cache."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
from ruler_prompts import ESSAYS, make_prompt, make_task
from tiny_tokenizers import tokenizer_of_kind

from ultralong_hf.errors import EngineMismatch, EvaluationError
from ultralong_hf.evaluation import evaluate
from ultralong_hf.evaluation.ruler import SELECTORS
from ultralong_hf.evaluation.ruler.building import PromptMaker
from ultralong_hf.evaluation.ruler.pieces import PieceEncoder

LENGTHS = [6000, 9000]
QUIET = {"progress": False, "cache": False}


def solve(text: str) -> str:
    """The answer of one who reads."""
    if "special magic" in text:
        asked = re.findall(
            r"The special magic \w+ for (.+) mentioned in the provided text (?:is|are)$", text
        )[0]
        needles = re.findall(r"One of the special magic \w+ for (.+?) is: ([\w-]+)\.", text)
        keys = asked.replace(", and ", ", ").split(", ")
        return ", ".join(value for key, value in needles if key in keys)
    if "variable assignment" in text:
        known = {re.findall(r"assgined the value (\d+), they are:$", text)[0]}
        for name, value in re.findall(r"VAR ([A-Z]{5}) = (?:VAR )?(\w+)", text):
            known |= {name} if value in known else set()
        return " ".join(known)
    if "numbered list" in text:
        listed = text[text.rindex("Below is a numbered list") : text.rindex("\nQuestion")]
        words = re.findall(r"\d+\. (.+?)(?= \d+\. |$)", listed)
        return ", ".join(word for word, _ in Counter(words).most_common(10))
    if "coded text" in text:
        context = text[text.index("coded words. ") : text.rindex("\nQuestion")]
        return " ".join(word for word, _ in Counter(context.split()[2:]).most_common(4))
    return _look_up(text)


def _look_up(text: str) -> str:
    kind, place = re.findall(r"What is the (.+) of the (.+)\?", text)[-1]
    found = re.findall(rf"The {kind} of the {place} is (?:the ([\w ]+) of the ([\w ]+)|(\d+))\.", text)[0]
    other_kind, other_place, value = found
    return value or re.findall(rf"The {other_kind} of the {other_place} is (\d+)\.", text)[0]


class Solver:
    """An engine that answers as `solve` does, or always the same."""

    window = 100_000

    def __init__(self, reply: str | None = None) -> None:
        self.tokenizer = tokenizer_of_kind("Llama 3")
        self.reply, self.asked = reply, 0

    def batch_size(self, prompt_tokens: int, max_new_tokens: int) -> int:
        return 4

    def identity(self) -> dict[str, Any]:
        return {"reply": self.reply}

    def generate(self, prompts: Any, max_new_tokens: int) -> list[list[int]]:
        self.asked += len(prompts)
        texts = [
            self.tokenizer.decode(np.asarray(prompt), clean_up_tokenization_spaces=False)
            for prompt in prompts
        ]
        return [self.tokenizer(self.reply or solve(text)).input_ids for text in texts]


def _run(engine: Solver, tasks: Any = "ruler", **options: Any) -> Any:
    options = {"lengths": LENGTHS, "samples": 2, "haystack": list(ESSAYS), **QUIET, **options}
    return evaluate("solver", tasks, engine=engine, **options)


def test_reader_of_the_prompts_has_every_task_right_at_every_length():
    report = _run(Solver())
    found = {(row["task"], row["length"]): row["score"] for row in report.scores}
    assert found == {(f"ruler/{name}", length): 1.0 for name in SELECTORS for length in LENGTHS}


def test_tasks_at_zero_and_stand_ins_are_named():
    report = _run(Solver(reply="nothing"), tasks=["ruler/niah_single_2", "ruler/qa_1", "ruler/cwe"])
    assert {row["score"] for row in report.scores} == {0.0}
    for task in ("ruler/niah_single_2", "ruler/qa_1", "ruler/cwe"):
        assert any(note.startswith(f"{task}: every score is zero") for note in report.notes)
    assert any("stand-in: the given texts in place of Paul Graham's essays" in note for note in report.notes)
    assert any("stand-in: generated facts in place of SQuAD" in note for note in report.notes)


def test_length_too_short_for_some_tasks_is_measured_by_the_others_and_noted():
    report = _run(Solver(), lengths=[800])
    measured = {row["task"] for row in report.scores}
    assert "ruler/niah_single_1" in measured
    assert "ruler/cwe" not in measured
    assert any(note.startswith("ruler/cwe was not measured at 800") for note in report.notes)


def test_length_too_short_for_a_task_asked_by_name_is_an_error():
    with pytest.raises(EvaluationError, match=r"800 tokens are too few for the task 'cwe'"):
        _run(Solver(), tasks="ruler/cwe", lengths=[800])


def test_unknown_task_names_the_nearest():
    with pytest.raises(EvaluationError, match=r"'ruler/niah_single_9' is no task\. Nearest: 'ruler/niah_"):
        _run(Solver(), tasks="ruler/niah_single_9")


def test_stopped_run_goes_on_with_the_same_prompts(tmp_path):
    whole = _run(Solver(), tasks="ruler/fwe", output_dir=tmp_path / "whole")
    part = tmp_path / "part"
    _run(Solver(), tasks="ruler/fwe", output_dir=part)
    lines = (part / "prompts.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (part / "prompts.jsonl").write_text("".join(lines[:3]), encoding="utf-8")
    engine = Solver()
    again = _run(engine, tasks="ruler/fwe", output_dir=part)
    assert engine.asked == 1
    assert again.scores == whole.scores
    kept = [json.loads(line) for line in (part / "prompts.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [record["references"] for record in kept] == [json.loads(line)["references"] for line in lines]


def _count_made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    made: list[int] = []
    original = PromptMaker.make
    monkeypatch.setattr(PromptMaker, "make", lambda self, *place: made.append(1) or original(self, *place))
    return made


def test_second_run_reads_the_prompts_that_the_first_made(tmp_path, monkeypatch):
    made = _count_made(monkeypatch)
    first = make_task("niah_multikey_2", cache_dir=tmp_path).build(("", 6000, None, 1))
    second = make_task("niah_multikey_2", cache_dir=tmp_path).build(("", 6000, None, 1))
    assert len(made) == 1
    assert second.ids.tolist() == first.ids.tolist()
    assert second.ids.dtype == np.int32
    for name in ("references", "details", "notes", "frame", "max_new_tokens"):
        assert getattr(second, name) == getattr(first, name)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"style": "chat"},
        {"kind": "GPT-2"},
        {"haystack": ["Another text. " * 2000]},
    ],
)
def test_other_seed_template_tokenizer_or_text_is_another_cache(tmp_path, change, monkeypatch):
    tokenizer = tokenizer_of_kind("Llama 3")
    monkeypatch.setattr(tokenizer, "chat_template", "{{ messages[0]['content'] }}!", raising=False)
    digests = {
        make_task("niah_single_2", cache_dir=tmp_path, **options)._digest(6000) for options in ({}, change)
    }
    assert len(digests) == 2


def test_damaged_cached_prompt_is_made_anew(tmp_path, monkeypatch):
    task = make_task("vt", cache_dir=tmp_path)
    first = task.build(("", 6000, None, 0))
    [file] = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-40])
    made = _count_made(monkeypatch)
    again = task.build(("", 6000, None, 0))
    assert len(made) == 1
    assert again.ids.tolist() == first.ids.tolist()
    assert not list(tmp_path.rglob("*.partial"))


def test_engine_found_out_is_replaced_and_its_cached_prompts_are_removed(tmp_path, monkeypatch):
    task = make_task("niah_single_1", cache_dir=tmp_path)
    task.build(("", 6000, None, 0))
    expected = make_prompt("niah_single_1", 6000, 1)
    original = PieceEncoder.encode

    def encode(self: PieceEncoder, texts: Any) -> Any:
        if self._engine_name == "auto":
            raise EngineMismatch("gigatoken gives other ids")
        return original(self, texts)

    monkeypatch.setattr(PieceEncoder, "encode", encode)
    sample = task.build(("", 6000, None, 1))
    assert task.workshop.encoder.engine.name == "tokenizers"
    assert [file.name for file in tmp_path.rglob("*.safetensors")] == ["00001.safetensors"]
    assert sample.ids.tolist() == expected.ids.tolist()


def test_prompts_are_made_where_the_cache_cannot_be_written(tmp_path):
    (tmp_path / "ruler").write_text("a file where the cache would have a folder", encoding="utf-8")
    sample = make_task("vt", cache_dir=tmp_path).build(("", 6000, None, 0))
    assert sample.ids.tolist() == make_prompt("vt", 6000, 0).ids.tolist()
    assert [path.name for path in tmp_path.iterdir()] == ["ruler"]
