"""Tokens -> text while they come: a character is given out once it is whole."""

from __future__ import annotations

from typing import Any

_UNFINISHED = "\ufffd"


class TokenText:
    """`add` gives the text that a token completes; what several tokens spell together waits for the last."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._start = self._given = 0

    def add(self, token: int) -> str:
        self._ids.append(token)
        before, now = self._decode(self._start, self._given), self._decode(self._start, len(self._ids))
        if now.endswith(_UNFINISHED) or len(now) <= len(before):
            return ""
        # Decoded with some tokens before them: several tokenizers drop a blank at a text's start.
        self._start, self._given = self._given, len(self._ids)
        return now[len(before) :]

    def rest(self) -> str:
        """What is left at the end, finished or not."""
        before, now = self._decode(self._start, self._given), self._decode(self._start, len(self._ids))
        self._given = len(self._ids)
        return now[len(before) :]

    def _decode(self, start: int, stop: int) -> str:
        return str(self._tokenizer.decode(self._ids[start:stop], skip_special_tokens=True))
