from __future__ import annotations

from typing import Any

import pytest
from evaluation_models import make_model, make_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return make_tokenizer()


@pytest.fixture(scope="session")
def letters() -> Any:
    """A tokenizer whose tokens are single letters."""
    return make_tokenizer(260)


@pytest.fixture(scope="session")
def model() -> Any:
    return make_model()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    make_model().save_pretrained(folder)
    make_tokenizer(chat=True).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def documents() -> list[str]:
    """Documents of lines of many lengths, each line different."""
    return [
        "".join(f"{part}.{line}: {'walk the harbour ' * (line % 5)}end\n" for line in range(80))
        for part in range(3)
    ]
