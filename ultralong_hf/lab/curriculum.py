"""What the lab's base model is trained on: first copying, until it works, then recall.

The order decides: a model of this size that has not learned to copy first does not learn recall in minutes.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ultralong_hf.lab.corpus import CHARACTERS_PER_TOKEN, Filler, conversation, fact_document
from ultralong_hf.lab.facts import VALUE_DIGITS
from ultralong_hf.lab.tokenizer import ROLES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

IGNORED = -100
TOKENS_A_STEP = 4096
OTHER_LABELS = 0.2
"""Share of the tokens other than answers that are learned: an answer weighs five times as much."""
COPY_SHARE = 0.2
"""Share of copying rows in the recall stages, so that copying is not lost."""
_VALUE = re.compile(rf"\d{{{VALUE_DIGITS}}}")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One part of the curriculum: rows of `length` tokens, `TOKENS_A_STEP` a step, at most `max_steps`."""

    name: str
    length: int
    max_steps: int
    copying: bool = False
    loss_goal: float | None = None
    """Ends the stage when a step's loss is below it, nats per token."""
    recall_goal: float | None = None
    """Ends the stage when the recall of `Probe` reaches it."""
    decay: bool = False
    """True: the learning rate falls to 0 over the stage."""


STAGES = (
    Stage(name="copy 64", length=64, max_steps=700, copying=True, loss_goal=0.35),
    Stage(name="copy 256", length=256, max_steps=500, copying=True, loss_goal=0.25),
    Stage(name="recall", length=256, max_steps=1500, recall_goal=0.99),
    Stage(name="settle", length=256, max_steps=500, decay=True),
)


def training_rows(stage: Stage, tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[dict[str, Any]]:
    """Rows without end: `input_ids` and `labels` of `stage.length` tokens each."""
    rng = random.Random(f"{stage.name} {seed}")
    filler = Filler(rng)
    ordinary = range(len(ROLES) + 3, len(tokenizer))
    while True:
        if stage.copying or rng.random() < COPY_SHARE:
            yield copy_row(rng, stage.length, ordinary)
        else:
            yield recall_row(rng, filler, tokenizer, stage.length)


def copy_row(rng: random.Random, length: int, vocabulary: range) -> dict[str, Any]:
    """A random segment of 8 tokens to half a row, repeated to the end; its first stand is not learned.

    Rows of 10, segment of 3: "abcabcabca", labels "...abcabca".
    """
    segment = rng.choices(vocabulary, k=rng.randint(min(8, length // 2), length // 2))
    ids = (segment * (length // len(segment) + 1))[:length]
    return {"input_ids": ids, "labels": [IGNORED] * len(segment) + ids[len(segment) :]}


def recall_row(
    rng: random.Random, filler: Filler, tokenizer: PreTrainedTokenizerFast, length: int
) -> dict[str, Any]:
    """A chat or a document with facts, of two fifths of the row to all of it; real lines fill the rest."""
    while True:
        characters = round(rng.uniform(0.4, 1.0) * length * CHARACTERS_PER_TOKEN)
        if rng.random() < 0.6:
            messages = conversation(rng, filler, characters)["messages"]
            text = str(tokenizer.apply_chat_template(messages, tokenize=False))
        else:
            text = str(tokenizer.bos_token) + fact_document(rng, filler, characters)
        ids, is_answer = encode_with_answers(text, tokenizer)
        if len(ids) <= length:
            break
    missing = length - len(ids)
    if missing:
        more = "\n".join(filler.lines(8 * missing + 200))
        ids = (ids + tokenizer(more, add_special_tokens=False)["input_ids"])[:length]
    is_answer += [False] * (len(ids) - len(is_answer))
    labels = [
        token if answer or rng.random() < OTHER_LABELS else IGNORED
        for token, answer in zip(ids, is_answer, strict=True)
    ]
    padding = length - len(ids)
    return {
        "input_ids": ids + [tokenizer.pad_token_id] * padding,
        "labels": labels + [IGNORED] * padding,
    }


def encode_with_answers(text: str, tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[bool]]:
    """Token ids, and whether each belongs to an answer: a value that stood in the text before."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    seen: set[str] = set()
    spans = []
    for match in _VALUE.finditer(text):
        if match.group() in seen:
            spans.append(match.span())
        seen.add(match.group())
    return encoded["input_ids"], [
        any(start < last and first < end for first, last in spans) for start, end in encoded["offset_mapping"]
    ]
