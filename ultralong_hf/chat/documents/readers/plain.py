"""Text, Markdown and source files: as they are."""

from __future__ import annotations

from ultralong_hf.chat.documents.builder import Reading
from ultralong_hf.chat.documents.limits import Limits
from ultralong_hf.chat.documents.text import decode


def read(data: bytes, limits: Limits, *, kind: str = "text") -> Reading:
    """Raises UploadError for binary data."""
    reading = Reading(kind, limits)
    text, warnings = decode(data)
    reading.warnings += warnings
    reading.add(text)
    return reading.finished("the file is empty.")
