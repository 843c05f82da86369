"""Turns -> the messages that the page shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from ultralong_hf.chat.chat import ChatTurn
from ultralong_hf.chat.page.escaping import answer_markdown, plain_markdown

Messages: TypeAlias = list[Any]
"""Of Gradio's chat: {"role", "content"}."""


def turn_messages(turns: Sequence[ChatTurn]) -> Messages:
    """Two messages a turn; below an answer what was reused, and what of it the documents lack."""
    shown: Messages = []
    for turn in turns:
        note = plain_markdown(turn.summary)
        if turn.evidence is not None and turn.evidence.missing:
            note += f"  \n⚠ {plain_markdown(turn.evidence.message)}"
        shown += [question_message(turn.question), answer_message(turn.answer, note)]
    return shown


def question_message(question: str) -> dict[str, Any]:
    """As it was typed, for it can be edited; the page's sanitizer and policy keep it harmless."""
    return {"role": "user", "content": question}


def answer_message(answer: str, note: str = "") -> dict[str, Any]:
    text = answer_markdown(answer)
    return {"role": "assistant", "content": f"{text}\n\n*{note}*" if note else text}


def turn_of(index: Any) -> int:
    """The turn of a message, by the index that an event of the chat tells.

    >>> turn_of(3), turn_of([2, 0])
    (1, 1)
    """
    return int(index[0] if isinstance(index, list | tuple) else index) // 2
