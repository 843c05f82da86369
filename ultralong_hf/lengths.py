"""Lengths in tokens, as numbers and as text: K = 1,024 and M = 1,048,576."""

from __future__ import annotations

import re

from ultralong_hf.errors import LengthError

_UNITS = {"": 1, "K": 1024, "M": 1024**2}
_LENGTH = re.compile(r"(\d[\d,_]*(?:\.\d+)?)\s*([KkMm]?)")


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


def format_length(tokens: int) -> str:
    """The shortest exact text: 1048576 -> "1M", 131072 -> "128K", 5000 -> "5,000"."""
    for unit in ("M", "K"):
        if tokens >= _UNITS[unit] and tokens % _UNITS[unit] == 0:
            return f"{tokens // _UNITS[unit]}{unit}"
    return f"{tokens:,}"
