"""NVIDIA's definitions beside ours, fact by fact. What samples must obey is tested generator by generator."""

from __future__ import annotations

import numpy as np
import nvidia_definitions as nvidia
import pytest
from ruler_prompts import make_task

from ultralong_hf.evaluation.ruler import SELECTORS
from ultralong_hf.evaluation.ruler.definitions import (
    DEPTHS,
    NOISE,
    TASKS,
    CommonWords,
    FrequentWords,
    Niah,
    Questions,
    VariableTracking,
)

KINDS = {
    "niah": Niah,
    "variable_tracking": VariableTracking,
    "common_words_extraction": CommonWords,
    "freq_words_extraction": FrequentWords,
    "qa": Questions,
}
PLACES = {
    "values": "{type_needle_v}",
    "num_variables": "{num_v}",
    "query": "{query}",
    "key": "{key}",
    "value": "{value}",
}


def _in_their_names(text: str) -> str:
    return text.format(**PLACES)


def test_the_thirteen_tasks_are_nvidias():
    assert list(SELECTORS) == list(nvidia.ARGUMENTS)


@pytest.mark.parametrize("name", [name for name in nvidia.ARGUMENTS if name.startswith("niah")])
def test_arguments_of_a_needle_task_are_nvidias(name):
    _, haystack, *others = nvidia.ARGUMENTS[name]
    keys, values, num_keys, num_values, num_queries = others
    expected = Niah(
        haystack="noise" if haystack == "repeat" else haystack,
        keys=keys,
        values=values,
        num_keys=max(num_keys, num_queries),  # niah.py: num_needle_k = max(num_needle_k, num_needle_q)
        num_values=num_values,
        num_queries=num_queries,
    )
    assert TASKS[name] == expected


def test_arguments_of_the_other_tasks_are_nvidias():
    vt, cwe, fwe = (nvidia.ARGUMENTS[name][1] for name in ("vt", "cwe", "fwe"))
    assert TASKS["vt"] == VariableTracking(chains=vt["num_chains"], hops=vt["num_hops"])
    assert TASKS["fwe"] == FrequentWords(
        alpha=fwe["alpha"], letters=nvidia.CODED[0], tokens_a_word=nvidia.CODED[1]
    )
    short, usual = nvidia.EXAMPLES["below 4096"], nvidia.EXAMPLES["else"]
    assert usual[1] == (cwe["freq_cw"], cwe["freq_ucw"])
    assert TASKS["cwe"] == CommonWords(
        num_common=cwe["num_cw"], common_repeats=usual[1][0], uncommon_repeats=usual[1][1], example=usual[0]
    )
    assert (CommonWords.short_example, CommonWords.short_repeats, CommonWords.short_length) == (*short, 4096)
    assert [TASKS[name].dataset for name in ("qa_1", "qa_2")] == [
        nvidia.ARGUMENTS[name][1]["dataset"] for name in ("qa_1", "qa_2")
    ]


@pytest.mark.parametrize("task", nvidia.WORDING)
def test_wording_and_budget_are_nvidias(task):
    tokens, template, answer_prefix = nvidia.WORDING[task]
    kind = KINDS[task]
    joint = {"freq_words_extraction": " {context}\n", "qa": "{context}\n\n"}.get(task, "{context}\n")
    assert kind.answer_tokens == tokens
    assert _in_their_names(kind.before) + joint + _in_their_names(kind.after) == template
    assert _in_their_names(kind.answer_prefix) == answer_prefix.strip()


def test_wording_for_one_answer_is_nvidias():
    _, template, answer_prefix = nvidia.WORDING["niah"]
    for old, new in nvidia.ONE:
        template, answer_prefix = template.replace(old, new), answer_prefix.replace(old, new)
    ours = _in_their_names(Niah.before_one) + "{context}\n" + _in_their_names(Niah.after_one)
    assert ours == template
    assert _in_their_names(Niah.answer_prefix_one) == answer_prefix.strip()


def test_needle_noise_documents_and_depths_are_nvidias():
    assert _in_their_names(Niah.needle) == nvidia.NEEDLE
    assert NOISE == nvidia.NOISE
    assert Questions.document.format(number="{i}", text="{document}") == nvidia.DOCUMENT
    assert list(DEPTHS) == np.round(np.linspace(0, 100, num=40, endpoint=True)).astype(int).tolist()


@pytest.mark.parametrize("name", TASKS)
def test_score_of_each_task_is_nvidias(name):
    metric = nvidia.METRICS[nvidia.ARGUMENTS[name][0]]
    record = {"references": ["red", "blue"]}
    half = make_task(name).score(record, "It is RED.")
    assert half == {"string_match_all": 0.5, "string_match_part": 1.0}[metric]


def test_wording_is_that_of_lm_eval():
    """Where lm-eval is installed; its needle module is left out, which downloads when it is imported."""
    pytest.importorskip("lm_eval")
    from lm_eval.tasks.ruler import cwe_utils, fwe_utils, qa_utils, vt_utils

    found = {
        "variable_tracking": vt_utils.CONFIG["variable_tracking"],
        "common_words_extraction": cwe_utils.CONFIG,
        "freq_words_extraction": fwe_utils.CONFIG,
        "qa": qa_utils.CONFIG,
    }
    for task, config in found.items():
        tokens, template, answer_prefix = nvidia.WORDING[task]
        theirs = config["tokens_to_generate"], config["template"], config["answer_prefix"].strip()
        assert theirs == (tokens, template, answer_prefix.strip())
