"""The paper's settings against the task files that lm-eval ships; no data are read."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ultralong_hf.errors import EvaluationError, MachineError
from ultralong_hf.evaluation.standard.harness import TaskCall, find_task, leaf_configs, local_copy
from ultralong_hf.evaluation.standard.measure import SELECTORS
from ultralong_hf.evaluation.standard.presets import PRESETS


def call(task: str, name: str, **options) -> TaskCall:
    return TaskCall(task, folders=PRESETS[name].folders, allow_code_execution=True, **options)


@pytest.mark.parametrize(
    ("name", "tasks", "dataset", "metric"),
    [
        ("mmlu", 57, "cais/mmlu", "acc"),
        ("mmlu_pro", 14, "TIGER-Lab/MMLU-Pro", "exact_match"),
        ("math", 7, "EleutherAI/hendrycks_math", "math_verify"),
        ("gsm8k", 1, "openai/gsm8k", "exact_match"),
    ],
)
def test_presets_name_tasks_datasets_and_metrics_that_lm_eval_has(name, tasks, dataset, metric):
    preset = PRESETS[name]
    leaves = leaf_configs(find_task(call(preset.task, name)), preset.task)
    assert len(leaves) == tasks
    assert {leaf["dataset_path"] for leaf in leaves} == {dataset}
    assert all(metric in [known["metric"] for known in leaf["metric_list"]] for leaf in leaves)
    answer_filter = preset.metric.partition(",")[2]
    filters = {part["name"] for leaf in leaves for part in leaf.get("filter_list", [{"name": "none"}])}
    assert answer_filter in filters


def test_shots_are_the_papers():
    shots = {name: preset.num_fewshot for name, preset in PRESETS.items()}
    assert shots == {"mmlu": 5, "mmlu_pro": 5, "math": 0, "gsm8k": 8, "humaneval": 0}


def test_gsm8k_has_its_eight_examples_written_out():
    [leaf] = leaf_configs(find_task(call("gsm8k_cot", "gsm8k")), "gsm8k_cot")
    assert len(leaf["fewshot_config"]["samples"]) == 8


@pytest.mark.parametrize("task", ["humaneval", "humaneval_instruct"])
def test_humaneval_is_known_to_run_code(task):
    [leaf] = leaf_configs(find_task(call(task, "humaneval")), task)
    assert leaf["unsafe_code"] is True
    with pytest.raises(EvaluationError, match="runs code that the model writes"):
        find_task(TaskCall(task, folders=PRESETS["humaneval"].folders))


def test_own_task_files_are_looked_at_first(task_folder):
    manager = find_task(TaskCall("tiny_choice", include_path=task_folder))
    assert len(manager.all_tasks) < 13
    assert [leaf["task"] for leaf in leaf_configs(manager, "tiny_group")] == ["tiny_first", "tiny_second"]
    assert [leaf["task"] for leaf in leaf_configs(manager, "tiny_tag")] == ["tiny_first", "tiny_second"]


@pytest.mark.parametrize("task", ["arc_easy", "hellaswag", "truthfulqa_mc2"])
def test_other_tasks_are_found_without_reading_them_all(task):
    manager = find_task(TaskCall(task))
    assert [leaf["task"] for leaf in leaf_configs(manager, task)] == [task]
    assert len(manager.all_tasks) < 1_000


def test_any_task_may_be_named_and_the_presets_are_listed():
    assert "arc_easy" in SELECTORS
    assert list(SELECTORS) == ["mmlu", "mmlu_pro", "math", "gsm8k", "humaneval"]


def test_an_unknown_task_is_refused_with_the_nearest(task_folder, monkeypatch):
    from lm_eval.tasks import TaskManager

    class OwnOnly(TaskManager):
        """All built-in tasks are not read: that takes half a minute."""

        def __init__(self, **options):
            super().__init__(**{**options, "include_defaults": False})

    monkeypatch.setattr("lm_eval.tasks.TaskManager", OwnOnly)
    with pytest.raises(
        EvaluationError, match=r"standard/tiny_choise is no task of lm-eval .*'tiny_choice'\.$"
    ):
        find_task(TaskCall("tiny_choise", include_path=task_folder))


def test_a_missing_folder_of_task_files_is_refused(tmp_path):
    with pytest.raises(EvaluationError, match="is no folder: --include-path holds task files"):
        find_task(TaskCall("tiny", include_path=tmp_path / "nowhere"))


def test_without_lm_eval_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(
        MachineError, match=r"needs the library lm-eval .* pip install 'ultralong-hf\[eval\]'"
    ):
        find_task(TaskCall("tiny"))


def test_a_copy_lies_under_its_owner_or_under_its_name(tmp_path: Path):
    assert local_copy("owner/name", None) is None
    assert local_copy("owner/name", tmp_path) is None
    (tmp_path / "name").mkdir()
    assert local_copy("owner/name", tmp_path) == tmp_path / "name"
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert local_copy("owner/name", tmp_path) == tmp_path / "owner" / "name"
