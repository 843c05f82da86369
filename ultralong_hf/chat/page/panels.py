"""Meter, cache, progress and remarks as HTML. Pure: values in, text out."""

from __future__ import annotations

from collections.abc import Sequence

from ultralong_hf.chat.documents import Document
from ultralong_hf.chat.engine import CacheUse, Prefill
from ultralong_hf.chat.meter import Meter
from ultralong_hf.chat.page import texts
from ultralong_hf.chat.page.escaping import plain

COLOURS = 6
"""How many the style sheet has for documents: the classes part-0 to part-5."""


def status(text: str) -> str:
    return f'<p class="ul-status" role="status">{plain(text)}</p>' if text else ""


def problem(text: str) -> str:
    return f'<p class="ul-problem" role="alert">{plain(text)}</p>'


def remarks(lines: Sequence[str]) -> str:
    return "".join(problem(line) for line in lines)


def progress(event: Prefill) -> str:
    text = texts.reading(event.read, event.total, event.reused, event.seconds_left)
    if event.total is None:
        return f"{status(text)}<progress></progress>"
    return f'{status(text)}<progress max="{event.total}" value="{event.read}"></progress>'


def meter(found: Meter, documents: Sequence[Document]) -> str:
    """The window as a bar, each document in its colour; the numbers below it."""
    full = max(found.window or found.total, found.total, 1)
    about = "" if found.exact else "≈ "
    parts = [
        *((name, tokens, f"part-{index % COLOURS}") for index, (name, tokens) in enumerate(found.documents)),
        (texts.AROUND, found.around, "part-around"),
        (texts.ANSWER_ROOM, found.answer, "part-answer"),
    ]
    bar = "".join(
        f'<span class="{style}" style="width:{100 * tokens / full:.2f}%" '
        f'title="{plain(name)}: {tokens:,}"></span>'
        for name, tokens, style in parts
    )
    window = "" if found.window is None else f" / {found.window:,}"
    kinds = {document.name: document for document in documents}
    rows = "".join(_row(name, tokens, style, kinds.get(name), about) for name, tokens, style in parts)
    over = " over" if not found.fits else ""
    return (
        f'<div class="ul-meter{over}"><p><b>{texts.METER}</b> '
        f'<span id="ul-total">{about}{found.total:,}</span>'
        f'{window}</p><div class="ul-bar" role="img" aria-label="{found.total:,}{window} tokens">{bar}'
        f"{_recall_mark(found, full)}</div><table>{rows}</table>{remarks(found.messages)}</div>"
    )


def cache(use: CacheUse | None) -> str:
    if use is None:
        return f"<p>{texts.CACHE_OF_SERVER}</p>"
    lines = [texts.cache_used(size(use.used_bytes), size(use.budget_bytes))]
    for entry in use.entries:
        lines.append(texts.cache_own(entry.tokens, size(entry.bytes)))
        lines += [f"– {name}: {tokens:,} tokens, {size(held)}" for name, tokens, held in entry.documents]
    if not use.entries:
        lines.append(texts.CACHE_EMPTY)
    return "".join(f"<p>{plain(line)}</p>" for line in lines)


def size(count: int) -> str:
    """
    >>> size(1536), size(5 * 1024**3)
    ('1.5 KiB', '5.0 GiB')
    """
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def _row(name: str, tokens: int, style: str, document: Document | None, about: str) -> str:
    kind, notes = "", ""
    if document is not None:
        pages = f", {document.pages:,} p." if document.pages else ""
        kind = f" <small>{plain(document.kind)}{pages}</small>"
        if document.warnings:
            listed = "".join(f"<li>{plain(warning)}</li>" for warning in document.warnings)
            notes = f"<details><summary>{texts.REMARKS}</summary><ul>{listed}</ul></details>"
    return (
        f'<tr><td><i class="{style}"></i></td><td>{plain(name)}{kind}{notes}</td>'
        f"<td>{about if document else ''}{tokens:,}</td></tr>"
    )


def _recall_mark(found: Meter, full: int) -> str:
    limit = found.recall.holds_to if found.recall else None
    if not limit or limit > full:
        return ""
    return (
        f'<em style="left:{min(100 * limit / full, 99.5):.2f}%" title="{texts.RECALL_MARK}: {limit:,}"></em>'
    )
