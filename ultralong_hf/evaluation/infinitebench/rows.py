"""Rows of InfiniteBench's official files: the values that prompts quote, and the label an answer is held to.

The files have id, context, input, answer and options. An answer is a text, a number or a list; on the hub, as
Parquet, all numbers are texts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ultralong_hf.errors import EvaluationError

FIELDS = ("context", "input", "answer")
_LETTERS = "ABCD"
_CHOICES = ("longbook_choice_eng", "code_debug")
_FUNCTION_CALL = re.compile(r"(func_[0-9]+)\(-?[0-9]+\)")
# "The second largest number of the above list is:" -> "the second largest number"
_TARGET = re.compile(r"(The .+) of|(The \w+ number)")


def prompt_values(task: str, record: Mapping[str, Any]) -> dict[str, str]:
    """What a template quotes. Raises EvaluationError where the row lacks it."""
    values = {name: record[name] for name in ("context", "input")}
    for name, value in values.items():
        if not isinstance(value, str):
            raise EvaluationError(f"{name} is no text: {value!r}")
    values["question"] = values["input"]
    if task in _CHOICES:
        values |= {f"OPTION_{letter}": text for letter, text in zip(_LETTERS, _options(record), strict=True)}
    elif task == "code_run":
        call = _found(_FUNCTION_CALL, values["input"], "function call such as func_12(3)")
        values |= {"func": call[1], "func_call": call[0]}
    elif task == "math_find":
        target = _found(_TARGET, values["input"], "'The ... number'")
        values["prefix"] = f"What is {(target[1] or target[2]).lower()} in the following list?"
    return values


def label_of(task: str, record: Mapping[str, Any]) -> Any:
    """The label as its scorer takes it, of JSON values. Raises EvaluationError for another form."""
    answer = record["answer"]
    listed = answer if isinstance(answer, list) else [answer]
    try:
        if not listed:
            raise ValueError
        if task in _CHOICES:
            return _choice(listed, _options(record))
        if task in ("passkey", "number_string", "kv_retrieval"):
            return str(listed[0])
        if task == "code_run":
            return _whole_number(listed[0])
        if task == "math_find":
            return listed[0] if isinstance(listed[0], int | float) else _number(listed[0])
        if task == "math_calc":
            return _whole_numbers(listed)
        return [_text(text) for text in listed]
    except (ValueError, TypeError) as error:
        raise EvaluationError(f"answer is of no form that {task} has: {answer!r}") from error


def _options(record: Mapping[str, Any]) -> list[str]:
    options = record.get("options")
    if not (isinstance(options, list) and len(options) == 4):
        raise EvaluationError(f"options are no list of four: {options!r}")
    return [str(option) for option in options]


def _choice(answer: Sequence[Any], options: Sequence[str]) -> list[str]:
    """[text, letter], as the rows have it or from the text's place among the options."""
    if len(answer) == 2 and answer[1] in tuple(_LETTERS):
        return [_text(answer[0]), answer[1]]
    if len(answer) != 1:
        raise ValueError
    return [_text(answer[0]), _LETTERS[options.index(answer[0])]]


def _whole_numbers(answer: Any) -> list[int]:
    """[1, 2], [[1, 2]], ["1", "2"] or ["[1, 2]"]."""
    if isinstance(answer[0], str) and answer[0].lstrip().startswith("["):
        answer = json.loads(answer[0])
    if isinstance(answer[0], list):
        answer = answer[0]
    if not answer:
        raise ValueError
    return [_whole_number(value) for value in answer]


def _whole_number(value: Any) -> int:
    if isinstance(value, bool | float) or not isinstance(value, int | str):
        raise TypeError
    return int(value)


def _number(text: str) -> int | float:
    return float(text) if "." in text else int(text)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _found(pattern: re.Pattern[str], text: str, wanted: str) -> re.Match[str]:
    found = pattern.search(text)
    if found is None:
        raise EvaluationError(f"input has no {wanted}: {text!r}")
    return found
