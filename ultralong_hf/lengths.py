"""Numbers of tokens, as numbers and as text: lengths by 1,024 (K, M), budgets by 1,000 (K, M, B)."""

from __future__ import annotations

import re

from ultralong_hf.errors import LengthError

_UNITS = {"": 1, "K": 1024, "M": 1024**2}
_LENGTH = re.compile(r"(\d[\d,_]*(?:\.\d+)?)\s*([KkMm]?)")
_BUDGET_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}
_BUDGET = re.compile(r"(\d[\d,_]*(?:\.\d+)?)\s*([KkMmBb]?)")


def parse_length(length: int | str) -> int:
    """Tokens in `length`, an int or a text such as "1M", "128K", "4096" or "1,048,576".

    >>> parse_length("1M"), parse_length("1.5K"), parse_length(4096)
    (1048576, 1536, 4096)

    Raises LengthError for anything else, for lengths below 1, and for parts of a token ("0.3K").
    """
    if isinstance(length, bool) or not isinstance(length, int | str):
        raise LengthError(f"{length!r} is no length: give an int, or a text such as '128K' or '1M'.")
    if isinstance(length, int):
        tokens: float = length
    else:
        match = _LENGTH.fullmatch(length.strip())
        if match is None:
            raise LengthError(
                f"{length!r} is no length: write '4096', '128K' (K = 1,024) or '1M' (M = 1,048,576)."
            )
        number, unit = match.groups()
        tokens = float(number.replace(",", "").replace("_", "")) * _UNITS[unit.upper()]
    if tokens < 1 or tokens != int(tokens):
        raise LengthError(f"{length!r} is {tokens:g} tokens: a length is a whole number of at least 1.")
    return int(tokens)


def parse_budget(budget: int | str) -> int:
    """Tokens of a budget: an int, or a text such as "1B", by thousands as papers count corpora.

    >>> parse_budget("1B"), parse_budget("1.5M"), parse_budget(4096)
    (1000000000, 1500000, 4096)

    Raises LengthError for anything else, and for budgets below 1.
    """
    if isinstance(budget, str) and (match := _BUDGET.fullmatch(budget.strip())):
        number, unit = match.groups()
        budget = round(float(number.replace(",", "").replace("_", "")) * _BUDGET_UNITS[unit.upper()])
    if isinstance(budget, bool) or not isinstance(budget, int) or budget < 1:
        raise LengthError(
            f"{budget!r} is no number of tokens: give one of at least 1, or a text such as '500M' or '1B' "
            "(1,000,000,000)."
        )
    return budget


def format_length(tokens: int) -> str:
    """The shortest exact text: 1048576 -> "1M", 131072 -> "128K", 5000 -> "5,000"."""
    for unit in ("M", "K"):
        if tokens >= _UNITS[unit] and tokens % _UNITS[unit] == 0:
            return f"{tokens // _UNITS[unit]}{unit}"
    return f"{tokens:,}"
