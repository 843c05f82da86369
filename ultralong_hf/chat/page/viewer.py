"""A document's text around a place, as HTML with its lines numbered and the passages marked."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ultralong_hf.chat.documents import Document
from ultralong_hf.chat.page import texts
from ultralong_hf.chat.page.escaping import plain

BEFORE, AFTER = 2_500, 5_000
"""Characters around a place that are shown; the ends move to a line's end where one is near."""
LONGEST_LINE = 400
MOST_LINES = 400


@dataclass(frozen=True)
class Spot:
    """Characters [start, end) of a document; chosen: what the viewer is opened at."""

    start: int
    end: int
    chosen: bool = False


def window(document: Document, at: int) -> tuple[int, int]:
    """Characters [start, end) that are shown around `at`."""
    start, end = max(0, at - BEFORE), min(len(document.text), at + AFTER)
    line = document.text.find("\n", start, min(start + LONGEST_LINE, at)) if start else -1
    start = line + 1 if line >= 0 else start
    line = document.text.rfind("\n", max(start + 1, end - LONGEST_LINE), end)
    return start, line + 1 if line >= 0 and end < len(document.text) else end


def document_html(document: Document, at: int, spots: Sequence[Spot] = ()) -> str:
    """The text around the character `at`; empty for an empty document."""
    if not document.text:
        return ""
    at = min(max(at, 0), len(document.text) - 1)
    start, end = window(document, at)
    chosen = next((spot for spot in spots if spot.chosen), None)
    place = document.place(chosen.start, chosen.end) if chosen else document.place(start, end)
    inside = [spot for spot in spots if spot.start < end and spot.end > start]
    lines = "".join(_lines(document, start, end, inside))
    share = f"{(100 * at) // len(document.text)} %"
    return (
        f'<div class="ul-page"><header>{plain(str(place))} <small>{share}</small></header>'
        f'<div class="ul-lines" tabindex="0" role="region" aria-label="{texts.VIEWER}">{lines}</div></div>'
    )


def _lines(document: Document, start: int, end: int, spots: Sequence[Spot]) -> Iterator[str]:
    at, page, file = start, object(), ""
    starts = [mark.start for mark in document.marks]
    place, counted_to = document.place(start, start + 1), start
    line = place.line or 0
    for _ in range(MOST_LINES):
        if at >= end:
            return
        if bisect_right(starts, at) == bisect_right(starts, counted_to):
            line += document.text.count("\n", counted_to, at)
        else:  # another page, file or part begins, and counts its lines anew
            place = document.place(at, at + 1)
            line = place.line or 0
        counted_to = at
        stop = document.text.find("\n", at, min(end, at + LONGEST_LINE))
        stop = min(end, at + LONGEST_LINE) if stop < 0 else stop
        if place.file and place.file != file:
            yield f'<div class="ul-file">{plain(place.file)}</div>'
        if place.page is not None and place.page != page:
            yield f'<div class="ul-file">page {place.page}</div>'
        page, file = place.page, place.file
        number = "" if place.line is None else line
        starts_line = at == 0 or document.text[at - 1] == "\n"
        shown = _marked(document.text, at, stop, spots)
        yield f'<div class="ul-line"><i>{number if starts_line else ""}</i><span>{shown}</span></div>'
        at = stop + 1 if document.text[stop : stop + 1] == "\n" else stop


def _marked(text: str, start: int, end: int, spots: Sequence[Spot]) -> str:
    """A stretch of text with what lies in spots marked; the chosen one where several overlap."""
    edges = {start, end}
    for spot in spots:
        edges |= {min(max(spot.start, start), end), min(max(spot.end, start), end)}
    pieces = []
    ordered = sorted(edges)
    for first, last in itertools.pairwise(ordered):
        over = [spot for spot in spots if spot.start <= first and spot.end >= last]
        shown = plain(text[first:last])
        if over:
            style = ' class="chosen"' if any(spot.chosen for spot in over) else ""
            shown = f"<mark{style}>{shown}</mark>"
        pieces.append(shown)
    return "".join(pieces)
