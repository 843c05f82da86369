"""A bar a phase, in tokens, and tokens a second; none where nobody looks at a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm


@contextmanager
def phase(name: str, *, total: int | None = None, done: int = 0) -> Iterator[Callable[[int], object]]:
    """A function that is told of tokens as they are done. `done`: by an earlier run, no part of the speed."""
    with tqdm(
        desc=name, total=total, initial=done, unit="tok", unit_scale=True, disable=None, smoothing=0.1
    ) as bar:
        yield bar.update
