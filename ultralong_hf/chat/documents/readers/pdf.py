"""PDF, page by page, by pypdf. Scripts, forms and attachments in it are never run or opened."""

from __future__ import annotations

import io
import logging
from typing import Any

from ultralong_hf.chat.documents.builder import Reading
from ultralong_hf.chat.documents.limits import Limits
from ultralong_hf.errors import UploadError

_SHOWN = 8


def read(data: bytes, limits: Limits) -> Reading:
    """Raises UploadError for a PDF that is encrypted, damaged, too long, or holds pictures of text alone."""
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it tells each oddity on stderr
    try:
        pdf = PdfReader(io.BytesIO(data), strict=False)
        if pdf.is_encrypted and not pdf.decrypt(""):
            raise UploadError("the PDF is protected by a password: save it without one.")
        return _read_pages(pdf, limits)
    except (PyPdfError, NotImplementedError, ImportError) as error:
        raise UploadError(f"the PDF cannot be read: {_first_line(error)}") from error


def _read_pages(pdf: Any, limits: Limits) -> Reading:
    reading = Reading("PDF", limits)
    empty, broken = [], []
    for number, page in enumerate(pdf.pages, start=1):
        if number > limits.pages:
            raise UploadError(f"the PDF has more than {limits.pages:,} pages, which is the limit.")
        try:
            text = page.extract_text()
        except (MemoryError, UploadError):
            raise
        except Exception:  # any page may be damaged in any way; the others are still worth reading
            text = ""
            broken.append(number)
        reading.mark(page=number)
        reading.add(text.rstrip() + "\n\n" if text.strip() else "")
        if not text.strip() and number not in broken:
            empty.append(number)
    reading.pages = len(reading.marks)
    if broken:
        reading.warnings.append(f"damaged and left out: {_pages(broken)}")
    if empty:
        reading.warnings.append(f"no text on {_pages(empty)} (pictures?)")
    return reading.finished(
        "the PDF holds no text: its pages are pictures. Run text recognition (OCR) over it first."
    )


def _pages(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:_SHOWN]))
    more = f" and {len(numbers) - _SHOWN:,} more" if len(numbers) > _SHOWN else ""
    return f"page{'s' if len(numbers) > 1 else ''} {shown}{more}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
