"""Fenced blocks of README and docs, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.M | re.S)
_RUN = re.compile(r"<!-- run( slow)? -->\s*\Z")
_WHY_NOT = re.compile(r"<!-- checked only: (.+?) -->")
_NAMED = re.compile(r"`([\w-]+\.(?:yaml|py|sh))`[^`]*\Z")
_SHELL = ("", "sh", "bash", "text", "console")
# A bare block is one of commands if its first line begins with one of these; else it is output.
_PROGRAMS = (
    *("ultralong", "accelerate", "python", "make", "pip", "pytest", "hf", "sbatch", "bash", "git", "mkdocs"),
    *("vllm", "docker", "curl", "diff", "trackio", "tensorboard"),
)
_SEPARATORS = {"&&", "||", ";", "|", "&", ";;"}
_KEYWORDS = {"do", "then", "else", "while", "if", "!"}


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    page: str
    line: int
    language: str
    text: str
    run: str | None
    """ "fast" or "slow" for what a test runs; None: it is parsed and checked."""
    why_not: str | None
    """Why the page's blocks are not run, as the page says it."""
    name: str | None
    """The file that the text before it calls it: `corpus.yaml`."""

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """A command line of a block, and what stands below it."""

    text: str
    output: str


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    why = _WHY_NOT.search(text)
    found = []
    for match in _FENCE.finditer(text):
        before = text[: match.start()]
        run = _RUN.search(before)
        named = _NAMED.search(before.rsplit("\n\n", 2)[-2] if before.endswith("\n\n") else before)
        found.append(
            Block(
                page=page.relative_to(ROOT).as_posix(),
                line=before.count("\n") + 1,
                language=match[2],
                text=re.sub(f"^{match[1]}", "", match[3], flags=re.M),
                run=("slow" if run[1] else "fast") if run else None,
                why_not=why[1] if why else None,
                name=named[1] if named else None,
            )
        )
    return found


def all_blocks() -> list[Block]:
    return [block for page in pages() for block in blocks_of(page)]


def commands_of(block: Block) -> list[Command]:
    """The commands of a block: lines after `$ `, or all lines of a block that has no output in it."""
    if block.language not in _SHELL:
        return []
    lines = block.text.splitlines()
    if any(line.startswith("$ ") for line in lines):
        return list(_prompted(lines))
    first = (block.text.split() or [""])[0]
    if block.language in ("sh", "bash") or (block.language == "" and first in _PROGRAMS):
        joined = block.text.replace("\\\n", " ")
        return [Command(line, "") for line in joined.splitlines() if line.strip() and line[0] != "#"]
    return []


def _prompted(lines: list[str]) -> Iterator[Command]:
    command, output, open_line = "", [], False
    for line in lines:
        if line.startswith("$ "):
            if command:
                yield Command(command, "\n".join(output))
            command, output = line[2:], []
        elif open_line:
            command += "\n" + line
        else:
            output.append(line)
            continue
        open_line = command.endswith("\\")
        command = command.removesuffix("\\")
    yield Command(command, "\n".join(output))


def simple_commands(line: str, variables: dict[str, str] | None = None) -> Iterator[list[str]]:
    """The programs that a line calls, each with its words; `variables` set here are kept for later lines.

    >>> list(simple_commands("a=1 make test > log && diff x y"))
    [['make', 'test'], ['diff', 'x', 'y']]
    """
    known = {} if variables is None else variables
    lexer = shlex.shlex(line.replace("\n", " "), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    skip = False
    for token in [*lexer, ";"]:
        if skip:
            skip = False
        elif token in _SEPARATORS:
            yield from _finished(words, known)
            words = []
        elif set(token) <= set("<>&") and token:
            skip = True
        else:
            words.append(token)


def _finished(words: list[str], known: dict[str, str]) -> Iterator[list[str]]:
    while words and words[0] in _KEYWORDS:
        words = words[1:]
    while words and (match := re.fullmatch(r"(\w+)=(.*)", words[0], re.S)):
        known[match[1]] = match[2]
        words = words[1:]
    if words and words[0].startswith("$") and words[0][1:] in known:
        words = [*shlex.split(known[words[0][1:]]), *words[1:]]
    if words:
        yield words
