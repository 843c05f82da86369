"""Stretching RoPE to a longer window: `extend_context` does it, `describe_rope` shows it.

The arithmetic is in frequencies.py, what is known of model families in families.py, how other programs read
the config that is written in readers.py. Nothing here imports torch before a model is given.
"""

from ultralong_hf.rope.describe import describe_rope
from ultralong_hf.rope.extend import RopeWarning, extend_context
from ultralong_hf.rope.families import FAMILIES, REFUSED
from ultralong_hf.rope.folder import finish_model_folder
from ultralong_hf.rope.frequencies import METHODS

__all__ = [
    "FAMILIES",
    "METHODS",
    "REFUSED",
    "RopeWarning",
    "describe_rope",
    "extend_context",
    "finish_model_folder",
]
