"""A draft becomes a prompt: filled to its length, framed by the chat template, checked."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.prompts import Frame, build_frame
from ultralong_hf.evaluation.ruler.drafts import Draft, Generator, Stream, random_stream
from ultralong_hf.evaluation.ruler.pieces import LETTER, LINE_END, Layout, PieceEncoder

# A context that lacks more than this share of its length, and so many tokens, is told of.
_SHORT_SHARE, _SHORT_TOKENS = 0.02, 512


@dataclass(frozen=True)
class Prompt:
    """One finished prompt."""

    ids: np.ndarray = field(repr=False)
    """int32, chat template and answer prefix included; with the answer's budget `length` tokens at most."""
    references: tuple[str, ...]
    details: Mapping[str, Any]
    notes: tuple[str, ...]
    frame: Frame = field(repr=False)


class TooShortError(EvaluationError):
    """A length has no room for a prompt of the task. `shortest` is the least length that has, about."""

    def __init__(self, message: str, shortest: int) -> None:
        super().__init__(message)
        self.shortest = shortest


@dataclass(frozen=True)
class PromptMaker:
    """Prompts of one task."""

    name: str
    generator: Generator
    tokenizer: Any = field(repr=False)
    encoder: PieceEncoder = field(repr=False)
    style: str
    seed: int

    def make(self, length: int, sample: int) -> Prompt:
        """The prompt of a sample; it depends on (seed, task, length, sample) alone.

        Raises TooShortError for a length without room for one.
        """
        seed = random.Random(f"{self.seed}/{self.name}/{length}/{sample}").getrandbits(63)
        draft = self.generator.draw(length, sample, seed)
        frame = build_frame(
            self.tokenizer,
            self.style,
            before=draft.before,
            after=draft.after,
            answer_prefix=draft.answer_prefix,
            joints=(LETTER if draft.before.endswith("\n") else "", LINE_END),
        )
        room = length - self.generator.answer_tokens - len(frame)
        units, context = self._fill(draft, room, seed)
        if context is None:
            raise self._too_short(draft, frame, length)
        ids = frame.wrap(context)
        details = draft.details(units)
        notes = [*self.generator.notes(details), *_shortness(len(ids), length, self.generator.answer_tokens)]
        return Prompt(ids, draft.references, details, tuple(notes), frame)

    def _fill(self, draft: Draft, room: int, seed: int) -> tuple[int, np.ndarray | None]:
        """(units, ids of the context): as many units as fit, or none where too few do."""
        units = draft.fit(room)
        while units >= draft.fewest:
            layout = draft.layout(units)
            over = layout.tokens - room
            if over <= 0:
                ids = self._ids(layout, seed)
                over = len(ids) - room
                if over <= 0:
                    return units, ids
            units -= max(1, int(over * units / max(layout.tokens, 1)))
        return units, None

    def _ids(self, layout: Layout, seed: int) -> np.ndarray:
        """The pieces' ids, or those of the whole text where the tokenizer joins across pieces."""
        if self.encoder.agrees(layout, random_stream(seed, Stream.LOOKS)):
            return layout.ids()
        return self.encoder.whole(layout.text())

    def _too_short(self, draft: Draft, frame: Frame, length: int) -> TooShortError:
        draft.fit(2 * length)
        context = draft.layout(draft.fewest).tokens
        budget = self.generator.answer_tokens
        shortest = len(frame) + context + budget
        return TooShortError(
            f"{length:,} tokens are too few for the task {self.name!r}: its shortest prompt has about "
            f"{shortest - budget:,} and the answer {budget}. Use a length of {shortest:,} or more.",
            shortest,
        )


def _shortness(tokens: int, length: int, budget: int) -> list[str]:
    lacking = length - tokens - budget
    if lacking <= max(_SHORT_TOKENS, _SHORT_SHARE * length):
        return []
    return [f"short: {lacking:,} of {length:,} tokens are not filled, since the next unit does not fit"]
