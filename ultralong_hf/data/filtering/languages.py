"""The language of a text by py3langid, whose model ships in its wheel: nothing is downloaded."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ultralong_hf.errors import MachineError

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

EXCERPTS, EXCERPT_CHARACTERS = 4, 256
"""Of a long text only so many places are read, spread over it: py3langid takes 0.25 ms for 1,000 bytes."""


def language_labels() -> list[str]:
    """ISO 639 codes of the languages that are told apart, in the order of their numbers."""
    return list(_identifier().labels)


def detect_languages(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Number of the likeliest language, as in `language_labels`, uint8 [texts], and its probability, float32.

    Raises MachineError where py3langid is missing.
    """
    identifier = _identifier()
    numbers = {label: number for number, label in enumerate(language_labels())}
    found = [identifier.classify(excerpt(text)) for text in texts]
    languages = np.array([numbers[label] for label, _ in found], np.uint8)
    return languages, np.array([probability for _, probability in found], np.float32)


def excerpt(text: str) -> str:
    """The text itself if it is short, else four pieces of 256 characters, evenly spread."""
    if len(text) <= EXCERPTS * EXCERPT_CHARACTERS:
        return text
    step = (len(text) - EXCERPT_CHARACTERS) // (EXCERPTS - 1)
    return "\n".join(text[n * step : n * step + EXCERPT_CHARACTERS] for n in range(EXCERPTS))


@functools.cache
def _identifier() -> LanguageIdentifier:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise MachineError(
            f"languages needs the library py3langid ({error}). "
            "Install it: pip install 'ultralong-hf[filters]'."
        ) from error
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
