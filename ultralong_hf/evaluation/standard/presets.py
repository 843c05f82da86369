"""The paper's standard benchmarks and their settings, in lm-eval's terms.

Shots are the paper's (arXiv 2504.06214, read second-hand): MMLU and MMLU-Pro 5, MATH 0, GSM8K 8, HumanEval 0
with pass@1. Which harness and which of its variants the authors used is not known, so the variants are ours.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """One benchmark: the lm-eval task, how it is asked, and the metric that stands for it."""

    task: str
    num_fewshot: int
    metric: str
    """lm-eval's "metric,filter"."""
    folders: tuple[str, ...]
    """Where under lm_eval/tasks its files lie: reading all 14,683 tasks takes half a minute."""
    chat_task: str | None = None
    """The task where prompts go through a chat template, if it is another."""


PRESETS = {
    "mmlu": Preset("mmlu", 5, "acc,none", ("mmlu/default",)),
    "mmlu_pro": Preset("mmlu_pro", 5, "exact_match,custom-extract", ("mmlu_pro",)),
    # A right answer in any form that math_verify parses counts, \boxed{} included: chat models write that.
    "math": Preset("minerva_math", 0, "math_verify,none", ("minerva_math", "benchmarks")),
    # Eight fixed examples with their reasoning; the last number of the answer counts.
    "gsm8k": Preset("gsm8k_cot", 8, "exact_match,flexible-extract", ("gsm8k",)),
    "humaneval": Preset("humaneval", 0, "pass@1,create_test", ("humaneval",), chat_task="humaneval_instruct"),
}
