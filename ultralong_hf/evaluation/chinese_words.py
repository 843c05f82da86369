"""Chinese words by jieba, whose dictionary ships in its package."""

from __future__ import annotations

import functools
import logging
import tempfile
import warnings
from typing import Any

from ultralong_hf.errors import MachineError


def cut_words(text: str) -> list[str]:
    """The text's words, blanks and punctuation among them, by jieba's precise mode.

    Raises MachineError where jieba is missing. The first call reads the dictionary, about a second.
    """
    return list(_segmenter().cut(text, cut_all=False))


@functools.cache
def _segmenter() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its source has invalid escapes, and imports pkg_resources
            import jieba
    except ImportError as error:
        raise MachineError(
            f"Chinese answers are scored with the library jieba ({error}). "
            "Install it: pip install 'ultralong-hf[eval]'."
        ) from error
    jieba.setLogLevel(logging.WARNING)
    segmenter = jieba.Tokenizer()
    # By itself it would read, and trust, a cache in the machine's shared temporary folder.
    with tempfile.TemporaryDirectory(prefix="ultralong-jieba-") as private:
        segmenter.tmp_dir = private
        segmenter.initialize()
    return segmenter
