"""Conversations of many sources -> the blend of the SFT stage: tokens, and labels of the assistant's."""

from ultralong_hf.data.instructions.formats import Messages, messages_of
from ultralong_hf.data.instructions.records import read_rows

__all__ = ["Messages", "messages_of", "read_rows"]
