import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "evaluation" / "reporting"))
sys.path.insert(0, str(Path(__file__).parent))

from release_models import make_model


@pytest.fixture
def source(tmp_path):
    """A trained model's folder, as a stage leaves it."""
    return make_model(tmp_path / "work" / "sft")
