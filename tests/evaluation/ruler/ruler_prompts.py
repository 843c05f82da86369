"""Prompts of RULER's tasks and their texts, made with a small byte-level tokenizer."""

from __future__ import annotations

import functools
from typing import Any

from tiny_tokenizers import tokenizer_of_kind

from ultralong_hf.evaluation.ruler import ruler_tasks
from ultralong_hf.evaluation.ruler.building import Prompt
from ultralong_hf.evaluation.ruler.definitions import TASKS
from ultralong_hf.evaluation.ruler.tasks import RulerTask
from ultralong_hf.evaluation.tasks import TaskContext

ESSAYS = (
    "".join(
        f'The {adjective} keeper number {number} walked to the harbour. "Why?" she said. Nobody knew, '
        "and it was late; the lamps were lit. Who would have thought of it! "
        for number in range(150)
        for adjective in ("old", "young")
    ),
)
"""600 sentences and more."""

KIND = "Llama 3"


def make_task(
    name: str, *, kind: str = KIND, lengths: tuple[int, ...] = (16_384,), **context: Any
) -> RulerTask:
    """One task on a small tokenizer; its prompts are plain and begin with no BOS."""
    context = {"haystack": ESSAYS, "style": "plain", **context}
    given = TaskContext(tokenizer=tokenizer_of_kind(kind), lengths=lengths, **context)
    [task] = ruler_tasks(name, given)
    return task


@functools.cache
def tasks_of_kind(kind: str) -> dict[str, RulerTask]:
    """All tasks on one small tokenizer, made once a test run."""
    context = TaskContext(
        tokenizer=tokenizer_of_kind(kind), style="plain", lengths=(16_384,), haystack=ESSAYS
    )
    return {task.selector: task for task in ruler_tasks(None, context)}


def shared_task(name: str) -> RulerTask:
    return tasks_of_kind(KIND)[name]


def make_prompt(name: str, length: int = 16_384, sample: int = 0) -> Prompt:
    return shared_task(name).maker.make(length, sample)


def text_of(prompt: Prompt, kind: str = KIND) -> str:
    return tokenizer_of_kind(kind).decode(prompt.ids, clean_up_tokenization_spaces=False)


def parts_of(name: str, prompt: Prompt) -> tuple[str, str, str]:
    """(before the context, context, behind it) of a prompt's text."""
    text, frame = text_of(prompt), prompt.frame
    behind = frame.after + frame.answer_prefix
    assert text.startswith(frame.before)
    assert text.endswith(behind)
    return frame.before, text[len(frame.before) : -len(behind)], behind


def budget_of(name: str) -> int:
    return TASKS[name].answer_tokens
