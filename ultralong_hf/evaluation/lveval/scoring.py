"""How LV-Eval scores an answer: token F1 behind a gate of keyword recall, or ROUGE-L.

The rules are those of infinigence/LVEval's metrics.py at commit 25aebcb. Its README says that blacklisted
words are removed before F1; its code takes them out of the recalled keywords only, and so do we.
"""

from __future__ import annotations

from collections.abc import Sequence

from ultralong_hf.errors import MachineError
from ultralong_hf.evaluation.chinese_words import cut_words
from ultralong_hf.evaluation.lveval.blacklists import CHINESE_BLACKLIST, ENGLISH_BLACKLIST
from ultralong_hf.evaluation.overlap import normalize_chinese, normalize_english, shared, token_f1

ENGLISH_GATE = 0.2
CHINESE_GATE = 0.4


def english_f1(answer: str, reference: str, keywords: str | None = None) -> float:
    """Word F1. Keywords play no part."""
    return token_f1(normalize_english(answer).split(), normalize_english(reference).split())


def chinese_f1(answer: str, reference: str, keywords: str | None = None) -> float:
    """F1 over jieba's words, punctuation left out. Keywords play no part."""
    return token_f1(_chinese_tokens(answer), _chinese_tokens(reference))


def english_f1_with_keywords(answer: str, reference: str, keywords: str | None = None) -> float:
    """Word F1; 0 where fewer than a fifth of the keywords are recalled. Without keywords there is no gate."""
    tokens = normalize_english(answer).split()
    expected = normalize_english(keywords).split() if keywords else []
    if _recall(tokens, expected, ENGLISH_BLACKLIST) < ENGLISH_GATE:
        return 0.0
    return token_f1(tokens, normalize_english(reference).split())


def chinese_f1_with_keywords(answer: str, reference: str, keywords: str | None = None) -> float:
    """F1 over jieba's words; 0 where less than 0.4 of the keywords is recalled.

    Without keywords, those of the whole reference are taken.
    """
    tokens = _chinese_tokens(answer)
    if _recall(tokens, _chinese_tokens(keywords or reference), CHINESE_BLACKLIST) < CHINESE_GATE:
        return 0.0
    return token_f1(tokens, _chinese_tokens(reference))


def filtered_rouge_l(answer: str, reference: str, keywords: str | None = None) -> float:
    """ROUGE-L F of jieba's words without blacklisted ones, by the library rouge; 0 for an empty answer.

    Raises MachineError where a library is missing.
    """
    try:
        from rouge import Rouge
    except ImportError as error:
        raise MachineError(
            f"dureader_mixup is scored with the library rouge ({error}). "
            "Install it: pip install 'ultralong-hf[eval]'."
        ) from error
    try:
        scores = Rouge().get_scores([_filtered(answer)], [_filtered(reference)], avg=True)
    except (ValueError, RecursionError):  # an empty text; one of a thousand words
        return 0.0
    return float(scores["rouge-l"]["f"])


def _recall(tokens: Sequence[str], keywords: Sequence[str], blacklist: frozenset[str]) -> float:
    """Share of the keywords found, of which blacklisted ones count as not found; 1 without keywords."""
    if not keywords:
        return 1.0
    found = sum(count for word, count in shared(tokens, keywords).items() if word not in blacklist)
    return found / len(keywords)


def _chinese_tokens(text: str) -> list[str]:
    return [token for word in cut_words(text) if (token := normalize_chinese(word))]


def _filtered(text: str) -> str:
    """Words with blanks between. The text is cut twice, the second time with the blanks of the first."""
    words = map(normalize_chinese, cut_words(" ".join(cut_words(text))))
    return " ".join(word for word in words if word not in CHINESE_BLACKLIST)
