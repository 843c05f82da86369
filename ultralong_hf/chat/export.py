"""Chats as Markdown and JSON: what was asked, what was answered, and what each answer rests on."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from ultralong_hf import __version__
from ultralong_hf.chat.chat import ChatTurn
from ultralong_hf.chat.documents import Document

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|!~])")


def to_dict(turns: Sequence[ChatTurn], documents: Sequence[Document], *, model: str) -> dict[str, Any]:
    return {
        "made_by": f"ultralong-hf {__version__}",
        "exported": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "model": model,
        "documents": [document.to_dict() for document in documents],
        "turns": [turn.to_dict(documents) for turn in turns],
    }


def to_json(turns: Sequence[ChatTurn], documents: Sequence[Document], *, model: str) -> str:
    return json.dumps(to_dict(turns, documents, model=model), ensure_ascii=False, indent=2) + "\n"


def to_markdown(turns: Sequence[ChatTurn], documents: Sequence[Document], *, model: str) -> str:
    """Names, passages and questions are escaped: what a document says is shown, never rendered."""
    lines = [f"# Chat with {_escape(model)}", "", "## Documents", ""]
    for document in documents:
        pages = f", {document.pages:,} pages" if document.pages else ""
        lines.append(
            f"- {_escape(document.name)} ({document.kind}{pages}, {len(document.text):,} characters, "
            f"sha256 {document.digest[:16]})"
        )
        lines += [f"  - {_escape(warning)}" for warning in document.warnings]
    for number, turn in enumerate(turns, start=1):
        lines += [
            "",
            f"## {number}. {_escape(' '.join(turn.question.split()))}",
            "",
            _quoted(turn.answer),
            "",
        ]
        lines += _evidence(turn, documents)
    return "\n".join(lines) + "\n"


def _evidence(turn: ChatTurn, documents: Sequence[Document]) -> list[str]:
    lines = [f"*{_escape(turn.summary)}*"]
    if turn.evidence is not None:
        lines += ["", _escape(turn.evidence.message), ""]
        for claim in turn.evidence.claims:
            where = _escape(str(claim.hits[0].place)) if claim.hits else "not in the documents"
            lines.append(f"- {claim.kind}: {_escape(' '.join(claim.text.split()))} ({where})")
    for passage in turn.passages:
        document = documents[passage.document]
        place = document.place(passage.start, passage.end)
        text = " ".join(document.text[passage.start : passage.end].split())
        lines.append(f"- attention {passage.share:.0%}: {_escape(str(place))}: {_escape(text)}")
    return lines


def _quoted(text: str) -> str:
    return "\n".join(f"> {_escape(line)}".rstrip() for line in text.split("\n"))


def _escape(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text)
