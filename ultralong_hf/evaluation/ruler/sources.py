"""Where RULER's texts come from: the data folder, the hub, or stand-ins that the report names."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.datafiles import DataFile, HubSource, find_data, read_json
from ultralong_hf.evaluation.ruler.essays import Essays, split_sentences
from ultralong_hf.evaluation.ruler.pieces import PieceEncoder
from ultralong_hf.evaluation.ruler.questions import Library, Question
from ultralong_hf.evaluation.ruler.words import compound_words
from ultralong_hf.evaluation.tasks import TaskContext
from ultralong_hf.lab.facts import KINDS, PLACES, QUALITIES, VALUE_DIGITS

FOLDERS = ("ruler", "json")
"""Of the data folder; the second is that of a checkout of NVIDIA/RULER, scripts/data/synthetic."""
ESSAYS = ("PaulGrahamEssays.json",)
QUESTIONS = {
    "squad": ("squad.json", "dev-v2.0.json"),
    "hotpotqa": ("hotpotqa.json", "hotpot_dev_distractor_v1.json"),
}
WORDS = ("english_words.json",)
HUB = {
    "essays": ("baber/paul_graham_essays", None, "train"),  # those of lm-eval
    "squad": ("rajpurkar/squad_v2", None, "validation"),
    "hotpotqa": ("hotpotqa/hotpot_qa", "distractor", "validation"),
}
_PASSAGE_CHARACTERS = 700
"""Of a stand-in's document, about what a paragraph of SQuAD has."""


def open_essays(context: TaskContext, encoder: PieceEncoder, tokens: int) -> Essays:
    """Paul Graham's essays, the haystack that the user gave, or documents of the lab; in this order, the
    haystack before all where there is one."""
    if context.haystack is not None:
        origin = "the given texts" if not isinstance(context.haystack, str | Path) else str(context.haystack)
        stand_in = f"stand-in: {origin} in place of Paul Graham's essays"
        return Essays(context.documents(), encoder, tokens, stand_in=stand_in)
    found = _local(ESSAYS, context)
    if found is not None:
        return Essays([_field(found, "text", ESSAYS[0])], encoder, tokens)
    rows = _hub_rows("essays")
    if rows is not None:
        return Essays([" ".join(row["text"] for row in rows)], encoder, tokens)
    stand_in = "stand-in: documents of the lab (sources of Python's library) in place of Paul Graham's essays"
    return Essays(context.documents(), encoder, tokens, stand_in=stand_in)


def open_library(dataset: str, context: TaskContext) -> Library:
    """SQuAD's or HotpotQA's validation questions, or generated facts in documents of the lab."""
    read = {"squad": _squad, "hotpotqa": _hotpotqa}[dataset]
    found = _local(QUESTIONS[dataset], context)
    if found is not None:
        return read(found, QUESTIONS[dataset][0])
    rows = _hub_rows(dataset)
    if rows is not None:
        return {"squad": _squad_rows, "hotpotqa": _hotpotqa_rows}[dataset](rows)
    return generated_library(context.documents(), hops={"squad": 1, "hotpotqa": 2}[dataset], name=dataset)


@dataclass(frozen=True)
class MoreWords:
    """Words for lists that wonderwords does not fill: NVIDIA's english_words.json, or compounds of its."""

    file: DataFile | None

    @classmethod
    def open(cls, context: TaskContext) -> MoreWords:
        return cls(_find(WORDS, context))

    @property
    def digest(self) -> str:
        return self.file.fingerprint if self.file else "compounds"

    def words(self, count: int) -> tuple[list[str], str | None]:
        """(the words, each once and `count` of them at least where there are so many; what stands in)."""
        if self.file is not None:
            found = read_json(self.file)
            listed = found.values() if isinstance(found, dict) else found
            return list(dict.fromkeys(map(str, listed))), None
        stand_in = "stand-in: compounds of wonderwords' adjectives and nouns in place of english_words.json"
        return compound_words(count), stand_in


def generated_library(documents: Iterable[str], *, hops: int, name: str) -> Library:
    """Questions about facts, each in a passage of the documents of its own; with 2 hops, in two of them.

    With 2 hops one fact says that a value is that of another place, which a second document gives.
    """
    rng = random.Random(f"generated {hops}")
    subjects = [(kind, f"{quality} {place}") for kind in KINDS for quality in QUALITIES for place in PLACES]
    rng.shuffle(subjects)
    passages = list(_passages(documents)) or [[]]
    texts: list[str] = []
    questions: list[Question] = []
    for index, (kind, place) in enumerate(subjects):
        value = str(rng.randrange(10 ** (VALUE_DIGITS - 1), 10**VALUE_DIGITS))
        fact = f"The {kind} of the {place} is {value}."
        needed: tuple[int, ...] = (index,)
        if hops == 2 and index % 2:
            before, before_place = subjects[index - 1]
            fact = f"The {kind} of the {place} is the {before} of the {before_place}."
            needed, value = (index - 1, index), questions[-1].answers[0]
        texts.append(_with_fact(passages[index % len(passages)], fact, rng))
        questions.append(Question(f"What is the {kind} of the {place}?", (value,), needed))
    if hops == 2:
        questions = questions[1::2]
    what = "SQuAD" if name == "squad" else "HotpotQA"
    return Library(questions, texts, stand_in=f"stand-in: generated facts in place of {what}")


def _with_fact(passage: Sequence[str], fact: str, rng: random.Random) -> str:
    sentences = list(passage)
    sentences.insert(rng.randint(0, len(sentences)), fact)
    return " ".join(sentences)


def _passages(documents: Iterable[str]) -> Iterator[list[str]]:
    """Runs of sentences of about 700 characters; sentences that long by themselves (tables) are left out."""
    for document in documents:
        passage: list[str] = []
        for sentence in split_sentences(document):
            if len(sentence) < _PASSAGE_CHARACTERS // 2:
                passage.append(sentence)
            if sum(map(len, passage)) >= _PASSAGE_CHARACTERS:
                yield passage
                passage = []


def _squad(content: Any, name: str) -> Library:
    """NVIDIA's reading: answerable questions; documents sorted; the article's others come first."""
    library = _LibraryMaker()
    for article in _field(content, "data", name):
        related = [paragraph["context"] for paragraph in article["paragraphs"]]
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                if not question["is_impossible"]:
                    answers = [answer["text"] for answer in question["answers"]]
                    library.add(question["question"], answers, [paragraph["context"]], related)
            library.documents.update(related)
    return library.made()


def _squad_rows(rows: Iterable[dict[str, Any]]) -> Library:
    """The hub's copy: a row a question, its article by `title`."""
    library = _LibraryMaker()
    listed = list(rows)
    articles: dict[str, dict[str, None]] = {}
    for row in listed:
        articles.setdefault(row["title"], {})[row["context"]] = None
    for row in listed:
        library.documents.add(row["context"])
        if row["answers"]["text"]:
            library.add(
                row["question"], row["answers"]["text"], [row["context"]], list(articles[row["title"]])
            )
    return library.made()


def _hotpotqa(content: Any, name: str) -> Library:
    library = _LibraryMaker()
    for row in content:
        documents = [f"{title}\n{''.join(sentences)}" for title, sentences in row["context"]]
        library.add(row["question"], [row["answer"]], documents, [])
    return library.made()


def _hotpotqa_rows(rows: Iterable[dict[str, Any]]) -> Library:
    """The hub's copy: titles and sentences in lists of their own."""
    library = _LibraryMaker()
    for row in rows:
        context = zip(row["context"]["title"], row["context"]["sentences"], strict=True)
        documents = [f"{title}\n{''.join(sentences)}" for title, sentences in context]
        library.add(row["question"], [row["answer"]], documents, [])
    return library.made()


class _LibraryMaker:
    """Questions with their documents as texts -> a Library, documents sorted and each once."""

    def __init__(self) -> None:
        self.documents: set[str] = set()
        self._questions: list[tuple[str, list[str], list[str], list[str]]] = []

    def add(self, query: str, answers: list[str], needed: list[str], related: list[str]) -> None:
        self.documents.update(needed)
        self.documents.update(related)
        self._questions.append((query, answers, needed, related))

    def made(self) -> Library:
        documents = sorted(self.documents)
        number = {document: index for index, document in enumerate(documents)}
        questions = []
        for query, answers, needed, related in self._questions:
            own = tuple(dict.fromkeys(number[document] for document in needed))
            others = tuple(
                number[document] for document in dict.fromkeys(related) if number[document] not in own
            )
            questions.append(Question(query, tuple(answers), own, others))
        return Library(questions, documents)


def _local(names: Sequence[str], context: TaskContext) -> Any:
    """What the first of these JSON files in the data folder holds; None: there is none."""
    file = _find(names, context)
    return None if file is None else read_json(file)


def _find(names: Sequence[str], context: TaskContext) -> DataFile | None:
    if context.data_dir is None:
        return None
    try:
        return find_data(HubSource("NVIDIA/RULER", FOLDERS), local=names, data_dir=context.data_dir)
    except EvaluationError:
        if not context.data_dir.is_dir():
            raise
        return None


def _field(content: Any, name: str, file: str) -> Any:
    if not isinstance(content, dict) or name not in content:
        raise EvaluationError(f"{file} has no {name!r} at its top: it is not the file that RULER reads.")
    return content[name]


def _hub_rows(what: str) -> Any:
    """Rows of a split on the hub; None where it cannot be had."""
    import datasets

    path, name, split = HUB[what]
    try:
        return datasets.load_dataset(path, name, split=split)
    except Exception:  # load_dataset raises errors of five libraries
        return None
