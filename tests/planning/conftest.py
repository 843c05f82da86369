"""Processes for the launches, as the tests of parallel/ have them."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "parallel"))
from launcher import Workers


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    workers = Workers(timeout=600)
    try:
        yield workers
    finally:
        workers.stop()
