"""HTML (and SVG) by lxml's parser, which loads nothing: what a reader would see, as text."""

from __future__ import annotations

import re
from typing import Any

from ultralong_hf.chat.documents.builder import Reading
from ultralong_hf.chat.documents.limits import Limits
from ultralong_hf.chat.documents.readers.packed import refuse_entities
from ultralong_hf.chat.documents.text import decode
from ultralong_hf.errors import UploadError

_DROPPED = frozenset(
    """
    script style template noscript iframe object embed applet audio video canvas head link meta base
    input button select textarea
    """.split()
)
_BLOCKS = frozenset(
    """
    address article aside blockquote body br center dd details dialog div dl dt fieldset figcaption
    figure footer form h1 h2 h3 h4 h5 h6 header hr html li main nav ol p pre section summary table tbody
    tfoot thead tr ul text tspan desc title
    """.split()
)
_HEADINGS = {f"h{level}": "#" * level + " " for level in range(1, 7)}
_HIDING = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden|font-size\s*:\s*0(?![.\d])", re.IGNORECASE)
_DECLARED = re.compile(r"<meta[^>]{0,200}charset\s*=\s*[\"']?\s*([\w-]+)", re.IGNORECASE)


def read(data: bytes, limits: Limits) -> Reading:
    """Raises UploadError. Hidden passages are left out with a warning: a person cannot see what they say."""
    reading = Reading("HTML", limits)
    text, warnings = _decode(data)
    reading.warnings += warnings
    add_page(text, reading)
    return reading.finished("the page holds no text (a page that scripts fill is empty without them).")


def add_page(text: str, reading: Reading) -> str:
    """The page's text goes to `reading`; gives its title. Raises UploadError."""
    from lxml import etree
    from lxml import html as lxml_html

    refuse_entities(text.encode("utf-8", "replace"), "the page")
    if not text.strip():
        return ""
    # Without the XML declaration, which lxml refuses in text that is decoded already.
    text = re.sub(r"^\s*<\?xml[^>]*\?>", "", text, count=1)
    parser = lxml_html.HTMLParser(no_network=True, remove_comments=True, remove_pis=True, encoding="utf-8")
    try:
        root = lxml_html.document_fromstring(text.encode("utf-8", "replace"), parser=parser)
    except (etree.LxmlError, ValueError, AssertionError) as error:
        raise UploadError("the HTML cannot be read: it is empty or damaged.") from error
    page = _Page()
    page.walk(root)
    reading.add(page.text())
    if page.hidden:
        reading.warnings.append(f"{page.hidden:,} hidden passages are left out")
    title = root.find(".//head/title")
    return " ".join((title.text or "").split()) if title is not None else ""


class _Page:
    """Walks a page without recursion: a hostile one nests as deep as the parser lets it."""

    def __init__(self) -> None:
        self.hidden = 0
        self._pieces: list[str] = []

    def walk(self, root: Any) -> None:
        todo: list[tuple[Any, bool]] = [(root, True)]
        kept_as_it_is = 0
        while todo:
            element, opens = todo.pop()
            tag = element.tag if isinstance(element.tag, str) else ""
            if not opens:
                kept_as_it_is -= tag == "pre"
                self._end(tag)
            elif not tag or tag in _DROPPED or self._is_hidden(element):
                pass
            else:
                kept_as_it_is += tag == "pre"
                self._begin(tag)
                self._say(element.text, kept_as_it_is > 0)
                todo.append((element, False))
                todo.extend((child, True) for child in reversed(element))
                continue
            if element is not root:
                self._say(element.tail, kept_as_it_is > 0)

    def text(self) -> str:
        text = "".join(self._pieces)
        text = re.sub(r"[ \t]*\n[ \t]*(?=\n)", "\n", text)
        return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"

    def _is_hidden(self, element: Any) -> bool:
        style = element.get("style") or ""
        hidden = element.get("hidden") is not None or bool(_HIDING.search(style[:2_000]))
        if hidden and (element.text_content() or "").strip():
            self.hidden += 1
        return hidden

    def _begin(self, tag: str) -> None:
        if tag in _BLOCKS:
            self._pieces.append("\n")
        if tag in _HEADINGS:
            self._pieces.append(f"\n{_HEADINGS[tag]}")
        elif tag == "li":
            self._pieces.append("- ")

    def _end(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._pieces.append(" | ")
        elif tag in _BLOCKS:
            self._pieces.append("\n\n" if tag == "p" or tag in _HEADINGS else "\n")

    def _say(self, text: str | None, as_it_is: bool) -> None:
        if not text:
            return
        if not as_it_is:
            text = re.sub(r"\s+", " ", text)
            if not self._pieces or self._pieces[-1].endswith((" ", "\n")):
                text = text.lstrip()
        self._pieces.append(text)


def _decode(data: bytes) -> tuple[str, list[str]]:
    """By mark, UTF-8 or guess, as any text; an older page's own declaration before a guess."""
    text, warnings = decode(data)
    declared = _DECLARED.search(text[:4_096])
    if declared and any("guessed" in warning for warning in warnings):
        try:
            return data.decode(declared.group(1), errors="replace"), []
        except LookupError:
            pass
    return text, warnings
