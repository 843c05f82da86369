"""How InfiniteBench scores an answer, task by task, with every quirk of its compute_scores.py.

The rules are those of OpenBMB/InfiniteBench at commit 88b3daa. One is mended: a decimal number in place of a
whole one in Math.Find ends its run with a ValueError, and is compared as a number here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ultralong_hf.errors import MachineError
from ultralong_hf.evaluation.overlap import normalize_chinese, normalize_english, token_f1

_MARKS = re.compile(r"[\n:\"'.,?!{}]")
_DIGITS = re.compile(r"[0-9]+")
_NUMBER = re.compile(r"\d+\.\d+|\d+")
_BLANKS = re.compile(r"  +")
_CHOICE_PREFIXES = ("answer is:", "answer:", "answer is", "option is")
# "correct option is:" is listed there as well; "is:" is found in it first.
_CODE_PREFIXES = ("answer is:", "is:", "answer:")


def first_number_is(answer: str, label: str) -> float:
    """1 where the first run of digits is the label, zeros in front of it included."""
    found = _DIGITS.search(answer)
    return float(found is not None and found.group() == label)


def has_word(answer: str, label: str) -> float:
    """1 where the label stands between blanks or the marks : " ' . , ? ! { }."""
    return float(label in _MARKS.sub(" ", answer).split())


def has_name(answer: str, label: Sequence[str]) -> float:
    """1 where the first of the names is a word of the answer, which is put in upper case and the name not.

    A name of two words, or with a mark in it, is never found.
    """
    return float(label[0] in [word.upper() for word in _MARKS.sub(" ", answer).split()])


def english_f1(answer: str, label: Sequence[str]) -> float:
    """The best word F1 over the references."""
    tokens = normalize_english(answer).split()
    return max((token_f1(tokens, normalize_english(text).split()) for text in label), default=0.0)


def chinese_f1(answer: str, label: Sequence[str]) -> float:
    """The best F1 over the references, a character a token."""
    letters = normalize_chinese(answer)
    return max((token_f1(letters, normalize_chinese(text)) for text in label), default=0.0)


def rouge_lsum(answer: str, label: Sequence[str]) -> float:
    """rougeLsum F of the library rouge-score, unstemmed, the best over the references.

    As the metric "rouge" of the library evaluate computes it. Raises MachineError where it is missing.
    """
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise MachineError(
            f"longbook_sum_eng is scored with the library rouge-score ({error}). "
            "Install it: pip install 'ultralong-hf[eval]'."
        ) from error
    scores = RougeScorer(["rougeLsum"], use_stemmer=False).score_multi(list(label), answer)
    return float(scores["rougeLsum"].fmeasure)


def book_choice(answer: str, label: Sequence[str]) -> float:
    """Multiple choice of a book; label: the right option's text and its letter.

    A first letter A to D is the choice, a word that merely begins so ("Because") included. Else what follows
    "answer is", "option is" or the like must begin with the text or the letter. Else the first word that is a
    piece of "ABCD" is the choice, "BC" included.
    """
    answer = answer.strip()
    if not answer:
        return 0.0
    if answer[0] in "ABCD":
        return float(answer[0] in label)
    if answer in label:
        return 1.0
    answer = _BLANKS.sub(" ", re.sub(r"[\n\"'.,?!{}]", " ", answer))
    for prefix in _CHOICE_PREFIXES:
        if prefix in answer:
            return _follows(answer, prefix, label)
    words = [word for word in answer.split() if word in "ABCD"]
    return float(bool(words) and words[0] in label)


def code_choice(answer: str, label: Sequence[str]) -> float:
    """Multiple choice of code; label: the right function's name and its letter.

    Right are "B." and "B:" at the start, and the letter or the name after "answer is:", "is:" or "answer:". A
    letter alone is wrong.
    """
    name, letter = label
    answer = answer.strip()
    if answer[:2] in (f"{letter}.", f"{letter}:"):
        return 1.0
    answer = _BLANKS.sub(" ", re.sub(r"[\n`'\"*-]|[Oo]ption", " ", answer))
    for prefix in _CODE_PREFIXES:
        if prefix in answer:
            return _follows(answer, prefix, (letter, name))
    return 0.0


def first_value_is(answer: str, label: int | float) -> float:
    """1 where the first number, its sign left out, equals the label."""
    found = _NUMBER.search(answer)
    return float(found is not None and float(found.group()) == label)


def last_word_is(answer: str, label: int) -> float:
    """1 where the last word, points, quotes and colons taken as blanks, is the label as a whole number."""
    words = re.sub(r"[\n.`'\":]", " ", answer.strip()).split()
    try:
        return float(bool(words) and int(words[-1]) == label)
    except ValueError:
        return 0.0


def leading_values(answer: str, label: Sequence[int]) -> float:
    """The share of the values that are right up to the first wrong one. Signs are not read: a negative value
    is never right."""
    found = [int(digits) for digits in _DIGITS.findall(answer)]
    right = 0
    for expected, given in zip(label, found, strict=False):
        if expected != given:
            break
        right += 1
    return right / len(label)


def gpt4_values(answer: str, label: Sequence[int]) -> float:
    """`leading_values` without the answer's first number, which gpt4's prompts make a model repeat."""
    first = _DIGITS.search(answer)
    return leading_values(answer[first.end() :] if first else answer, label)


def _follows(answer: str, prefix: str, choices: Sequence[str]) -> float:
    """1 where a choice begins one letter (a blank) after the prefix."""
    rest = answer[answer.find(prefix) + len(prefix) + 1 :]
    return float(rest.startswith(tuple(choices)))
