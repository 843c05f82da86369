"""A turn of a chat: question, answer, and what is known of how it came about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ultralong_hf.chat.documents import Document
from ultralong_hf.chat.engine import Passage, Reply
from ultralong_hf.chat.evidence import Evidence
from ultralong_hf.chat.prompting import Turn


@dataclass(frozen=True)
class ChatTurn:
    """evidence is None while the answer is being written, or where there are no documents."""

    question: str
    reply: Reply
    evidence: Evidence | None = None

    @property
    def answer(self) -> str:
        return self.reply.text

    @property
    def passages(self) -> tuple[Passage, ...]:
        return self.reply.passages

    @property
    def summary(self) -> str:
        """One line: how much was reused, how long it took, whether it is whole."""
        reply = self.reply
        parts = [reply.reuse]
        if reply.seconds_to_first is not None:
            parts.append(f"first token after {reply.seconds_to_first:.2f} s")
        if reply.finish_reason != "stop":
            parts.append("stopped" if reply.finish_reason == "stopped" else "cut at the answer's limit")
        return "; ".join(parts)

    def to_prompt(self) -> Turn:
        return Turn(self.question, self.answer, self.reply.ids)

    def to_dict(self, documents: Sequence[Document]) -> dict[str, Any]:
        reply = self.reply
        return {
            "question": self.question,
            "answer": reply.text,
            "finish_reason": reply.finish_reason,
            "prompt_tokens": reply.prompt_tokens,
            "reused_tokens": reply.reused_tokens,
            "new_tokens": reply.new_tokens,
            "seconds_to_first": reply.seconds_to_first,
            "seconds": reply.seconds,
            "evidence": self.evidence.to_dict() if self.evidence else None,
            "passages": [
                {
                    "document": documents[passage.document].name,
                    "place": str(documents[passage.document].place(passage.start, passage.end)),
                    "characters": [passage.start, passage.end],
                    "share": round(passage.share, 4),
                    "text": documents[passage.document].text[passage.start : passage.end],
                }
                for passage in reply.passages
            ],
        }
