import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "parallel"))
from launcher import Workers


@pytest.fixture(scope="session")
def workers():
    """`workers.run(size, function, ...)` runs a function on 1 or 2 ranks of a gloo group."""
    workers = Workers()
    yield workers
    workers.stop()
