"""LV-Eval's datasets as tasks: official rows in, prompts out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.datafiles import DataFile, HubSource, Rows, find_data, read_rows
from ultralong_hf.evaluation.lveval.datasets import DATASETS, LEVELS
from ultralong_hf.evaluation.prompts import build_frame, encode_plain
from ultralong_hf.evaluation.tasks import Key, Sample, TaskContext
from ultralong_hf.evaluation.truncation import fit_prompt

SOURCE = HubSource("Infinigence/LVEval", folders=("LVEval", "lveval"))
_FIELDS = ("input", "context", "answers")


def lveval_tasks(selector: str | None, context: TaskContext) -> list[LVEvalTask]:
    """The dataset `selector`, or all 11. Raises EvaluationError where no length asked for is a level."""
    names = [selector] if selector else list(DATASETS)
    return [LVEvalTask(name, context) for name in names]


class LVEvalTask:
    """One dataset at the levels asked for (all five where none are); the sample is the row of its file."""

    def __init__(self, dataset: str, context: TaskContext) -> None:
        self.name = f"lveval/{dataset}"
        self._dataset_name, self._dataset = dataset, DATASETS[dataset]
        self._context = context
        self._rows: dict[int, Rows] = {}

    def keys(self, lengths: Sequence[int], samples: int | None) -> Iterator[Key]:
        """Every row, or the first `samples` of each level. Raises EvaluationError."""
        for level in self._levels(lengths):
            rows = len(self._open(level))
            for row in range(rows if samples is None else min(samples, rows)):
                yield self.name, level, None, row

    def build(self, key: Key) -> Sample:
        """The prompt of a row, cut in its middle where the window is too small. Raises EvaluationError."""
        _, level, _, row = key
        rows = self._open(level)
        record = _checked(rows.record(row, _FIELDS), f"{rows.name}, row {row}")
        text = self._dataset.prompt.format(context=record["context"], input=record["input"])
        context = self._context
        ids, max_new_tokens, notes = fit_prompt(
            self._frame,
            encode_plain(context.tokenizer, text),
            window=context.window,
            max_new_tokens=self._dataset.max_new_tokens,
        )
        return Sample(
            task=self.name,
            length=level,
            sample=row,
            ids=ids,
            references=tuple(record["answers"]),
            max_new_tokens=max_new_tokens,
            details={
                "file": rows.name,
                "row": row,
                "words": record.get("length"),
                "answer_keywords": record.get("answer_keywords") or None,
            },
            notes=notes,
            frame=self._frame,
        )

    def score(self, record: Mapping[str, Any], answer: str) -> float:
        """Against the first reference alone, as the official evaluation.py does."""
        return self._dataset.score(answer, record["references"][0], record["details"]["answer_keywords"])

    def settings(self) -> Mapping[str, Any]:
        files = {LEVELS[level]: self._file(level) for level in self._levels(self._context.lengths)}
        return {"data": {level: file.fingerprint for level, file in files.items()}}

    def notes(self, records: Sequence[Mapping[str, Any]]) -> list[str]:
        return []

    @cached_property
    def _frame(self) -> Any:
        context = self._context
        return build_frame(context.tokenizer, context.style, before="", after="", answer_prefix="")

    def _levels(self, lengths: Sequence[int]) -> list[int]:
        levels = [level for level in LEVELS if not lengths or level in lengths]
        if not levels:
            asked = ", ".join(f"{length:,}" for length in lengths)
            known = ", ".join(f"{name} = {level:,}" for level, name in LEVELS.items())
            raise EvaluationError(f"{self.name} has levels of its own ({known}); {asked} is none of them.")
        return levels

    def _open(self, level: int) -> Rows:
        if level not in self._rows:
            rows = read_rows(self._file(level), self._context.cache_dir)
            if not len(rows):
                raise EvaluationError(f"{rows.name} holds no record.")
            self._rows[level] = rows
        return self._rows[level]

    def _file(self, level: int) -> DataFile:
        """On the hub and by official scripts a dataset is a zip file of its five levels."""
        dataset = self._dataset_name
        stem = f"{dataset}_{LEVELS[level]}"
        member = f"{dataset}.zip::{stem}.jsonl"
        local = (f"{stem}.jsonl", f"{dataset}/{stem}.jsonl", f"{stem}.parquet", member)
        return find_data(SOURCE, local=local, hub=member, data_dir=self._context.data_dir)


def _checked(record: dict[str, Any], place: str) -> dict[str, Any]:
    answers = record["answers"]
    if not (isinstance(answers, list) and answers and all(isinstance(text, str) for text in answers)):
        raise EvaluationError(f"{place}: answers is no list of texts: {answers!r}.")
    for field in ("input", "context", "answer_keywords"):
        value = record.get(field)
        if not (isinstance(value, str) or (field == "answer_keywords" and not value)):
            raise EvaluationError(f"{place}: {field} is no text: {value!r}.")
    return record
