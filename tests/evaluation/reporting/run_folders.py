"""Run folders as `ultralong eval` leaves them, made of invented answers."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Skill = Callable[[str, int], float]
"""(task, length) -> the chance of a right answer."""


def records_of(
    task: str,
    lengths: Sequence[int],
    skill: Skill,
    *,
    samples: int = 10,
    depths: Sequence[float | None] = (None,),
    model_seed: int = 0,
    seed: int = 0,
    partial: bool = False,
) -> list[dict[str, Any]]:
    """Finished prompts; `partial`: scores below 1. Prompts hang on `seed`, answers on `model_seed`."""
    records = []
    for length in lengths:
        for depth in depths:
            for sample in range(samples):
                place = f"{task} {length} {depth} {sample}"
                expected = str(random.Random(f"{seed} {place}").randrange(10_000, 100_000))
                rng = random.Random(f"{model_seed} {place}")
                right = rng.random() < skill(task, length)
                score = round(rng.uniform(0.2, 0.6), 3) if partial and right else float(right)
                record = {
                    "task": task,
                    "length": length,
                    "depth": depth,
                    "sample": sample,
                    "prompt_tokens": length - 16,
                    "details": {},
                    "notes": [],
                    "prompt": "...",
                    "references": [expected],
                    "answer": expected if right else "",
                    "score": score,
                }
                if depth is not None:
                    record |= {"expected": expected, "hit": score == 1}
                records.append(record)
    return records


def write_run(
    folder: Path,
    records: Sequence[Mapping[str, Any]] = (),
    *,
    model: str = "models/base",
    identity: str = "base",
    window: int | None = 131_072,
    notes: Sequence[str] = (),
    perplexity: Sequence[Mapping[str, Any]] = (),
    standard: Sequence[Mapping[str, Any]] = (),
    settings: Mapping[str, Any] | None = None,
    finished: bool = True,
) -> Path:
    """A run folder; returns it."""
    folder.mkdir(parents=True)
    tasks = list(dict.fromkeys(record["task"] for record in records))
    bound = {
        "model": model,
        "identity": identity,
        "tasks": tasks,
        "lengths": sorted({record["length"] for record in records}),
        "seed": 0,
        "prompt": "chat",
        **(settings or {}),
    }
    (folder / "run.json").write_text(json.dumps({"digest": "x", "settings": bound}))
    (folder / "prompts.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    if standard:
        (folder / "standard.json").write_text(json.dumps({"tasks": list(standard)}))
    if finished:
        report = {
            "model": model,
            "window": window,
            "cells": [],
            "scores": [],
            "perplexity": list(perplexity),
            "standard": list(standard),
            "notes": list(notes),
            "settings": bound,
        }
        (folder / "report.json").write_text(json.dumps(report))
    return folder


def standard_entry(task: str, value: float, **changes: Any) -> dict[str, Any]:
    """One entry of standard.json."""
    settings = {
        "harness": "lm-eval 0.4.13",
        "tasks": [task],
        "num_fewshot": 5,
        "chat_template": True,
        "limit": None,
    }
    entry = {
        "task": task,
        "metric": "acc",
        "filter": "none",
        "value": value,
        "stderr": 0.004,
        "samples": 14_042,
        "others": {},
        "notes": [],
        "settings": settings,
    }
    return {**entry, **changes}
