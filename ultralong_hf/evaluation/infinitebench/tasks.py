"""InfiniteBench's files as tasks: official rows in, prompts out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from typing import Any

from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.datafiles import DataFile, HubSource, Rows, find_data, read_rows
from ultralong_hf.evaluation.infinitebench.rows import FIELDS, label_of, prompt_values
from ultralong_hf.evaluation.infinitebench.scoring import gpt4_values
from ultralong_hf.evaluation.infinitebench.table import BOOK_QUESTIONS, FAMILY_MARK, TASKS
from ultralong_hf.evaluation.infinitebench.templates import TEMPLATES
from ultralong_hf.evaluation.prompts import build_frame, encode_plain
from ultralong_hf.evaluation.tasks import Key, Sample, TaskContext
from ultralong_hf.evaluation.truncation import fit_prompt

SOURCE = HubSource("xinrongzhang2022/InfiniteBench", folders=("InfiniteBench", "infinitebench", "data"))
_FAMILY_OF = {"chat": "gpt4", "plain": "yarn-mistral"}


def infinitebench_tasks(selector: str | None, context: TaskContext) -> list[InfiniteBenchTask]:
    """The task or tasks of a selector of `SELECTORS`, all 12 for None.

    Without a family of prompts it is gpt4 in a chat template and yarn-mistral, which begins the answer, else.
    """
    name, _, family = (selector or "all").partition(FAMILY_MARK)
    names = list(TASKS) if name == "all" else [name]
    return [InfiniteBenchTask(task, family or _FAMILY_OF[context.style], context) for task in names]


class InfiniteBenchTask:
    """One task; the sample is the row of its file."""

    def __init__(self, task: str, family: str, context: TaskContext) -> None:
        named = family != _FAMILY_OF[context.style]
        self.name = f"infinitebench/{task}{FAMILY_MARK}{family}" if named else f"infinitebench/{task}"
        self._task, self._family, self._context = task, family, context
        self._entry = TASKS[task]

    def keys(self, lengths: Sequence[int], samples: int | None) -> Iterator[Key]:
        """Every row, or the first `samples`, under the task's mean length: it has no others.

        Questions about one book stand together, so that the book is read once.
        """
        rows = len(self._rows)
        asked = range(rows if samples is None else min(samples, rows))
        for row in self._by_book(asked) if self._task in BOOK_QUESTIONS else asked:
            yield self.name, self._entry.mean_tokens, None, row

    def build(self, key: Key) -> Sample:
        """The prompt of a row, cut in its middle where the window is too small. Raises EvaluationError."""
        row = key[3]
        record = self._rows.record(row, FIELDS)
        try:
            text = TEMPLATES[self._family][self._task].format(**prompt_values(self._task, record))
            label = label_of(self._task, record)
        except EvaluationError as error:
            raise EvaluationError(f"{self._rows.name}, row {row}: {error}.") from error
        context, entry = self._context, self._entry
        budget = entry.max_new_tokens if self._family == "yarn-mistral" else entry.chat_tokens
        ids, max_new_tokens, notes = fit_prompt(
            self._frame, encode_plain(context.tokenizer, text), window=context.window, max_new_tokens=budget
        )
        return Sample(
            task=self.name,
            length=entry.mean_tokens,
            sample=row,
            ids=ids,
            references=tuple(map(str, label)) if isinstance(label, list) else (str(label),),
            max_new_tokens=max_new_tokens,
            details={
                "file": self._rows.name,
                "row": row,
                "id": record.get("id", row),
                "label": label,
                "prompts": self._family,
            },
            notes=notes,
            frame=self._frame,
        )

    def score(self, record: Mapping[str, Any], answer: str) -> float:
        details = record["details"]
        if self._task == "math_calc" and details["prompts"] == "gpt4":
            return gpt4_values(answer, details["label"])
        return self._entry.score(answer, details["label"])

    def settings(self) -> Mapping[str, Any]:
        return {"data": self._file.fingerprint, "prompts": self._family}

    def notes(self, records: Sequence[Mapping[str, Any]]) -> list[str]:
        return []

    def _by_book(self, rows: Sequence[int]) -> list[int]:
        first_of: dict[bytes, int] = {}
        firsts = []
        for row in rows:
            text = str(self._rows.record(row, FIELDS)["context"])
            firsts.append(first_of.setdefault(sha256(text.encode()).digest(), row))
        return [row for _, row in sorted(zip(firsts, rows, strict=True))]

    @cached_property
    def _frame(self) -> Any:
        context = self._context
        return build_frame(context.tokenizer, context.style, before="", after="", answer_prefix="")

    @cached_property
    def _file(self) -> DataFile:
        name = f"{self._task}.jsonl"
        local = (name, f"{self._task}.parquet", f"{self._task}.zip::{name}")
        return find_data(SOURCE, local=local, hub=name, data_dir=self._context.data_dir)

    @cached_property
    def _rows(self) -> Rows:
        rows = read_rows(self._file, self._context.cache_dir)
        if not len(rows):
            raise EvaluationError(f"{rows.name} holds no record.")
        return rows
