"""Texts whose canonical order (NFC) depends on how new one's tables of Unicode are.

`tokenizers` normalizes by those of Unicode 10, gigatoken by those of 16: a mark or a pair of letters that
came in between is ordered or joined by the second only. The code points are those with which the two gave
other ids in a comparison over all of Unicode, each in contexts with other marks, and the pairs of letters
that newer versions join.
"""

from __future__ import annotations

import functools

import numpy as np

_MARKS = [
    *[(0x7FD, 0x7FD), (0x897, 0x89F), (0x8CA, 0x8D3), (0x9FE, 0x9FE), (0xC3C, 0xC3C), (0xD3B, 0xD3C)],
    *[(0xEBA, 0xEBA), (0x1715, 0x1715), (0x1ABF, 0x1ADD), (0x1AE0, 0x1AEB), (0x1DF6, 0x1DFA)],
    (0xA82C, 0xA82C),
]
_SCRIPTS = [
    *[(0x105C0, 0x105FF), (0x10D24, 0x10D6F), (0x10EAB, 0x10EFF), (0x10F46, 0x10F85), (0x11070, 0x11070)],
    *[(0x1133B, 0x1133B), (0x11380, 0x113FF), (0x1145E, 0x1145E), (0x11839, 0x1183A), (0x11900, 0x1195F)],
    *[(0x119E0, 0x119E0), (0x11A34, 0x11A47), (0x11A99, 0x11A99), (0x11D42, 0x11D97), (0x11F41, 0x11F42)],
    *[(0x16100, 0x1613F), (0x16D40, 0x16D7F), (0x16FF0, 0x16FF1), (0x1E08F, 0x1E08F), (0x1E130, 0x1E136)],
    *[(0x1E2AE, 0x1E2EF), (0x1E4EC, 0x1E4EF), (0x1E5EE, 0x1E5EF), (0x1E6E3, 0x1E6F5)],
]


def may_hold_new_marks(text: str) -> bool:
    """Whether it may hold one of them; now and then true of a text that holds another rare script only."""
    if text.isascii():
        return False
    units = np.frombuffer(text.encode("utf-16-le", "surrogatepass"), np.uint16)
    return bool(_table()[units[units >= _MARKS[0][0]]].any())


@functools.cache
def _table() -> np.ndarray:
    """Of each unit of UTF-16 whether it is one of the marks, or the first half of a pair that may be."""
    table = np.zeros(1 << 16, dtype=bool)
    for first, last in _MARKS:
        table[first : last + 1] = True
    for first, last in _SCRIPTS:
        table[0xD800 + ((first - 0x10000) >> 10) : 0xD800 + ((last - 0x10000) >> 10) + 1] = True
    return table
