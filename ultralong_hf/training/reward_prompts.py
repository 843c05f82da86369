"""Prompts with verifiable answers: an evaluation task's samples, whose score becomes the reward."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from ultralong_hf.errors import RecipeError
from ultralong_hf.evaluation.arguments import make_context
from ultralong_hf.evaluation.tasks import FAMILIES, Sample, Task, check_names, make_tasks
from ultralong_hf.lab.corpus import real_training_documents
from ultralong_hf.recipes.schema import GrpoDataSection

if TYPE_CHECKING:
    from datasets import Dataset


_END_TOKENS = 24


@dataclass(frozen=True)
class RewardPrompts:
    """What a recipe's GRPO stage asks.

    rows: columns `prompt` (a label, each its own), `task`, `length`, `references` and `details` (JSON).
    ids: int32 ids of each label's prompt, chat template and answer prefix included.
    answer_tokens: the most that a task allows an answer.
    """

    rows: Dataset
    ids: Mapping[str, np.ndarray]
    tasks: Mapping[str, Task]
    answer_tokens: int

    def exact_match(
        self,
        completions: Sequence[str],
        task: Sequence[str],
        references: Sequence[Sequence[str]],
        details: Sequence[str],
        log_metric: Any = None,
        **kwargs: Any,
    ) -> list[float]:
        """The reward, 0 to 1 a completion: the task's own score. Each task's mean is logged by its name."""
        rewards = [
            self.tasks[name].score({"references": tuple(known), "details": json.loads(kept)}, answer)
            for name, known, kept, answer in zip(task, references, details, completions, strict=True)
        ]
        if log_metric is not None:
            for name in dict.fromkeys(task):
                own = [reward for reward, of in zip(rewards, task, strict=True) if of == name]
                log_metric(f"reward/{name}", sum(own) / len(own))
        return rewards


def build_prompts(section: GrpoDataSection, tokenizer: Any, *, default_length: int) -> RewardPrompts:
    """All prompts of the section, the last of them for evaluation. Raises RecipeError, EvaluationError.

    They are those of `evaluate` with the same arguments, so that `seed` must be another than the test's.
    """
    names = check_names(section.tasks)
    foreign = [name for name in names if not _is_generated(name)]
    if foreign:
        raise RecipeError(
            f"grpo_data.tasks holds {', '.join(foreign)}, which no training may read or which has no reward. "
            "Use tasks that make prompts from a seed: needle, passkey, distractors, ruler/niah_..., ruler/vt."
        )
    lengths = sorted(set(section.lengths or [default_length]))
    context = make_context(
        tokenizer,
        lengths=lengths,
        depths=sorted(section.depths),
        samples=section.samples,
        prompt="auto",
        seed=section.seed,
        window=None,
        clamp_short=False,
        haystack=list(real_training_documents()) if section.haystack is None else section.haystack,
        data_dir=section.data_dir,
        cache_dir=None,
    )
    tasks = {task.name: task for task in make_tasks(names, context) if isinstance(task, Task)}
    samples = [
        task.build(key) for task in tasks.values() for key in task.keys(context.lengths, section.samples)
    ]
    if not samples:
        raise RecipeError("grpo_data.tasks makes no prompt at these lengths: use greater ones.")
    from datasets import Dataset

    labels = [_label(sample, tokenizer) for sample in samples]
    rows = Dataset.from_dict(
        {
            "prompt": labels,
            "task": [sample.task for sample in samples],
            "length": [sample.length for sample in samples],
            "references": [list(sample.references) for sample in samples],
            "details": [json.dumps(dict(sample.details)) for sample in samples],
        }
    )
    ids = {
        label: np.asarray(sample.ids, dtype=np.int32) for label, sample in zip(labels, samples, strict=True)
    }
    return RewardPrompts(rows, ids, tasks, max(sample.max_new_tokens for sample in samples))


def mixed_order(lengths: Sequence[int], group: int, seed: int) -> list[int]:
    """An order of prompts in which `group` neighbours have one length, so that none is padded far.

    >>> order = mixed_order([1, 1, 1, 1, 9, 9, 9, 9], 2, seed=0)
    >>> sorted(order), {tuple(sorted((i < 4, j < 4))) for i, j in zip(order[::2], order[1::2])}
    ([0, 1, 2, 3, 4, 5, 6, 7], {(False, False), (True, True)})
    """
    rng = random.Random(f"prompts {seed}")
    groups: list[list[int]] = []
    rest: list[list[int]] = []
    for length in sorted(set(lengths)):
        own = iter(rng.sample(same := [i for i, other in enumerate(lengths) if other == length], len(same)))
        while block := list(islice(own, group)):
            (groups if len(block) == group else rest).append(block)
    rng.shuffle(groups)
    return [place for block in [*groups, *rest] for place in block]


def _is_generated(name: str) -> bool:
    family, _, selector = name.partition("/")
    asks_for_files = family == "ruler" and (not selector or selector.startswith("qa_"))
    return FAMILIES[family].fills_lengths and family not in ("perplexity", "safety") and not asks_for_files


def _label(sample: Sample, tokenizer: Any) -> str:
    """What stands for the prompt in logs: its place, and how it ends."""
    depth = "" if sample.depth is None else f", depth {sample.depth:g} %"
    end = tokenizer.decode(list(sample.ids[-_END_TOKENS:]), skip_special_tokens=True)
    return f"{sample.task}, {sample.length:,} tokens{depth}, number {sample.sample}: ... {end}"
