"""The table of InfiniteBench's tasks: lengths, answer budgets, fields and rules of scoring."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ultralong_hf.evaluation.infinitebench import scoring
from ultralong_hf.evaluation.infinitebench.templates import TEMPLATES

Score = Callable[[str, Any], float]


@dataclass(frozen=True)
class InfiniteTask:
    """One of the 12."""

    title: str
    """As the paper calls it."""
    mean_tokens: int
    """Mean input tokens by the official README; the length that results are reported under."""
    max_new_tokens: int
    """Of the official code, for prompts that end with the start of the answer (yarn-mistral)."""
    chat_tokens: int
    """For a chat model that answers in a sentence (gpt4, claude2). Ours: upstream sets these no limit."""
    score: Score
    """(answer, label) -> 0 to 1."""


TASKS = {
    "passkey": InfiniteTask("Retrieve.PassKey", 122_400, 6, 64, scoring.first_number_is),
    "number_string": InfiniteTask("Retrieve.Number", 122_400, 12, 64, scoring.first_number_is),
    "kv_retrieval": InfiniteTask("Retrieve.KV", 89_900, 50, 96, scoring.has_word),
    "longbook_sum_eng": InfiniteTask("En.Sum", 171_500, 1_200, 1_200, scoring.rouge_lsum),
    "longbook_qa_eng": InfiniteTask("En.QA", 192_600, 40, 64, scoring.english_f1),
    "longbook_choice_eng": InfiniteTask("En.MC", 184_400, 40, 64, scoring.book_choice),
    "longbook_qa_chn": InfiniteTask("Zh.QA", 2_068_600, 40, 64, scoring.chinese_f1),
    "longdialogue_qa_eng": InfiniteTask("En.Dia", 103_600, 40, 64, scoring.has_name),
    "math_find": InfiniteTask("Math.Find", 87_900, 3, 64, scoring.first_value_is),
    "math_calc": InfiniteTask("Math.Calc", 43_900, 30_000, 30_000, scoring.leading_values),
    "code_run": InfiniteTask("Code.Run", 75_200, 5, 512, scoring.last_word_is),
    "code_debug": InfiniteTask("Code.Debug", 114_700, 5, 1_024, scoring.code_choice),
}

BOOK_QUESTIONS = ("longbook_qa_eng", "longbook_choice_eng", "longbook_qa_chn")
"""Several rows ask about one book, which stands before the question."""
FAMILY_MARK = "@"
SELECTORS = (
    *TASKS,
    *(f"{task}{FAMILY_MARK}{family}" for family in TEMPLATES for task in ("all", *TASKS)),
)
"""A task, or a task (or all) with the family of prompts to ask by: "passkey@claude2", "all@yarn-mistral"."""
