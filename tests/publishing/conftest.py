import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "evaluation" / "reporting")]

from release_models import make_model


@pytest.fixture
def source(tmp_path):
    """A trained model's folder, as a stage leaves it."""
    return make_model(tmp_path / "work" / "sft")
