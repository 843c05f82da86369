"""How many samples each source gives: shares of domains, shares of sources, and what there is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xxhash

from ultralong_hf.errors import ConversationError


def check_domains(value: Any) -> dict[str, float]:
    """Shares of domains that sum to 1, from a recipe's mapping. Raises ConversationError."""
    if not isinstance(value, Mapping) or not value:
        raise ConversationError(
            f"instruct.domains is {value!r}: give shares, as in {{general: 0.5, math: 0.5}}."
        )
    for name, share in value.items():
        is_number = isinstance(share, int | float) and not isinstance(share, bool)
        if not is_number or not (0 < share < math.inf):
            raise ConversationError(f"instruct.domains.{name} is {share!r}, not a number above 0.")
    total = sum(value.values())
    return {str(name): share / total for name, share in value.items()}


def allot(total: int, weights: Sequence[float], available: Sequence[int]) -> list[int]:
    """Whole numbers by weight, none above what is available; what one lacks, the others with room give.

    They sum to `total`, or to all that is available.

    >>> allot(10, [1, 1], [3, 100])
    [3, 7]
    """
    given = [0] * len(weights)
    left = min(total, sum(available))
    while left:
        room = [n for n in range(len(given)) if given[n] < available[n] and weights[n] > 0]
        if not room:
            break
        parts = largest_remainders(left, [weights[n] for n in room])
        for n, part in zip(room, parts, strict=True):
            given[n] += min(part, available[n] - given[n])
        left = min(total, sum(available)) - sum(given)
    return given


def largest_remainders(total: int, weights: Sequence[float]) -> list[int]:
    """`total` in whole parts by weight; ties go to the first."""
    exact = [total * weight / math.fsum(weights) for weight in weights]
    parts = [math.floor(value) for value in exact]
    order = sorted(range(len(parts)), key=lambda n: (parts[n] - exact[n], n))
    for n in order[: total - sum(parts)]:
        parts[n] += 1
    return parts


def quotas(
    available: Sequence[int],
    *,
    domains: Sequence[str | None],
    shares: Sequence[float | None],
    samples: int | None,
    domain_shares: Mapping[str, float] | None,
) -> list[int]:
    """Samples of each source, given what is available of it.

    A domain that has too few is not made up for by others. Without `samples`, as many as the shares of the
    domains allow. Raises ConversationError for a domain without sources, and the reverse.
    """
    if domain_shares is None:
        total = sum(available) if samples is None else samples
        return _within("", range(len(available)), total, shares, available)
    members = {name: [n for n, domain in enumerate(domains) if domain == name] for name in domain_shares}
    if homeless := [n for n, domain in enumerate(domains) if domain not in domain_shares]:
        raise ConversationError(
            f"source {homeless[0] + 1} is of the domain {domains[homeless[0]]!r}, of which instruct.domains "
            f"says nothing. It has {', '.join(domain_shares)}."
        )
    if empty := [name for name, sources in members.items() if not sources]:
        raise ConversationError(f"instruct.domains has {empty[0]}, but no source is of that domain.")
    held = {name: sum(available[n] for n in sources) for name, sources in members.items()}
    if samples is None:
        samples = int(min(held[name] / share + 1e-9 for name, share in domain_shares.items()))
    given = [0] * len(available)
    wanted = largest_remainders(samples, list(domain_shares.values()))
    for name, total in zip(domain_shares, wanted, strict=True):
        for n, count in zip(
            members[name], _within(name, members[name], total, shares, available), strict=True
        ):
            given[n] = count
    return given


def _within(
    domain: str, sources: Sequence[int], total: int, shares: Sequence[float | None], available: Sequence[int]
) -> list[int]:
    own = [shares[n] for n in sources]
    if any(share is None for share in own) and any(share is not None for share in own):
        where = f" of the domain {domain}" if domain else ""
        raise ConversationError(
            f"some sources{where} have a share and some have none: give it to all of them."
        )
    has = [available[n] for n in sources]
    weights = [float(share if share is not None else count) for share, count in zip(own, has, strict=True)]
    return allot(total, weights, has)


def ranks(seed: int, label: str, files: np.ndarray, rows: np.ndarray, purpose: str) -> np.ndarray:
    """uint64 [records]: a random order that hangs on nothing but the seed and each record's place."""
    start = xxhash.xxh64(f"{purpose}\0{seed}\0{label}\0".encode())
    values = np.empty(len(rows), np.uint64)
    for n, place in enumerate(zip(files.tolist(), rows.tolist(), strict=True)):
        state = start.copy()
        state.update(f"{place[0]}\0{place[1]}".encode())
        values[n] = state.intdigest()
    return values
