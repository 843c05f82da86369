"""Needle and passkey grids: a fact hidden at a depth of a long text, asked for at its end.

The prompt and the room for the answer fill the length exactly. One sample reads one text at every length and
depth, from its beginning on: what stands before the needle is computed once for all of them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.haystack import Break, Haystack, build_haystack
from ultralong_hf.evaluation.prompts import build_frame, encode_plain
from ultralong_hf.evaluation.tasks import Key, Sample, TaskContext
from ultralong_hf.lab.facts import draw_fact

SELECTORS: tuple[str, ...] = ()
DEFAULT_SAMPLES = 20
# Beyond the longest prompt, so that samples of that length see different stretches of the text.
SPARE_TEXT_TOKENS = 131_072

# Whole percent, as the paper's figure has them (arXiv 2504.06214, needle test).
PAPER_DEPTHS = (0, 11, 22, 33, 44, 56, 67, 78, 89, 100)
PAPER_LENGTHS = 40
# A break further away than this many tokens (one long line of data) is not waited for.
FARTHEST_BREAK = 64

# The wording of Mohtashami and Jaggi 2023 (arXiv 2305.16300), which passkey tests since have kept.
PASSKEY_INTRO = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. "
    "I will quiz you about the important information there."
)
PASSKEY_FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "


@dataclass(frozen=True)
class Needle:
    """What is hidden, what is asked, and what counts as found."""

    statement: str
    question: str
    answer_prefix: str
    expected: str
    own_line: bool = False
    """Whether it makes a line of its own even within a line."""

    def at(self, kind: Break) -> str:
        """The statement with what it needs around it at such a break."""
        within = f"\n{self.statement}\n" if self.own_line else f" {self.statement}"
        return {
            Break.LINE_START: f"{self.statement}\n",
            Break.SENTENCE: within,
            Break.LINE_END: f"\n{self.statement}",
        }[kind]


@dataclass(frozen=True)
class NeedleTask:
    """A kind of needle: how one is drawn, what stands before the text, how many tokens the answer gets."""

    name: str
    draw: Callable[[random.Random], Needle]
    intro: str = ""
    filler: str | None = None
    """The text it hides in; None: the haystack's documents."""
    max_new_tokens: int = 16


def _draw_fact_needle(rng: random.Random) -> Needle:
    fact = draw_fact(rng)
    return Needle(fact.statement, fact.question, fact.answer_prefix, fact.value)


def _draw_passkey(rng: random.Random) -> Needle:
    key = rng.randint(1, 50_000)  # the range of the original code
    statement = f"The pass key is {key}. Remember it. {key} is the pass key."
    return Needle(statement, "What is the pass key?", "The pass key is", str(key), own_line=True)


NEEDLE_TASKS = {
    "needle": NeedleTask("needle", _draw_fact_needle),
    "passkey": NeedleTask("passkey", _draw_passkey, intro=f"{PASSKEY_INTRO}\n", filler=PASSKEY_FILLER),
}


@dataclass(frozen=True)
class NeedleGrid:
    """A needle task of `evaluate`: every length, depth and sample of one kind of needle."""

    kind: NeedleTask
    context: TaskContext
    haystack: Haystack

    @property
    def name(self) -> str:
        return self.kind.name

    def keys(self, lengths: Sequence[int], samples: int | None) -> Iterator[Key]:
        """One sample after the other, the deepest needle first: each prompt begins like the one before it."""
        places = [(length, float(depth)) for length in lengths for depth in self.context.depths]
        places.sort(key=lambda place: (place[0] * place[1], place[0]), reverse=True)
        for sample in range(DEFAULT_SAMPLES if samples is None else samples):
            for length, depth in places:
                yield self.name, length, depth, sample

    def build(self, key: Key) -> Sample:
        _, length, depth, sample = key
        assert depth is not None
        return build_sample(
            self.kind,
            self.context.tokenizer,
            self.haystack,
            length=length,
            depth=depth,
            sample=sample,
            seed=self.context.seed,
            style=self.context.style,
            clamp_short=self.context.clamp_short,
        )

    def score(self, record: Mapping[str, Any], answer: str) -> float:
        return float(is_found(record["references"][0], answer))

    def settings(self) -> Mapping[str, Any]:
        return {"haystack": self.haystack.digest, "answer_tokens": self.kind.max_new_tokens}

    def notes(self, records: Sequence[Mapping[str, Any]]) -> list[str]:
        tokens = len(self.haystack.ids)
        if self.kind.filler is not None or max((record["length"] for record in records), default=0) <= tokens:
            return []
        return [f"{self.name}: the haystack holds {tokens:,} tokens and repeats in longer prompts."]


def needle_tasks(selector: str | None, context: TaskContext) -> list[NeedleGrid]:
    """The task "needle": facts of the lab in the haystack's documents."""
    return [_grid(NEEDLE_TASKS["needle"], context)]


def passkey_tasks(selector: str | None, context: TaskContext) -> list[NeedleGrid]:
    """The task "passkey": a number in filler of its own."""
    return [_grid(NEEDLE_TASKS["passkey"], context)]


def _grid(kind: NeedleTask, context: TaskContext) -> NeedleGrid:
    longest = max(context.lengths)
    if kind.filler is not None:
        haystack = build_haystack([kind.filler * 400], context.tokenizer, longest)
    else:
        haystack = build_haystack(context.documents(), context.tokenizer, longest + SPARE_TEXT_TOKENS)
    return NeedleGrid(kind, context, haystack)


def paper_lengths(max_length: int) -> list[int]:
    """The paper's lengths up to `max_length`: round(linspace(0, L, 40)); 0 is the shortest prompt."""
    return even_lengths(max_length, PAPER_LENGTHS, start=0)


def even_lengths(max_length: int, count: int, *, start: int | None = None) -> list[int]:
    """`count` evenly spaced lengths that end at `max_length`; they begin one step above 0, or at `start`.

    >>> even_lengths(4096, 4)
    [1024, 2048, 3072, 4096]
    """
    first = max_length / count if start is None else start
    return [round(float(length)) for length in np.linspace(first, max_length, count)]


def build_sample(
    task: NeedleTask,
    tokenizer: Any,
    haystack: Haystack,
    *,
    length: int,
    depth: float,
    sample: int,
    seed: int = 0,
    style: str = "plain",
    clamp_short: bool = False,
) -> Sample:
    """The prompt of one cell and sample: len(ids) + task.max_new_tokens == length.

    `depth` is the share of the text before the needle, in percent; the needle goes to the nearest line or
    sentence start. The text begins where (seed, task, sample) says, at every length and depth; the needle
    depends on (seed, task, length, depth, sample): a part of a grid has the same prompts as the whole.
    Length 0 gives the shortest prompt there is, and so does, with `clamp_short`, a length that is too short
    for one; else EvaluationError.
    """
    rng = random.Random(f"{seed}/{task.name}/{length}/{depth:g}/{sample}")
    needle = task.draw(rng)
    frame = build_frame(
        tokenizer,
        style,
        before=task.intro,
        after=f"\n{needle.question}",
        answer_prefix=needle.answer_prefix,
    )
    forms = {kind: encode_plain(tokenizer, needle.at(kind)) for kind in Break}
    room = length - task.max_new_tokens - len(frame)
    longest_form = max(map(len, forms.values()))
    empty = haystack.window(0, 0)
    if room >= longest_form:
        start = _text_start(haystack, f"{seed}/{task.name}/text/{sample}")
        before, hidden, after = _place(haystack, start, room, depth, forms)
    elif length == 0 or clamp_short:
        before, hidden, after = empty, forms[Break.LINE_START], empty
    else:
        raise EvaluationError(
            f"{length:,} tokens are too few for the task {task.name!r}: its shortest prompt has "
            f"{len(frame) + longest_form:,} and the answer {task.max_new_tokens}. Use a greater length."
        )
    return Sample(
        task=task.name,
        length=length,
        sample=sample,
        ids=frame.wrap(before, hidden, after),
        references=(needle.expected,),
        max_new_tokens=task.max_new_tokens,
        depth=depth,
        details={"needle_at": len(frame.head) + len(before)},
        frame=frame,
    )


def _text_start(haystack: Haystack, seed: str) -> int:
    return int(haystack.breaks[random.Random(seed).randrange(len(haystack.breaks))])


def _place(
    haystack: Haystack, start: int, room: int, depth: float, forms: Mapping[Break, Sequence[int]]
) -> tuple[np.ndarray, Sequence[int], np.ndarray]:
    """(text before the needle, the needle, text after it), int32 ids; they fill `room` exactly."""
    if depth <= 0:  # nothing stands before the needle: it opens the text
        hidden = forms[Break.LINE_START]
        return haystack.window(0, 0), hidden, cut_text(haystack, start, room - len(hidden)).ids
    wanted = start + round((room - len(forms[Break.LINE_START])) * depth / 100)
    at, kind = haystack.nearest_break(wanted)
    if abs(at - wanted) > FARTHEST_BREAK:
        at, kind = wanted, Break.SENTENCE
    elif at <= start:
        at, kind = start, Break.LINE_START
    text = cut_text(haystack, start, room - len(forms[kind]))
    if depth < 100 and at <= text.seam:
        return text.ids[: at - start], forms[kind], text.ids[at - start :]
    return _place_last(haystack, start, room, forms)


def _place_last(
    haystack: Haystack, start: int, room: int, forms: Mapping[Break, Sequence[int]]
) -> tuple[np.ndarray, Sequence[int], np.ndarray]:
    """All text, then the needle in the form that the text's end asks for; a new line is right after any."""
    nothing = haystack.window(0, 0)
    for kind, hidden in forms.items():
        text = cut_text(haystack, start, room - len(hidden))
        if text.end_kind is kind:
            return text.ids, hidden, nothing
    hidden = forms[Break.LINE_END]
    return cut_text(haystack, start, room - len(hidden)).ids, hidden, nothing


@dataclass(frozen=True)
class CutText:
    """Tokens of the haystack from a break on, cut so that they end at one too."""

    ids: np.ndarray
    seam: int
    """Up to here they run on as in the haystack; the rest is the end of that line."""
    end_kind: Break


def cut_text(haystack: Haystack, start: int, tokens: int) -> CutText:
    """`tokens` ids from `start` on whose last line lacks its beginning rather than its end.

    A reader of the question after it then meets no line that was cut off. Where no line or sentence ends
    within FARTHEST_BREAK, the text ends wherever the tokens do.
    """
    natural = start + tokens
    end, end_kind = haystack.next_break(natural)
    surplus = end - natural
    if not 0 < surplus <= FARTHEST_BREAK:
        kind = end_kind if surplus == 0 else Break.SENTENCE
        return CutText(haystack.window(natural, tokens), natural, kind)
    seam, kind = haystack.previous_break(natural)
    if natural - seam == 1:  # nothing but that line's first token would be left
        seam, kind = haystack.previous_break(seam - 1)
    seam = max(start, seam + (kind is Break.LINE_END))  # whose first token ends the line before
    ids = np.concatenate((haystack.window(seam, seam - start), haystack.window(end, natural - seam)))
    return CutText(ids, seam, end_kind)


def is_found(expected: str, answer: str) -> bool:
    """RULER's rule: the value stands somewhere in the answer, upper and lower case alike."""
    return expected.casefold() in answer.casefold()
