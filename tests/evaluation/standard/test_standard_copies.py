"""The paper's five through lm-eval's own task files, on small copies of their datasets.

A model that answers as asked has all points, one that does not has none, and the shots are in the prompt.
"""

from __future__ import annotations

from typing import Any

import official_data
import pytest
from lm_eval.models.huggingface import HFLM

from ultralong_hf import evaluate
from ultralong_hf.evaluation.standard.harness import TaskCall, find_task, leaf_configs
from ultralong_hf.evaluation.standard.presets import PRESETS


def configs_of(name: str) -> list[str]:
    preset = PRESETS[name]
    call = TaskCall(preset.task, folders=preset.folders)
    return [leaf["dataset_name"] for leaf in leaf_configs(find_task(call), preset.task)]


@pytest.fixture
def answering(model, tokenizer, tmp_path, monkeypatch):
    """(name, answer to give, chat) -> (entry, the prompts). A multiple-choice answer is an option."""

    def run(name: str, answer: str, tokens: Any = tokenizer) -> tuple[dict[str, Any], list[str]]:
        prompts: list[str] = []

        def generate(self: Any, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            prompts.extend(request.args[0] for request in requests)
            return [answer for _ in requests]

        def choose(self: Any, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            prompts.extend(request.args[0] for request in requests)
            return [(0.0 if request.args[1].strip() == answer else -1.0, False) for request in requests]

        monkeypatch.setattr(HFLM, "generate_until", generate)
        monkeypatch.setattr(HFLM, "loglikelihood", choose)
        options = {"data_dir": tmp_path, "allow_code_execution": True, "progress": False}
        [entry] = evaluate((model, tokens), f"standard/{name}", **options).standard
        return entry, prompts

    return run


def test_gsm8k_has_eight_shots_and_takes_the_last_number(answering, tmp_path):
    official_data.write_gsm8k(tmp_path)
    entry, [prompt] = answering("gsm8k", "So 1 + 1 is 2, I think")
    assert (entry["value"], entry["metric"], entry["filter"]) == (1.0, "exact_match", "flexible-extract")
    assert prompt.count("The answer is ") == 8
    assert prompt.endswith("Q: What is 1 + 1?\nA:")
    assert answering("gsm8k", "It is 3")[0]["value"] == 0.0


def test_math_has_no_shots_and_takes_a_box(answering, tmp_path):
    official_data.write_math(tmp_path, configs_of("math"))
    entry, prompts = answering("math", "so it is $\\boxed{2}$")
    assert (entry["value"], entry["metric"], entry["samples"]) == (1.0, "math_verify", 7)
    assert set(prompts) == {"Problem:\nWhat is 1+1?\n\nSolution:"}
    assert answering("math", "so it is $\\boxed{3}$")[0]["value"] == 0.0


@pytest.mark.parametrize("chat", [False, True])
def test_humaneval_runs_what_the_model_writes(answering, tmp_path, tokenizer, monkeypatch, chat):
    from evaluation_models import make_tokenizer

    official_data.write_humaneval(tmp_path)
    official_data.write_code_eval(tmp_path)
    monkeypatch.chdir(tmp_path)
    tokens = make_tokenizer(chat=chat)
    entry, [prompt] = answering("humaneval", "    return 2\n", tokens)
    assert (entry["value"], entry["metric"], entry["samples"]) == (1.0, "pass@1", 1)
    assert ("Write a solution to the following problem" in prompt) is chat
    assert entry["settings"]["tasks"] == ["humaneval_instruct" if chat else "humaneval"]
    assert answering("humaneval", "    return 3\n", tokens)[0]["value"] == 0.0


@pytest.mark.slow
def test_mmlu_has_five_shots_over_57_subjects(answering, tmp_path):
    official_data.write_mmlu(tmp_path, configs_of("mmlu"))
    entry, prompts = answering("mmlu", "B")
    assert (entry["value"], entry["samples"]) == (0.5, 114)  # of answers A and B
    assert {prompt.count("\nAnswer:") for prompt in prompts} == {6}
    # Each subject has one right and one wrong, so a variance of 0.5 by n - 1, and so has the pool of 114.
    assert entry["stderr"] == pytest.approx((0.5 / 114) ** 0.5)


def test_mmlu_pro_has_five_shots_over_14_categories(answering, tmp_path):
    official_data.write_mmlu_pro(tmp_path)
    entry, prompts = answering("mmlu_pro", "Let me see. The answer is (B).")
    assert (entry["value"], entry["filter"], entry["samples"]) == (1.0, "custom-extract", 14)
    assert {prompt.count("The answer is (B)") for prompt in prompts} == {5}
    assert answering("mmlu_pro", "The answer is (C).")[0]["value"] == 0.0
