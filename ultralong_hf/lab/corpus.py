"""The lab's text: real documents from the interpreter's own standard library, and generated ones with facts.

The standard library has some 1,700 files with a long tail of lengths: median 7,000 characters, longest
750,000 (Python 3.11).
One file in twenty is held out: never trained on, it serves as haystack and for perplexity.
"""

from __future__ import annotations

import hashlib
import random
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultralong_hf.errors import MachineError
from ultralong_hf.lab.facts import MOST_FACTS, draw_facts

if TYPE_CHECKING:
    from tokenizers import Tokenizer

HELD_OUT_ONE_IN = 20
CHARACTERS_PER_TOKEN = 3.0
"""Of the lab's tokenizer on this corpus, rounded; only sizes of generated documents hang on it."""
TRAINING_ROWS = 205
"""Rows of the target length that `training_documents` fills, about."""
CHARACTERS_A_FACT = 200
"""Of a document with facts: few facts a row teach recall slowly."""
REAL_SHARE = 0.4
"""Of the documents that have a quarter of a row or more to fill."""
SEPARATOR_TOKENS = 3
"""Of `<s>` in the lab's tokenizer."""
LONGEST_LINE = 200
"""Characters; longer lines (tables of encodings, mostly) make no filler."""


def held_out_documents() -> Iterator[str]:
    """Real documents that no stage of the lab trains on."""
    for name, text in _library_files():
        if is_held_out(name):
            yield text


def real_training_documents() -> Iterator[str]:
    """Real documents that are not held out, by path."""
    for name, text in _library_files():
        if not is_held_out(name):
            yield text


def is_held_out(name: str) -> bool:
    """By a hash of the path inside the library, so that the split is the same everywhere."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % HELD_OUT_ONE_IN == 0


def training_documents(target_length: int, seed: int) -> Iterator[str]:
    """Documents for about TRAINING_ROWS rows of `target_length` tokens, real ones and ones with facts.

    A document is as long as what is left of its row, so that few facts are cut off from the question about
    them, and distances reach the length of the row. Of a real document that is longer, the head is taken.
    """
    rng = random.Random(f"training documents {seed}")
    filler = Filler(rng)
    tokenizer = shipped_tokenizer()
    real = list(real_training_documents())
    rng.shuffle(real)
    tokens = 0
    while tokens < TRAINING_ROWS * target_length:
        left = target_length - tokens % target_length
        characters = round(left * CHARACTERS_PER_TOKEN)
        if left < target_length // 4 or rng.random() < REAL_SHARE:
            text = real.pop()[:characters]
        else:
            text = fact_document(rng, filler, characters)
        yield text
        tokens += len(tokenizer.encode(text, add_special_tokens=False)) + SEPARATOR_TOKENS


def fact_document(
    rng: random.Random, filler: Filler, characters: int, *, characters_a_fact: int = CHARACTERS_A_FACT
) -> str:
    """Real lines with a fact every `characters_a_fact` or so, each asked for, or just said again, after it.

    "...The access code of the upper harbour is 40713. ... What is the access code of the upper harbour? The
    access code of the upper harbour is 40713. ..."

    In two documents of three the facts stand near the start and the questions near the end.
    """
    facts = draw_facts(rng, min(MOST_FACTS, max(1, characters // characters_a_fact)))
    early = rng.choice((0.3, 0.6, 1.0))
    placed: list[tuple[float, str]] = []
    for fact in facts:
        stated = rng.uniform(0.0, early)
        asked = rng.uniform(max(stated, 1.0 - early), 1.0)
        repeated = f"{fact.question} {fact.statement}" if rng.random() < 0.5 else fact.statement
        placed += [(stated, fact.statement), (asked, repeated)]
    body = filler.lines(characters - sum(len(text) + 1 for _, text in placed))
    placed += [((index + 0.5) / len(body), line) for index, line in enumerate(body)]
    return "\n".join(text for _, text in sorted(placed, key=lambda item: item[0])) + "\n"


def conversations(seed: int, *, samples: int = 400, characters: int = 600) -> Iterator[dict[str, Any]]:
    """Short chats, `{"messages": [...]}`: a text of up to `characters` with facts, and questions on it."""
    rng = random.Random(f"conversations {seed}")
    filler = Filler(rng)
    for _ in range(samples):
        yield conversation(rng, filler, rng.randint(characters // 4, characters))


def conversation(rng: random.Random, filler: Filler, characters: int) -> dict[str, Any]:
    """One chat of about `characters`: the first question stands under the text, the others follow."""
    facts = draw_facts(rng, rng.randint(1, max(1, min(6, characters // 120))))
    asked = rng.sample(facts, rng.randint(1, min(4, len(facts))))
    spent = sum(len(fact.statement) + 1 for fact in facts) + sum(2 * len(fact.statement) for fact in asked)
    text = filler.lines(max(0, characters - spent))
    for fact in facts:
        text.insert(rng.randint(0, len(text)), fact.statement)
    messages: list[dict[str, str]] = []
    for fact in asked:
        opening = "" if messages else "\n".join(text) + "\n\n"
        messages.append({"role": "user", "content": opening + fact.question})
        messages.append({"role": "assistant", "content": fact.statement})
    return {"messages": messages}


class Filler:
    """Runs of consecutive lines from real training documents, drawn with `rng`."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._lines = _training_lines()

    def lines(self, characters: int) -> list[str]:
        """Consecutive lines of `characters` at most, newlines counted; at least one line."""
        start = self._rng.randrange(len(self._lines))
        chosen: list[str] = []
        while True:
            line = self._lines[(start + len(chosen)) % len(self._lines)]
            characters -= len(line) + 1
            if chosen and characters < 0:
                return chosen
            chosen.append(line)


@cache
def shipped_tokenizer() -> Tokenizer:
    """The tokenizer of the base model that ships with this package."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(Path(__file__).parent / "base" / "tokenizer.json"))


@cache
def _training_lines() -> tuple[str, ...]:
    texts = list(real_training_documents())
    random.Random("filler").shuffle(texts)
    return tuple(line for text in texts[:400] for line in text.splitlines() if 0 < len(line) <= LONGEST_LINE)


@cache
def _library_files() -> tuple[tuple[str, str], ...]:
    """(path inside the library, text) of each Python file that is UTF-8 and not empty, by path."""
    root = Path(sysconfig.get_path("stdlib"))
    files = []
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if "site-packages" in relative.parts or "dist-packages" in relative.parts:
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue  # the library's own tests hold files that are broken on purpose
        if text.strip():
            files.append((relative.as_posix(), text))
    if len(files) < 100:
        raise MachineError(
            f"{root} holds {len(files)} readable Python files: the lab needs the standard library as source "
            "text. Use a Python that ships it (python.org, conda, pyenv, Debian's libpython3-stdlib)."
        )
    return tuple(files)
