"""RULER's two scores: whether the references stand in the answer, upper and lower case alike.

`string_match_all` and `string_match_part` of NVIDIA/RULER, scripts/eval/synthetic/constants.py; the answer is
cleaned as in scripts/eval/evaluate.py. lm-eval 0.4.13 scores questions by the first, not by the second.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_CONTROL = re.compile(r"[\x00-\x1f]")


def clean_answer(answer: str) -> str:
    """The answer without blanks around it, control characters made line ends.

    >>> clean_answer("  7\\t12\\x00 ")
    '7\\n12'
    """
    return _CONTROL.sub("\n", answer.strip()).strip()


def match_all(answer: str, references: Sequence[str]) -> float:
    """The share of the references that stand in the answer.

    >>> match_all("It is Red, and blue", ["red", "BLUE", "green", "black"])
    0.5
    """
    found = _found(answer, references)
    return sum(found) / len(found)


def match_any(answer: str, references: Sequence[str]) -> float:
    """1 if one of the references stands in the answer, else 0.

    >>> match_any("in Paris", ["Paris", "Paris, France"])
    1.0
    """
    return float(any(_found(answer, references)))


def _found(answer: str, references: Sequence[str]) -> list[bool]:
    cleaned = clean_answer(answer).lower()
    return [reference.lower() in cleaned for reference in references]
