"""DOCX by python-docx: paragraphs, headings, lists and tables, in their order."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from ultralong_hf.chat.documents.builder import Reading
from ultralong_hf.chat.documents.limits import Limits
from ultralong_hf.chat.documents.readers.packed import PackedFile, refuse_entities
from ultralong_hf.errors import UploadError

_DEEPEST_TABLE = 20


def read(data: bytes, limits: Limits) -> Reading:
    """Raises UploadError. Footnotes, comments, text boxes, headers and footers are left out."""
    packed = PackedFile(data, limits)
    for entry in packed.entries():
        content = packed.read(entry)  # every part is measured before python-docx unpacks them all
        if entry.filename.lower().endswith((".xml", ".rels", ".vml")):
            refuse_entities(content, "the DOCX")
    import docx

    reading = Reading("DOCX", limits)
    try:
        document = docx.Document(io.BytesIO(data))
        for text in _blocks(document, depth=0):
            reading.add(text)
    except (UploadError, MemoryError):
        raise
    except Exception as error:  # python-docx fails in many ways on what is no DOCX
        raise UploadError("the DOCX is damaged, or not made as DOCX files are.") from error
    if any(name.startswith("word/footnotes") for name in packed.names()):
        reading.warnings.append("footnotes are left out")
    return reading.finished("the DOCX holds no text.")


def _blocks(container: Any, *, depth: int) -> Iterator[str]:
    from docx.table import Table

    for block in container.iter_inner_content():
        if not isinstance(block, Table):
            text = block.text.strip()
            if text:
                yield f"{_prefix(block)}{text}\n\n"
        elif depth < _DEEPEST_TABLE:
            for row in block.rows:
                cells = [" ".join("".join(_blocks(cell, depth=depth + 1)).split()) for cell in row.cells]
                yield " | ".join(cells) + "\n"
            yield "\n"


def _prefix(paragraph: Any) -> str:
    style = (paragraph.style.name or "") if paragraph.style is not None else ""
    if style == "Title":
        return "# "
    if style.startswith("Heading ") and style[8:].isdigit():
        return "#" * min(6, int(style[8:])) + " "
    return "- " if style.startswith("List") else ""
