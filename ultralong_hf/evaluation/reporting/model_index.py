"""`model-index` metadata of a model card, which the hub reads and shows beside the model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.reporting.cells import title_of
from ultralong_hf.evaluation.reporting.figures import family_curve
from ultralong_hf.evaluation.reporting.models import (
    FAMILY_TITLES,
    WITHOUT_MEAN,
    ModelResults,
    Score,
    family_of,
)
from ultralong_hf.evaluation.reporting.standing import ruler_standing
from ultralong_hf.lengths import format_length

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

TASK_TYPE = "text-generation"
# Names of the data on the hub; the others have none that the results could be looked up by.
DATASETS = {
    "mmlu": ("cais/mmlu", "MMLU"),
    "mmlu_pro": ("TIGER-Lab/MMLU-Pro", "MMLU-Pro"),
    "math": ("EleutherAI/hendrycks_math", "MATH"),
    "gsm8k": ("openai/gsm8k", "GSM8K"),
    "humaneval": ("openai/openai_humaneval", "HumanEval"),
    "lveval": ("Infinigence/LVEval", "LV-Eval"),
    "infinitebench": ("xinrongzhang2022/InfiniteBench", "InfiniteBench"),
}


def eval_results(model: ModelResults) -> list[EvalResult]:
    """huggingface_hub's EvalResult of the means that a card has room for, in percent.

    Needles, RULER and LV-Eval by length, a mean over tasks each; InfiniteBench by task; safety's rates by
    task and length; RULER's effective length, where all its tasks were measured; every standard benchmark.
    """
    from huggingface_hub import EvalResult

    results = []
    for family in dict.fromkeys(map(family_of, model.records)):
        if family == "infinitebench":
            results += [_by_task(model, task) for task in model.tasks_of(family)]
        elif family in WITHOUT_MEAN:
            results += [_rate(model, task, n) for task in model.tasks_of(family) for n in model.lengths(task)]
        else:
            results += [
                _by_length(model, family, length, score)
                for length, score in family_curve(model, family).points.items()
            ]
    standing = ruler_standing(model) if model.tasks_of("ruler") else None
    if standing is not None and standing.effective_length is not None and not standing.missing_tasks:
        results.append(
            EvalResult(
                task_type=TASK_TYPE,
                dataset_type="ruler",
                dataset_name="RULER, effective length",
                metric_type="effective_length",
                metric_name="effective length, tokens",
                metric_value=standing.effective_length,
            )
        )
    return [*results, *_standard_results(model)]


def _by_length(model: ModelResults, family: str, length: int, score: Score) -> EvalResult:
    from huggingface_hub import EvalResult

    kind, title = DATASETS.get(family, (family, FAMILY_TITLES.get(family, family)))
    is_grid = all(task in model.grids() for task in model.tasks_of(family))
    arguments: dict[str, Any] = {"prompts": score.samples}
    if missing := model.missing_tasks(family):
        arguments["tasks_not_measured"] = missing
    return EvalResult(
        task_type=TASK_TYPE,
        dataset_type=kind,
        # the length stands in the name: the hub joins results of equal data set and settings
        dataset_name=f"{title} at {format_length(length)} tokens" if length else f"{title}, shortest prompt",
        dataset_config=str(length),
        metric_type="recall" if is_grid else "score",
        metric_name="found, %" if is_grid else "mean score, %",
        metric_value=round(100 * score.mean, 2),
        metric_args=arguments | _interval(score),
    )


def _by_task(model: ModelResults, task: str) -> EvalResult:
    from huggingface_hub import EvalResult

    kind, title = DATASETS[family_of(task)]
    [length] = model.lengths(task)
    score = model.score(task, length)
    assert score is not None
    name = task.partition("/")[2]
    return EvalResult(
        task_type=TASK_TYPE,
        dataset_type=kind,
        dataset_name=f"{title}, {name}",
        dataset_config=name,
        metric_type="score",
        metric_name="score, %",
        metric_value=round(100 * score.mean, 2),
        metric_args={"prompts": score.samples} | _interval(score),
    )


def _rate(model: ModelResults, task: str, length: int) -> EvalResult:
    from huggingface_hub import EvalResult

    score = model.score(task, length)
    assert score is not None
    where = f"{format_length(length)} tokens" if length else "the request alone"
    return EvalResult(
        task_type=TASK_TYPE,
        dataset_type=task,
        dataset_name=f"{FAMILY_TITLES[family_of(task)]}, {task.partition('/')[2]}, {where}",
        dataset_config=str(length),
        metric_type="rate",
        metric_name=f"{title_of(task)}, %",
        metric_value=round(100 * score.mean, 2),
        metric_args={"prompts": score.samples} | _interval(score),
    )


def _interval(score: Score) -> dict[str, list[float]]:
    if score.low is None or score.high is None:
        return {}
    return {"interval_95": [round(100 * score.low, 2), round(100 * score.high, 2)]}


def model_index(model: ModelResults) -> list[dict[str, Any]]:
    """The value of the key `model-index`. Raises EvaluationError where nothing was measured."""
    from huggingface_hub.repocard_data import eval_results_to_model_index

    results = eval_results(model)
    if not results:
        raise EvaluationError(f"{model.name} has no score that a model card could show.")
    return list(eval_results_to_model_index(model.name, results))


def update_card(path: str | Path, model: ModelResults) -> Path:
    """Puts the results into the front matter of a model card (README.md); what else it holds stays.

    Results of the same data and settings are replaced, others kept. A card that is not there is made. Raises
    EvaluationError for a file whose front matter the hub could not read.
    """
    from huggingface_hub import ModelCard
    from huggingface_hub.repocard_data import model_index_to_eval_results

    path = Path(path)
    index = model_index(model)
    if path.is_dir():
        path = path / "README.md"
    text = path.read_text(encoding="utf-8") if path.exists() else f"---\n---\n\n# {model.name}\n"
    try:
        card = ModelCard(text, ignore_metadata_errors=False)
    except Exception as error:  # YAML's errors, and ValueError for what is no model-index
        raise EvaluationError(
            f"{path}: its front matter cannot be read: {str(error).splitlines()[0]}"
        ) from error
    _, new = model_index_to_eval_results(index)
    data: Any = card.data
    kept = [old for old in data.eval_results or [] if not any(_same(old, result) for result in new)]
    data.model_name = data.model_name or model.name
    data.eval_results = [*kept, *new]
    partial = path.with_name(f".partial-{path.name}")
    partial.write_text(str(card), encoding="utf-8")
    os.replace(partial, path)
    return path


def _standard_results(model: ModelResults) -> list[EvalResult]:
    from huggingface_hub import EvalResult

    results = []
    for task, entry in model.standard.items():
        kind, title = DATASETS.get(task, (task, task))
        settings = entry.get("settings", {})
        known = {
            name: settings[name]
            for name in ("num_fewshot", "limit", "harness")
            if settings.get(name) is not None
        }
        if entry.get("stderr") is not None:
            known["stderr"] = round(100 * entry["stderr"], 2)
        results.append(
            EvalResult(
                task_type=TASK_TYPE,
                dataset_type=kind,
                dataset_name=title,
                metric_type=str(entry["metric"]),
                metric_name=f"{entry['metric']}, %",
                metric_value=round(100 * entry["value"], 2),
                metric_args=known or None,
            )
        )
    return results


def _same(old: EvalResult, new: EvalResult) -> bool:
    return bool(old.is_equal_except_value(new)) or (
        (old.dataset_type, old.dataset_name, old.dataset_config, old.metric_type)
        == (new.dataset_type, new.dataset_name, new.dataset_config, new.metric_type)
    )
