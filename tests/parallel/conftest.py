import pytest
from launcher import Workers


@pytest.fixture(scope="session")
def workers():
    """`workers.run(size, function, ...)` runs a function on 1, 2 or 4 ranks of a gloo group."""
    workers = Workers()
    yield workers
    workers.stop()
