"""What a trained arm can do, as scores that arms of one seed share prompt by prompt."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultralong_hf.lengths import format_length

if TYPE_CHECKING:
    from ultralong_hf.ablation.trial import Trial
    from ultralong_hf.evaluation.haystack import Haystack
    from ultralong_hf.recipes import Recipe

Scores = list[dict[str, Any]]

# length -> texts, and facts in each, of the lab's probe; 90 to 160 questions a length
LAB_PROBE = {256: (30, 5), 512: (12, 10), 1024: (6, 20), 2048: (6, 20), 4096: (8, 20)}
LONG_PROBE = (4, 30)
"""Texts and facts at lengths beyond those."""
LAB_LOSS_ROWS = 4
SPARE_TEXT_TOKENS = 131_072
"""Of the haystack beyond the longest text, so that texts differ."""


def measure_lab(model: Any, tokenizer: Any, recipe: Recipe, seed: int) -> dict[str, Any]:
    """{"scores": recall of each text, "loss": nats by position on held-out documents} of a model of the lab.

    Lengths go up to the recipe's window. scores: [{"task", "length", "unit", "score" (0 to 1), "weight"}], a
    text a unit, its questions the weight.
    """
    from ultralong_hf.ablation.probe import recall_by_text
    from ultralong_hf.evaluation.perplexity import loss_by_position, rows_from_documents

    model.eval()
    haystack = _lab_haystack(tokenizer, recipe.window)
    scores: Scores = []
    for length in probe_lengths(recipe.window):
        texts, facts = LAB_PROBE.get(length, LONG_PROBE)
        found = recall_by_text(model, tokenizer, haystack, length=length, texts=texts, facts=facts, seed=seed)
        scores += [
            {
                "task": "recall",
                "length": length,
                "unit": str(text["text"]),
                "score": text["hits"] / text["asked"],
                "weight": text["asked"],
            }
            for text in found
        ]
    documents = list(_held_out())
    random.Random(f"ablation loss {seed}").shuffle(documents)
    rows = rows_from_documents(documents, tokenizer, length=recipe.window, rows=LAB_LOSS_ROWS)
    loss = [
        {name: bucket[name] for name in ("from", "to", "loss", "tokens")}
        for bucket in loss_by_position(model, rows)
    ]
    return {"scores": scores, "loss": loss}


def probe_lengths(window: int) -> list[int]:
    """256, 512, ... up to the window."""
    lengths = [256]
    while lengths[-1] * 2 <= window:
        lengths.append(lengths[-1] * 2)
    return lengths


def measure_recipe(model: str, trial: Trial, recipe: Recipe) -> dict[str, Any]:
    """The recipe's own evaluation: the same two keys, a prompt a unit. Resumes in the trial's folder."""
    from ultralong_hf.evaluation import evaluate

    section = recipe.evaluation
    report = evaluate(
        model,
        list(section.tasks),
        lengths=section.lengths or [recipe.window],
        depths=section.depths,
        samples=section.samples,
        seed=section.seed,
        beyond_window=True,
        output_dir=trial.home / "evaluation",
    )
    loss = [{name: b[name] for name in ("from", "to", "loss", "tokens")} for b in report.perplexity]
    return {"scores": scores_of_records(_records(trial.home / "evaluation")), "loss": loss}


def scores_of_records(records: Sequence[dict[str, Any]]) -> Scores:
    """A score a finished prompt; its unit is its place in the grid."""
    return [
        {
            "task": record["task"],
            "length": record["length"],
            "unit": f"{record.get('depth')}/{record['sample']}",
            "score": float(record["score"] if "score" in record else record["hit"]),
            "weight": 1,
        }
        for record in records
    ]


def metric_name(task: str, length: int) -> str:
    """ "recall at 4K": one row of the tables."""
    return f"{task} at {format_length(length)}"


def _records(folder: Path) -> list[dict[str, Any]]:
    from ultralong_hf.evaluation.ledger import PROMPTS_FILE

    with (folder / PROMPTS_FILE).open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@cache
def _held_out() -> tuple[str, ...]:
    from ultralong_hf.lab.corpus import held_out_documents

    return tuple(held_out_documents())


_HAYSTACKS: dict[int, Haystack] = {}


def _lab_haystack(tokenizer: Any, window: int) -> Haystack:
    """Tokenized once a process and window; every arm's tokenizer is the lab's."""
    from ultralong_hf.evaluation.haystack import build_haystack

    if window not in _HAYSTACKS:
        _HAYSTACKS[window] = build_haystack(_held_out(), tokenizer, window + SPARE_TEXT_TOKENS)
    return _HAYSTACKS[window]
