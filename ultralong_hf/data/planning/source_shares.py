"""Which share of the tokens each source shall have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ultralong_hf.data.mixture import PRESETS, Shares
from ultralong_hf.errors import DocumentError


def resolve_shares(
    shares: Shares, labels: Sequence[str], own_shares: Sequence[float | None], tokens: np.ndarray
) -> np.ndarray:
    """float64, an entry a source, summing to 1: of the mixture's `shares`, else of the sources' own.

    `tokens` [sources] are theirs before the mixture. Sources without a share divide what the others leave in
    proportion to their tokens; where all have one, they are scaled to sum to 1, so that weights or percents
    do as well. Raises DocumentError for shares that no source or several sources could be meant by.
    """
    if shares is not None and any(share is not None for share in own_shares):
        raise DocumentError("shares are given twice, in mixture.shares and at a source: give one of them.")
    targets = own_shares if shares is None else _by_label(shares, labels, tokens)
    given = np.array([0.0 if share is None else share for share in targets])
    is_open = np.array([share is None for share in targets])
    if not np.all(np.isfinite(given) & ((given > 0) | is_open)):
        raise DocumentError(f"the sources' shares are {list(targets)}: each must be above 0.")
    if is_open.any():
        rest = 1 - given.sum()
        if rest <= 0:
            raise DocumentError(
                f"the sources' shares sum to {given.sum():g}, which leaves nothing for "
                f"{', '.join(np.array(labels)[is_open])}. Give every source a share, or shares below 1."
            )
        given[is_open] = rest * _parts(tokens[is_open])
    return given / given.sum() if len(given) else given


def _parts(tokens: np.ndarray) -> np.ndarray:
    return tokens / tokens.sum() if tokens.sum() else np.full(len(tokens), 1 / len(tokens))


def _by_label(shares: str | Mapping[str, float], labels: Sequence[str], tokens: np.ndarray) -> list[float]:
    """The share of each source: that of the name it is called or has in it; several divide it by tokens.

    Case and all but letters and digits do not matter: "Common Crawl" means commoncrawl-*.jsonl.
    """
    named = PRESETS[shares] if isinstance(shares, str) else shares
    meant = [_names_in(label, named) for label in labels]
    faults = [
        f"mixture.shares: source {label} could be {' or '.join(names) or 'none'} of {', '.join(named)}. "
        "Give it a label that tells."
        for label, names in zip(labels, meant, strict=True)
        if len(names) != 1
    ]
    if not isinstance(shares, str):
        used = {name for names in meant for name in names}
        faults += [f"mixture.shares: no source is called {name}." for name in named if name not in used]
    if faults:
        raise DocumentError(*faults)
    result = np.zeros(len(labels))
    for name, share in named.items():
        members = np.array([names == [name] for names in meant], dtype=bool)
        if members.any():
            result[members] = share * _parts(tokens[members])
    return result.tolist()


def _names_in(label: str, names: Iterable[str]) -> list[str]:
    letters = _letters(label)
    return [name for name in names if _letters(name) == letters] or [
        name for name in names if _letters(name) in letters
    ]


def _letters(text: str) -> str:
    return "".join(character for character in text.lower() if character.isalnum())
