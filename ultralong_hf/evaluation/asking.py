"""Samples to an engine, answers to the ledger: in batches, each prompt once, failures counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby, islice
from typing import Any

from tqdm.auto import tqdm

from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.answer_cache import AnswerCache
from ultralong_hf.evaluation.engines.base import Answer, Engine
from ultralong_hf.evaluation.ledger import Ledger
from ultralong_hf.evaluation.prompts import bos_note
from ultralong_hf.evaluation.tasks import Key, Record, Sample, Task
from ultralong_hf.lengths import format_length

# So many failures one after the other are no accident: the rest would fail too.
GIVE_UP_AFTER = 20
# Longer prompts are kept by their two ends: 400 of 4M tokens would be gigabytes. `--show` makes any again.
KEPT_PROMPT_TOKENS = 262_144
KEPT_END_TOKENS = 2_048
KEPT = "With an output folder the same command goes on at the next prompt."


class Asker:
    """Answers what a ledger does not hold yet."""

    def __init__(self, engine: Engine, tokenizer: Any, ledger: Ledger, cache: AnswerCache) -> None:
        self.engine, self.tokenizer, self.ledger, self.cache = engine, tokenizer, ledger, cache
        self.counts: Counter[str] = Counter()
        self._failed_in_a_row = 0

    def answer_all(
        self, tasks: Sequence[Task], keys: Mapping[str, Sequence[Key]], *, progress: bool | None
    ) -> None:
        """Asks in the order of the keys; each batch is in the ledger before the next is asked."""
        waiting = {
            name: [key for key in places if key not in self.ledger.records] for name, places in keys.items()
        }
        total, left = (sum(map(len, places.values())) for places in (keys, waiting))
        self.counts["from this folder"] = total - left
        disable = None if progress is None else not progress
        with tqdm(total=total, initial=total - left, unit="prompt", disable=disable) as bar:
            for task in tasks:
                fresh = self._uncached(task, waiting[task.name], bar)
                for batch in batches(fresh, self.engine.batch_size):
                    bar.set_description(_where(batch[0]))
                    self._ask(task, batch, bar)

    def _uncached(self, task: Task, keys: Iterable[Key], bar: tqdm[Any]) -> Iterator[Sample]:
        """The samples that must be asked; those with a known answer are kept on the way."""
        for key in keys:
            sample = task.build(key)
            found = self.cache.find(sample.ids, sample.max_new_tokens)
            if found is None:
                yield sample
            else:
                self.counts["from the cache"] += 1
                self.ledger.append([make_record(task, sample, found, self.tokenizer)])
                bar.update(1)

    def _ask(self, task: Task, batch: Sequence[Sample], bar: tqdm[Any]) -> None:
        budget = batch[0].max_new_tokens
        if hasattr(self.engine, "answer"):
            answers = self.engine.answer(batch)
        else:
            answers = self.engine.generate([sample.ids for sample in batch], budget)
        self.cache.keep((sample.ids for sample in batch), budget, answers)
        records = [
            make_record(task, sample, answer, self.tokenizer)
            for sample, answer in zip(batch, answers, strict=True)
        ]
        self.ledger.append(records)
        self.counts["asked"] += len(batch)
        bar.update(len(batch))
        for answer in answers:
            if isinstance(answer, Answer) and answer.fatal:
                raise EvaluationError(f"No more prompts can be asked: {answer.failure}. {KEPT}")
        self._stop_where_all_fail(records)

    def _stop_where_all_fail(self, records: Iterable[Record]) -> None:
        for record in records:
            self._failed_in_a_row = self._failed_in_a_row + 1 if record.get("failure") else 0
            if self._failed_in_a_row >= GIVE_UP_AFTER:
                raise EvaluationError(
                    f"The last {GIVE_UP_AFTER} prompts got no answer, the last one because: "
                    f"{record['failure']}. {KEPT}"
                )


def batches(samples: Iterable[Sample], batch_size: Callable[[int, int], int]) -> Iterator[list[Sample]]:
    """Samples in their order, in lists of one answer budget; the first of each says how many it may be."""
    for budget, group in groupby(samples, key=lambda sample: sample.max_new_tokens):
        waiting = iter(group)
        for first in waiting:
            yield [first, *islice(waiting, batch_size(len(first.ids), budget) - 1)]


def make_record(task: Task, sample: Sample, answer: Sequence[int] | Answer, tokenizer: Any) -> Record:
    """A line of prompts.jsonl; a prompt without an answer has "failure", and None as its score."""
    if not isinstance(answer, Answer):
        answer = Answer(tokenizer.decode(answer, skip_special_tokens=True))
    notes = [*sample.notes, *bos_note(tokenizer, sample.ids), *answer.notes]
    record: Record = {
        "task": sample.task,
        "length": sample.length,
        "depth": sample.depth,
        "sample": sample.sample,
        "prompt_tokens": len(sample.ids),
        "details": dict(sample.details),
        "notes": notes,
        "prompt": prompt_text(tokenizer, sample.ids),
        "references": list(sample.references),
        "answer": answer.text,
    }
    if answer.failure:
        return record | {"score": None, "failure": answer.failure}
    record["score"] = task.score(record, answer.text)
    if sample.depth is not None:  # a grid's cells count what was found
        record |= {"expected": sample.references[0], "hit": record["score"] == 1.0}
    return record


def prompt_text(tokenizer: Any, ids: Any, *, limit: int = KEPT_PROMPT_TOKENS) -> str:
    """The prompt as text, special tokens included; beyond `limit` tokens its two ends."""
    if len(ids) <= limit:
        return str(tokenizer.decode(ids, skip_special_tokens=False))
    left_out = len(ids) - 2 * KEPT_END_TOKENS
    ends = (tokenizer.decode(part) for part in (ids[:KEPT_END_TOKENS], ids[-KEPT_END_TOKENS:]))
    return f"\n[... {left_out:,} tokens are not kept here ...]\n".join(ends)


def _where(sample: Sample) -> str:
    return f"{sample.task} {format_length(sample.length) if sample.length else 'shortest'}"
