"""Answers compared word by word as LV-Eval and InfiniteBench do: the same normalization, the same F1."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_ASCII_PUNCTUATION = frozenset(string.punctuation)
_CHINESE_PUNCTUATION = _ASCII_PUNCTUATION | frozenset(
    "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿"
    "–—‘’‛“”„‟…‧﹏."
)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalize_english(text: str) -> str:
    """Lower case, without ASCII punctuation and articles, blanks made one.

    >>> normalize_english("The  cat's A hat.")
    'cats hat'
    """
    letters = "".join(letter for letter in text.lower() if letter not in _ASCII_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", letters).split())


def normalize_chinese(text: str) -> str:
    """Lower case, without ASCII and Chinese punctuation and without any blank.

    The official list lacks "《" and "·", so both stay, as they do there.
    """
    letters = "".join(letter for letter in text.lower() if letter not in _CHINESE_PUNCTUATION)
    return "".join(letters.split())


def shared(answer: Sequence[str], reference: Sequence[str]) -> Counter[str]:
    """The tokens that both have, each as often as the side that has fewer of it."""
    return Counter(answer) & Counter(reference)


def token_f1(answer: Sequence[str], reference: Sequence[str]) -> float:
    """F1 of two bags of tokens; 0 where they share none.

    >>> token_f1(["a", "b", "b"], ["b", "c"])
    0.4
    """
    common = shared(answer, reference).total()
    if not common:
        return 0.0
    precision, recall = common / len(answer), common / len(reference)
    return 2 * precision * recall / (precision + recall)
