"""Text of documents and models -> what the page may show; an answer's Markdown alone is rendered."""

from __future__ import annotations

import html
import re

# Code is shown as it is; Markdown's own renderer escapes it. An open fence reaches to the end, as there.
_CODE = re.compile(r"(^(?:```|~~~).*?(?:^(?:```|~~~)[ \t]*$|\Z)|`[^`\n]+`)", re.DOTALL | re.MULTILINE)
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|!~$])")


def plain(text: str) -> str:
    """For HTML: all of it is letters."""
    return html.escape(text)


def plain_markdown(text: str) -> str:
    """For Markdown: all of it is letters."""
    return _MARKDOWN.sub(r"\\\1", text)


def answer_markdown(text: str) -> str:
    """An answer's Markdown without HTML, pictures and hidden links, which could fetch or lead elsewhere.

    >>> answer_markdown("**See** ![x](http://a/?q) and [here](http://b) <img src=c> `<d>`")
    '**See** !\\\\[x]\\\\(http://a/?q) and [here]\\\\(http://b) &lt;img src=c> `<d>`'
    """
    parts = _CODE.split(text)
    for index in range(0, len(parts), 2):
        safe = parts[index].replace("&", "&amp;").replace("<", "&lt;")
        safe = safe.replace("![", "!\\[").replace("](", "]\\(").replace("]:", "]\\:").replace("][", "]\\[")
        parts[index] = safe
    return "".join(parts)
