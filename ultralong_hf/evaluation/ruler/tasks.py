"""RULER as tasks of `evaluate`: "ruler" is all thirteen of them, "ruler/vt" one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ultralong_hf.data.tokenization import tokenizer_digest
from ultralong_hf.errors import EngineMismatch
from ultralong_hf.evaluation.prompts import build_frame
from ultralong_hf.evaluation.ruler.building import Prompt, PromptMaker, TooShortError
from ultralong_hf.evaluation.ruler.common import CommonWordsGenerator
from ultralong_hf.evaluation.ruler.definitions import (
    TASKS,
    CommonWords,
    FrequentWords,
    Niah,
    VariableTracking,
)
from ultralong_hf.evaluation.ruler.drafts import Generator
from ultralong_hf.evaluation.ruler.essays import Essays
from ultralong_hf.evaluation.ruler.frequent import FrequentWordsGenerator
from ultralong_hf.evaluation.ruler.niah import NiahGenerator
from ultralong_hf.evaluation.ruler.pieces import PieceEncoder
from ultralong_hf.evaluation.ruler.questions import QuestionGenerator
from ultralong_hf.evaluation.ruler.sample_cache import SampleCache, cache_key
from ultralong_hf.evaluation.ruler.scoring import match_all, match_any
from ultralong_hf.evaluation.ruler.sources import MoreWords, open_essays, open_library
from ultralong_hf.evaluation.ruler.tracking import TrackingGenerator
from ultralong_hf.evaluation.tasks import Key, Sample, TaskContext

DEFAULT_SAMPLES = 100
"""A cell, as in NVIDIA's present pipeline (NVIDIA-NeMo/Skills); the paper took 500."""
_CERTAIN_LENGTH = 32_768
"""Tokens that are enough for a prompt of any task."""
_ESSAY_TOKENS = 131_072
"""Read where no lengths are told; longer prompts begin with them again."""


@dataclass
class Workshop:
    """What the tasks of one run share: the tokenizer at work, texts, and the makers of prompts."""

    context: TaskContext
    engine: str = "auto"
    _makers: dict[str, PromptMaker] = field(default_factory=dict)

    @cached_property
    def encoder(self) -> PieceEncoder:
        return PieceEncoder(self.context.tokenizer, engine=self.engine)

    @cached_property
    def essays(self) -> Essays:
        return open_essays(self.context, self.encoder, max(self.context.lengths, default=_ESSAY_TOKENS))

    def maker(self, name: str) -> PromptMaker:
        if name not in self._makers:
            try:
                self._makers[name] = self._make_maker(name)
            except EngineMismatch:
                self.restart()
                self._makers[name] = self._make_maker(name)
        return self._makers[name]

    def restart(self) -> None:
        """Begins again with the tokenizer's own library: nothing that the other one made is kept."""
        self.engine = "tokenizers"
        self._makers.clear()
        self.__dict__.pop("encoder", None)
        self.__dict__.pop("essays", None)

    def _make_maker(self, name: str) -> PromptMaker:
        context, generator = self.context, self._generator(name)
        return PromptMaker(name, generator, context.tokenizer, self.encoder, context.style, context.seed)

    def _generator(self, name: str) -> Generator:
        arguments = TASKS[name]
        if isinstance(arguments, Niah):
            essays = self.essays if arguments.haystack == "essay" else None
            return NiahGenerator(arguments, self.encoder, seed=self.context.seed, essays=essays)
        if isinstance(arguments, VariableTracking):
            return TrackingGenerator(arguments, self.encoder, seed=self.context.seed)
        if isinstance(arguments, CommonWords):
            return CommonWordsGenerator(arguments, self.encoder, MoreWords.open(self.context))
        if isinstance(arguments, FrequentWords):
            return FrequentWordsGenerator(arguments, self.encoder)
        library = open_library(arguments.dataset, self.context)
        return QuestionGenerator(arguments, self.encoder, library)


@dataclass
class RulerTask:
    """One of the thirteen."""

    selector: str
    workshop: Workshop
    is_named: bool
    """The user asked for this very task: a length that is too short for it is an error then."""
    _too_short: dict[int, int] = field(default_factory=dict)
    _digests: dict[int, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"ruler/{self.selector}"

    @property
    def maker(self) -> PromptMaker:
        return self.workshop.maker(self.selector)

    def keys(self, lengths: Sequence[int], samples: int | None) -> Iterator[Key]:
        """By length and sample, without the lengths that have no room for a prompt.

        Raises EvaluationError where none has, or the task was asked for by name.
        """
        for length in lengths:
            if self._has_room(length):
                for sample in range(DEFAULT_SAMPLES if samples is None else samples):
                    yield self.name, length, None, sample

    def build(self, key: Key) -> Sample:
        _, length, _, sample = key
        prompt = self._prompt(length, sample)
        return Sample(
            task=self.name,
            length=length,
            sample=sample,
            ids=prompt.ids,
            references=prompt.references,
            max_new_tokens=TASKS[self.selector].answer_tokens,
            details=prompt.details,
            notes=prompt.notes,
            frame=prompt.frame,
        )

    def score(self, record: Mapping[str, Any], answer: str) -> float:
        match = match_any if self.selector.startswith("qa_") else match_all
        return match(answer, record["references"])

    def settings(self) -> Mapping[str, Any]:
        longest = max(self.workshop.context.lengths, default=0)
        return {"prompts": self._digest(longest), "answer_tokens": TASKS[self.selector].answer_tokens}

    def notes(self, records: Sequence[Mapping[str, Any]]) -> list[str]:
        return [
            f"{self.name} was not measured at {length:,}: its shortest prompt, with the answer, has about "
            f"{shortest:,} tokens."
            for length, shortest in self._too_short.items()
        ]

    def _has_room(self, length: int) -> bool:
        if length >= _CERTAIN_LENGTH:
            return True
        try:
            self._prompt(length, 0)
        except TooShortError as error:
            if self.is_named:
                raise
            self._too_short[length] = error.shortest
            return False
        return True

    def _prompt(self, length: int, sample: int) -> Prompt:
        cache = self._cache(length)
        prompt = cache.read(sample) if cache else None
        if prompt is None:
            prompt = self._make(length, sample)
            if cache:
                cache.write(sample, prompt)
        return prompt

    def _make(self, length: int, sample: int) -> Prompt:
        try:
            return self.maker.make(length, sample)
        except EngineMismatch:
            self.workshop.restart()
            cache = self._cache(length)
            if cache:
                shutil.rmtree(cache.folder, ignore_errors=True)
            return self.maker.make(length, sample)

    def _cache(self, length: int) -> SampleCache | None:
        folder = self.workshop.context.cache_dir
        if folder is None:
            return None
        return SampleCache(Path(folder) / "ruler" / f"{self.selector}-{length}-{self._digest(length)}")

    def _digest(self, length: int) -> str:
        if length not in self._digests:
            self._digests[length] = self._make_digest(length)
        return self._digests[length]

    def _make_digest(self, length: int) -> str:
        context = self.workshop.context
        probe = build_frame(
            context.tokenizer, context.style, before="a\n", after="b", answer_prefix="c", joints=("A", "\n")
        )
        return cache_key(
            {
                "task": self.selector,
                "arguments": asdict(TASKS[self.selector]),
                "length": length,
                "seed": context.seed,
                "tokenizer": tokenizer_digest(context.tokenizer),
                "frame": [probe.head, probe.tail],
                "texts": self.maker.generator.settings(length),
                "wonderwords": version("wonderwords"),
            }
        )


def ruler_tasks(selector: str | None, context: TaskContext) -> list[RulerTask]:
    """All thirteen tasks, or the one of that name."""
    workshop = Workshop(context)
    names = list(TASKS) if selector is None else [selector]
    return [RulerTask(name, workshop, is_named=selector is not None) for name in names]
