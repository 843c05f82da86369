"""The table of LV-Eval's datasets: prompt, answer budget and rule of scoring of each.

As infinigence/LVEval has them at commit 25aebcb (config.py, MIT). Prompts are quoted to the letter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ultralong_hf.evaluation.lveval.scoring import (
    chinese_f1,
    chinese_f1_with_keywords,
    english_f1,
    english_f1_with_keywords,
    filtered_rouge_l,
)

LEVELS = {16_384: "16k", 32_768: "32k", 65_536: "64k", 131_072: "128k", 262_144: "256k"}
"""The length that is reported -> the level's name. A level counts words (English) or characters (Chinese) of
the text, so a prompt has more tokens than its level says."""

_ONE = (
    "Questions and answers are only relevant to one passage. "
    "Only give me the answer and do not output any other explanation and evidence."
)
_SOME = _ONE.replace("one passage", "some passages")
_ONE_ZH = "问题和答案只与其中一篇文章有关。"
_BRIEF_ZH = "只需要直接给出问题的答案，不要输出其他任何解释和证据。"

_ENGLISH = (
    f"Please answer the following question based on the given passages. {_ONE}\n\nArticle: {{context}}\n\n"
    f"Please answer the following question based on the above passages. {_ONE}\n\n"
    "Question: {input}\nAnswer:"
)
_CHINESE = (
    f"请根据下面给定的文章回答问题，{_ONE_ZH}\n\n文章：{{context}}\n\n"
    f"现在请基于上述文章回答下面的问题，{_ONE_ZH}\n\n问题：{{input}}\n回答："
)

Score = Callable[[str, str, str | None], float]


@dataclass(frozen=True)
class Dataset:
    """One of the 11. `score` takes (answer, reference, answer keywords or None)."""

    prompt: str
    score: Score
    max_new_tokens: int = 64


DATASETS = {
    "hotpotwikiqa_mixup": Dataset(
        f"Answer the question based on the given passages. {_SOME}\n\nArticle: {{context}}\n\n"
        f"Please answer the following question based on the above passages. {_SOME}\n\n"
        "Question: {input}\nAnswer:",
        english_f1_with_keywords,
    ),
    "loogle_SD_mixup": Dataset(_ENGLISH, english_f1_with_keywords),
    "loogle_CR_mixup": Dataset(_ENGLISH, english_f1_with_keywords),
    "loogle_MIR_mixup": Dataset(_ENGLISH, english_f1_with_keywords),
    "multifieldqa_en_mixup": Dataset(_ENGLISH, english_f1_with_keywords),
    "multifieldqa_zh_mixup": Dataset(
        f"请阅读以下文章并用中文回答问题，{_ONE_ZH}{_BRIEF_ZH}\n\n文章：{{context}}\n\n"
        f"请基于上面的文章回答下面的问题，{_ONE_ZH}{_BRIEF_ZH}\n\n问题：{{input}}\n回答：",
        chinese_f1_with_keywords,
    ),
    "factrecall_en": Dataset(
        "Please answer the following questions based on the given article.\n\nArticle: {context}\n\n"
        "Please answer the following questions based on the above article.\n\n"
        "Question: {input}\nAnswer:",
        english_f1,
        max_new_tokens=16,
    ),
    "factrecall_zh": Dataset(
        "请基于给定的文章回答下述问题。\n\n文章：{context}\n\n现在请基于上述文章回答下面的问题。\n\n"
        "问题：{input}\n回答：",
        chinese_f1,
        max_new_tokens=16,
    ),
    "cmrc_mixup": Dataset(_CHINESE, chinese_f1_with_keywords),
    "lic_mixup": Dataset(_CHINESE.replace("现在请基于", "请现在基于"), chinese_f1_with_keywords),
    "dureader_mixup": Dataset(_CHINESE, filtered_rouge_l),
}
