"""Documents and turns -> token ids whose beginning stays the same from question to question."""

from __future__ import annotations

import copy
import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ultralong_hf.chat.documents import Document
from ultralong_hf.chat.prompting import PromptStyle, Turn, frozen_part, messages
from ultralong_hf.errors import ChatError
from ultralong_hf.evaluation.prompts import TEMPLATE_VALUES, encode_behind, encode_plain, leading_bos

# Characters that are tokenized at once: a block ends behind a line's end, so that few tokens would span it.
BLOCK = 16_384
_LONGEST_BLOCK = 4 * BLOCK
_BLOCK_END = re.compile(r"\n(?=\S)")


@dataclass(frozen=True)
class EncodedText:
    """A text's ids, int32, in blocks: block k begins at token `token_starts[k]`, character `starts[k]`."""

    text: str
    ids: np.ndarray
    starts: tuple[int, ...]
    token_starts: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def characters(self, tokenizer: Any, first: int, last: int) -> tuple[int, int]:
        """The characters of tokens [first, last), as (start, end) of the text."""
        return self._character(tokenizer, first, end=False), self._character(tokenizer, last - 1, end=True)

    def tokens_before(self, tokenizer: Any, character: int) -> int:
        """How many tokens lie before this character, whole."""
        block = max(0, bisect_right(self.starts, character) - 1)
        inside = self.text[self.starts[block] : character]
        return self.token_starts[block] + (len(encode_plain(tokenizer, inside)) if inside else 0)

    def _character(self, tokenizer: Any, token: int, *, end: bool) -> int:
        block = bisect_right(self.token_starts, token) - 1
        start = self.starts[block]
        stop = self.starts[block + 1] if block + 1 < len(self.starts) else len(self.text)
        offsets = _offsets(tokenizer, self.text[start:stop])
        if offsets is None:
            return stop if end else start  # a tokenizer without offsets tells the block alone
        return start + offsets[token - self.token_starts[block]][int(end)]


def plain_tokenizer(tokenizer: Any) -> Any:
    """A copy that reads special tokens as letters, always.

    Whether a tokenizer does is a state of it, which one call sets for all threads: what one user's thread
    asks for markup would make a special token of another user's text.
    """
    plain = copy.deepcopy(tokenizer)
    encode_plain(plain, "a")
    return plain


def encode_text(
    tokenizer: Any, text: str, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> EncodedText:
    """tokenizer: a `plain_tokenizer`. Nothing is added. progress(characters done, of all)."""
    ids: list[np.ndarray] = []
    starts: list[int] = []
    token_starts: list[int] = []
    tokens = start = 0
    while start < len(text):
        stop = _block_end(text, start)
        block = np.asarray(encode_plain(tokenizer, text[start:stop]), dtype=np.int32)
        starts.append(start)
        token_starts.append(tokens)
        ids.append(block)
        tokens += len(block)
        start = stop
        progress(start, len(text))
    empty = np.zeros(0, dtype=np.int32)
    return EncodedText(text, np.concatenate(ids) if ids else empty, tuple(starts), tuple(token_starts))


@dataclass(frozen=True)
class EncodedPrompt:
    """ids: int32. The first `frozen` tokens are the same for every question over these documents.

    spans: (index of the document, first token, token behind the last) of each document's own text.
    """

    ids: np.ndarray
    frozen: int
    spans: tuple[tuple[int, int, int], ...]


class PromptWriter:
    """Writes prompts in a tokenizer's chat template; plainly, with "Question:" and "Answer:", without one.

    answer_start: how every answer begins; the model goes on from there.
    """

    def __init__(self, tokenizer: Any, style: PromptStyle = "guided", *, answer_start: str = "") -> None:
        self.tokenizer, self.style = tokenizer, style
        self.plain = plain_tokenizer(tokenizer)
        self.answer_start = tuple(encode_plain(self.plain, answer_start) if answer_start else ())
        self._has_template = bool(getattr(tokenizer, "chat_template", None))

    def write(
        self,
        documents: Sequence[Document],
        encoded: Sequence[EncodedText],
        turns: Sequence[Turn],
        question: str,
    ) -> EncodedPrompt:
        """Raises ChatError for a template that drops or changes what is said."""
        between = self._template(2 * len(turns) + 1)
        said = [text for turn in turns for text in (turn.question, turn.answer)] + [question]
        if not self._has_template:
            said[0] = f"Question: {said[0]}"  # behind the documents, which are frozen
        head = self._with_bos(between[0])
        parts, frozen, spans = self._frozen(head, documents, encoded)
        for index, text in enumerate(said):
            turn = turns[index // 2] if index % 2 else None
            if turn is not None and turn.answer_ids is not None:
                parts.append(np.asarray(turn.answer_ids, dtype=np.int32))
            else:
                parts.append(self._data(text))
            parts.append(self._markup(between[index + 1]))
        parts.append(np.asarray(self.answer_start, dtype=np.int32))
        return EncodedPrompt(np.concatenate(parts), frozen, spans)

    def _frozen(
        self, head: np.ndarray, documents: Sequence[Document], encoded: Sequence[EncodedText]
    ) -> tuple[list[np.ndarray], int, tuple[tuple[int, int, int], ...]]:
        parts, at, spans = [head], len(head), []
        for text, index in frozen_part(documents, self.style).pieces:
            ids = self._data(text) if index is None else encoded[index].ids
            if index is not None:
                spans.append((index, at, at + len(ids)))
            parts.append(ids)
            at += len(ids)
        return parts, at, tuple(spans)

    def _template(self, count: int) -> list[str]:
        """What the template writes before, between and behind `count` messages, the last a question."""
        if not self._has_template:
            inner = ["\n\nQuestion: " if index % 2 else "\nAnswer: " for index in range(count - 1)]
            return ["", *inner, "\nAnswer:"]
        marks = [f"(text {index} of the conversation)" for index in range(count)]
        said = [
            {"role": "assistant" if index % 2 else "user", "content": mark}
            for index, mark in enumerate(marks)
        ]
        rendered = str(
            self.tokenizer.apply_chat_template(
                said, tokenize=False, add_generation_prompt=True, **TEMPLATE_VALUES
            )
        )
        between, rest = [], rendered
        for mark in marks:
            before, found, rest = rest.partition(mark)
            if not found or mark in rest:
                raise ChatError(
                    "The tokenizer's chat template drops, repeats or moves a message of the conversation: "
                    "this model cannot hold one."
                )
            between.append(before)
        return [*between, rest]

    def _with_bos(self, text: str) -> np.ndarray:
        bos = () if self._has_template else leading_bos(self.tokenizer)
        return np.asarray([*bos, *self._ids(text)], dtype=np.int32)

    def _markup(self, text: str) -> np.ndarray:
        """The template's own text: its special tokens are meant."""
        return np.asarray(encode_behind(self.tokenizer, "\n", text) if text else [], dtype=np.int32)

    def _ids(self, text: str) -> list[int]:
        return (
            list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) if text else []
        )

    def _data(self, text: str) -> np.ndarray:
        """Text of people, documents and models: a special token in it is only its letters."""
        return np.asarray(encode_plain(self.plain, text) if text else [], dtype=np.int32)


def conversation(
    documents: Sequence[Document], style: PromptStyle, turns: Sequence[Turn], question: str
) -> list[dict[str, str]]:
    """The same as messages for a server, which writes its own template."""
    return messages(frozen_part(documents, style).text, turns, question)


def _block_end(text: str, start: int) -> int:
    if len(text) - start <= BLOCK:
        return len(text)
    end = _BLOCK_END.search(text, start + BLOCK, start + _LONGEST_BLOCK)
    if end:
        return end.end()
    blank = text.rfind(" ", start + BLOCK, start + _LONGEST_BLOCK)
    return blank if blank > 0 else min(len(text), start + _LONGEST_BLOCK)


def _offsets(tokenizer: Any, text: str) -> list[tuple[int, int]] | None:
    try:
        encoded = tokenizer(
            text,
            add_special_tokens=False,
            split_special_tokens=True,
            verbose=False,
            return_offsets_mapping=True,
        )
    except NotImplementedError:
        return None
    return list(encoded["offset_mapping"])
