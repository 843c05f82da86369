"""Uploads, which are hostile, -> documents: text alone, with the place of each passage."""

from ultralong_hf.chat.documents.document import Document, Mark, Place
from ultralong_hf.chat.documents.limits import Limits
from ultralong_hf.chat.documents.reading import Readings, Refusal, read_document, read_documents

__all__ = [
    "Document",
    "Limits",
    "Mark",
    "Place",
    "Readings",
    "Refusal",
    "read_document",
    "read_documents",
]
