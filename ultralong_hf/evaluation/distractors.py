"""Recall among facts that look alike: the place's own code, not that of its namesakes.

Prompts are those of `data/grounding`: real lines, the fact that is asked for, and distractors which differ
from it in one word. An answer counts if the first of the text's values in it is the right one, so that a list
of all of them does not.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ultralong_hf.data.grounding.prompts import LineText, ground
from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.prompts import build_frame, encode_plain
from ultralong_hf.evaluation.tasks import Key, Sample, TaskContext

SELECTORS: tuple[str, ...] = ()
DEFAULT_SAMPLES = 100
DISTRACTORS = 6
ANSWER_TOKENS = 16
_SPARE_TOKENS = 131_072
_SHORTEST = 16


@dataclass(frozen=True)
class DistractorTask:
    """The task "distractors" of `evaluate`."""

    context: TaskContext
    lines: LineText
    name: str = "distractors"

    def keys(self, lengths: Sequence[int], samples: int | None) -> Iterator[Key]:
        for length in lengths:
            for sample in range(DEFAULT_SAMPLES if samples is None else samples):
                yield self.name, length, None, sample

    def build(self, key: Key) -> Sample:
        _, length, _, sample = key
        seed = f"{self.context.seed}/{self.name}/{length}/{sample}"
        room = length - ANSWER_TOKENS
        while room > 0:
            found = ground(random.Random(seed), self.lines, room, distractors=DISTRACTORS)
            if found is None:
                break
            asked = found.asked
            frame = build_frame(
                self.context.tokenizer,
                self.context.style,
                before="",
                after=f"\n\n{asked.question}",
                answer_prefix=asked.answer_prefix,
            )
            ids = frame.wrap(encode_plain(self.context.tokenizer, found.text))
            over = len(ids) + ANSWER_TOKENS - length
            if over <= 0:
                return Sample(
                    task=self.name,
                    length=length,
                    sample=sample,
                    ids=ids,
                    references=(asked.value,),
                    max_new_tokens=ANSWER_TOKENS,
                    details={
                        "depth": found.depth,
                        "distractors": [fact.value for fact in found.distractors],
                    },
                    frame=frame,
                )
            room -= over
        raise EvaluationError(
            f"{length:,} tokens are too few for the task {self.name!r} with its {DISTRACTORS} distractors. "
            "Use a greater length."
        )

    def score(self, record: Mapping[str, Any], answer: str) -> float:
        return float(taken_value(record, answer) == record["references"][0])

    def settings(self) -> Mapping[str, Any]:
        return {"distractors": DISTRACTORS, "answer_tokens": ANSWER_TOKENS, "text": self.lines.digest}

    def notes(self, records: Sequence[Mapping[str, Any]]) -> list[str]:
        if not records:
            return []
        wrong = Counter(
            "a distractor's value" if taken_value(record, record["answer"]) else "none of the text's values"
            for record in records
            if not record["score"]
        )
        listed = "; ".join(f"{count:,} {what}" for what, count in wrong.most_common())
        return (
            [f"{self.name}: of {len(records):,} answers {wrong.total():,} were wrong: {listed}."]
            if wrong
            else []
        )


def taken_value(record: Mapping[str, Any], answer: str) -> str | None:
    """The first of the text's values in the answer."""
    values = [*record["references"], *record["details"]["distractors"]]
    found = [(answer.index(value), value) for value in values if value in answer]
    return min(found)[1] if found else None


def distractors_tasks(selector: str | None, context: TaskContext) -> list[DistractorTask]:
    """The one task."""
    longest = max(context.lengths, default=_SHORTEST)
    return [
        DistractorTask(
            context, LineText.read(context.documents(), context.tokenizer, longest + _SPARE_TOKENS)
        )
    ]
