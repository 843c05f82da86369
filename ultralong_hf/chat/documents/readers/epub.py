"""EPUB: the chapters of the book's spine, in order, each read as a page of HTML."""

from __future__ import annotations

import posixpath
from typing import Any
from urllib.parse import unquote

from ultralong_hf.chat.documents.builder import Reading
from ultralong_hf.chat.documents.limits import Limits
from ultralong_hf.chat.documents.readers.html import add_page
from ultralong_hf.chat.documents.readers.packed import PackedFile, refuse_entities
from ultralong_hf.chat.documents.text import clean, decode
from ultralong_hf.errors import UploadError

_PAGES = ("application/xhtml+xml", "text/html")
_LONGEST_TITLE = 80


def read(data: bytes, limits: Limits) -> Reading:
    """Raises UploadError for a book that is encrypted (DRM), damaged, or leads out of its archive."""
    book = PackedFile(data, limits)
    container = _xml(book.read("META-INF/container.xml"))
    package_path = next((root.get("full-path") for root in _all(container, "rootfile")), None)
    if not package_path:
        raise UploadError("the EPUB names no book inside it: it is damaged.")
    chapters = _spine(_xml(book.read(package_path)), package_path)
    if len(chapters) > limits.pages:
        raise UploadError(f"the EPUB has {len(chapters):,} chapters; the limit is {limits.pages:,}.")
    locked = _encrypted_files(book) & set(chapters)
    if locked:
        raise UploadError("the EPUB is locked by its seller (DRM): its text is encrypted.")
    reading = Reading("EPUB", limits)
    names, missing = set(book.names()), 0
    for number, path in enumerate(chapters, start=1):
        if path not in names:
            missing += 1
            continue
        _add_chapter(book, path, number, reading)
    if missing:
        reading.warnings.append(f"{missing:,} chapters are missing in the file")
    return reading.finished("the EPUB holds no text.")


def _add_chapter(book: PackedFile, path: str, number: int, reading: Reading) -> None:
    text, warnings = decode(book.read(path))
    reading.warnings += [warning for warning in warnings if warning not in reading.warnings]
    reading.mark()
    at = len(reading.marks) - 1
    title = clean(add_page(text, reading))[0][:_LONGEST_TITLE]
    reading.add("\n")
    place = reading.marks[at]
    reading.marks[at] = type(place)(place.start, part=f"chapter {number}" + (f" ({title})" if title else ""))


def _spine(package: Any, package_path: str) -> list[str]:
    """Paths of the chapters inside the archive."""
    folder = posixpath.dirname(package_path)
    hrefs = {
        item.get("id"): item.get("href")
        for item in _all(package, "item")
        if item.get("media-type") in _PAGES and item.get("href")
    }
    chapters = []
    for reference in _all(package, "itemref"):
        href = hrefs.get(reference.get("idref"))
        if href:
            path = posixpath.normpath(posixpath.join(folder, unquote(str(href).split("#")[0])))
            if path.startswith(("..", "/")):
                raise UploadError("the EPUB refers to a chapter outside itself: it was not opened.")
            chapters.append(path)
    return chapters


def _encrypted_files(book: PackedFile) -> set[str]:
    """Fonts are often scrambled; that does not matter here."""
    if "META-INF/encryption.xml" not in book.names():
        return set()
    root = _xml(book.read("META-INF/encryption.xml"))
    return {unquote(item.get("URI") or "") for item in _all(root, "CipherReference")}


def _xml(data: bytes) -> Any:
    from defusedxml import ElementTree
    from defusedxml.common import DefusedXmlException

    refuse_entities(data, "the EPUB")
    try:
        return ElementTree.fromstring(data)
    except (ElementTree.ParseError, DefusedXmlException, ValueError, LookupError) as error:
        raise UploadError("the EPUB is damaged: its table of chapters cannot be read.") from error


def _all(root: Any, tag: str) -> list[Any]:
    """Elements of this name in any namespace."""
    return [element for element in root.iter() if str(element.tag).rpartition("}")[2] == tag]
