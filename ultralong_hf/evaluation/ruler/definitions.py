"""RULER's thirteen tasks as five kinds of arguments, with their wording and answer budgets.

Everything here is NVIDIA's (arXiv 2404.06654; NVIDIA/RULER, Apache-2.0): arguments of
`scripts/synthetic.yaml`, wording and budgets of `scripts/data/synthetic/constants.py`, the rest of the
generators beside it. Where the repository changed over time it is the form of the paper's results, which
lm-eval has too.

An answer prefix stands here without the blanks around it, as NVIDIA's present pipeline writes it
(NVIDIA-NeMo/Skills, nemo_skills/dataset/ruler/prepare_data.py): after a chat template nothing is put before
it, in a plain prompt one blank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

Kind = Literal["words", "numbers", "uuids"]

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
# 40 places, in percent of the sentences: round(linspace(0, 100, 40)), halves to even as numpy has it.
DEPTHS = tuple(round(100 * place / 39) for place in range(40))
THRESHOLD = 85.6
"""Llama-2-7B's score at 4K: a length counts as effective above it (README of NVIDIA/RULER)."""


@dataclass(frozen=True, kw_only=True)
class Niah:
    """Needles in a haystack: "One of the special magic numbers for KEY is: VALUE."."""

    haystack: Literal["noise", "essay", "needle"]
    """One sentence again and again, essays, or needles with other keys."""
    keys: Kind = "words"
    values: Kind = "numbers"
    num_keys: int = 1
    num_values: int = 1
    """Values of each key."""
    num_queries: int = 1
    """Keys that are asked for; there are at least as many keys."""
    answer_tokens: ClassVar[int] = 128
    before: ClassVar[str] = (
        "Some special magic {values} are hidden within the following text. Make sure to memorize it. "
        "I will quiz you about the {values} afterwards.\n"
    )
    after: ClassVar[str] = (
        "What are all the special magic {values} for {query} mentioned in the provided text?"
    )
    answer_prefix: ClassVar[str] = "The special magic {values} for {query} mentioned in the provided text are"
    before_one: ClassVar[str] = (
        "A special magic {values} is hidden within the following text. Make sure to memorize it. "
        "I will quiz you about the {values} afterwards.\n"
    )
    after_one: ClassVar[str] = (
        "What is the special magic {values} for {query} mentioned in the provided text?"
    )
    answer_prefix_one: ClassVar[str] = (
        "The special magic {values} for {query} mentioned in the provided text is"
    )
    needle: ClassVar[str] = "One of the special magic {values} for {key} is: {value}."


@dataclass(frozen=True, kw_only=True)
class VariableTracking:
    """A chain of assignments among noise; an example with its answer stands before it."""

    chains: int = 1
    hops: int = 4
    answer_tokens: ClassVar[int] = 30
    example_tokens: ClassVar[int] = 500
    """The example, its answer's budget counted in, has so many at most."""
    before: ClassVar[str] = (
        "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n"
    )
    after: ClassVar[str] = (
        "Question: Find all variables that are assigned the value {query} in the text above."
    )
    # "assgined" is NVIDIA's spelling.
    answer_prefix: ClassVar[str] = (
        "Answer: According to the chain(s) of variable assignment in the text above, "
        "{num_variables} variables are assgined the value {query}, they are:"
    )


@dataclass(frozen=True, kw_only=True)
class CommonWords:
    """A numbered list in which ten words stand more often than all others; an example stands before it."""

    num_common: int = 10
    common_repeats: int = 30
    uncommon_repeats: int = 3
    example: tuple[int, int, int] = (40, 10, 3)
    """Words, repeats of the common ones, repeats of the others."""
    short_length: ClassVar[int] = 4096
    """Below this many tokens the smaller numbers that follow are used."""
    short_repeats: ClassVar[tuple[int, int]] = (6, 1)
    short_example: ClassVar[tuple[int, int, int]] = (20, 3, 1)
    answer_tokens: ClassVar[int] = 120
    before: ClassVar[str] = (
        "Below is a numbered list of words. In these words, some appear more often than others. "
        "Memorize the ones that appear most often.\n"
    )
    after: ClassVar[str] = "Question: What are the 10 most common words in the above list?"
    answer_prefix: ClassVar[str] = "Answer: The top 10 words that appear most often in the list are:"


@dataclass(frozen=True, kw_only=True)
class FrequentWords:
    """Coded words; the k-th stands in proportion to k ** -alpha, and the first is dots."""

    alpha: float = 2.0
    letters: int = 6
    num_answers: int = 3
    tokens_a_word: int = 50
    """Of the length, for each word of the vocabulary."""
    dots: ClassVar[str] = "..."
    answer_tokens: ClassVar[int] = 50
    before: ClassVar[str] = (
        "Read the following coded text and track the frequency of each coded word. "
        "Find the three most frequently appeared coded words."
    )
    after: ClassVar[str] = (
        "Question: Do not provide any explanation. Please ignore the dots '....'. "
        "What are the three most frequently appeared words in the above coded text?"
    )
    answer_prefix: ClassVar[str] = (
        "Answer: According to the coded text above, the three most frequently appeared words are:"
    )


@dataclass(frozen=True, kw_only=True)
class Questions:
    """A question about one or two of many documents."""

    dataset: Literal["squad", "hotpotqa"]
    answer_tokens: ClassVar[int] = 32
    before: ClassVar[str] = (
        "Answer the question based on the given documents. Only give me the answer and do not output any "
        "other words.\n\nThe following are given documents.\n\n"
    )
    after: ClassVar[str] = (
        "Answer the question based on the given documents. Only give me the answer and do not output any "
        "other words.\n\nQuestion: {query}"
    )
    answer_prefix: ClassVar[str] = "Answer:"
    document: ClassVar[str] = "Document {number}:\n{text}"


Arguments: TypeAlias = "Niah | VariableTracking | CommonWords | FrequentWords | Questions"

TASKS: dict[str, Arguments] = {
    "niah_single_1": Niah(haystack="noise"),
    "niah_single_2": Niah(haystack="essay"),
    "niah_single_3": Niah(haystack="essay", values="uuids"),
    "niah_multikey_1": Niah(haystack="essay", num_keys=4),
    "niah_multikey_2": Niah(haystack="needle"),
    "niah_multikey_3": Niah(haystack="needle", keys="uuids", values="uuids"),
    "niah_multivalue": Niah(haystack="essay", num_values=4),
    "niah_multiquery": Niah(haystack="essay", num_keys=4, num_queries=4),
    "vt": VariableTracking(),
    "cwe": CommonWords(),
    "fwe": FrequentWords(),
    "qa_1": Questions(dataset="squad"),
    "qa_2": Questions(dataset="hotpotqa"),
}
