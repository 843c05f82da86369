"""Preference data -> pairs: a prompt, the better answer to it and the worse one.

A row holds a prompt and two answers, each a text or a list of messages, or two whole conversations that begin
alike. What they begin with is the prompt then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ultralong_hf.data.instructions import Messages, messages_of
from ultralong_hf.errors import ConversationError
from ultralong_hf.recipes.schema import InstructSection, PreferenceDataSection

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

_FAULTS_TOLD = 10
_MESSAGES = InstructSection()


def read_pairs(
    section: PreferenceDataSection, rows: Iterable[tuple[str, Any]], tokenizer: PreTrainedTokenizerBase
) -> Dataset:
    """The pairs of `rows` (name of the place, row), with the columns that TRL's DPOTrainer reads.

    Texts become the user's and the assistant's messages, as in the SFT stage; for a tokenizer without a chat
    template they stay texts. Raises ConversationError with the place of the first malformed ones.
    """
    from datasets import Dataset

    pairs: list[dict[str, Any]] = []
    faults: list[str] = []
    for place, row in rows:
        try:
            pairs.append(_pair_of(row, section, has_template=tokenizer.chat_template is not None))
        except ConversationError as error:
            faults.append(f"{place}: {error}")
            if len(faults) == _FAULTS_TOLD:
                break
    if faults:
        raise ConversationError(*faults)
    if not pairs:
        raise ConversationError("preference_data.sources holds no pair of answers.")
    return Dataset.from_list(pairs)


def _pair_of(row: Any, section: PreferenceDataSection, *, has_template: bool) -> dict[str, Any]:
    if not isinstance(row, Mapping):
        raise ConversationError(f"a pair is a mapping of columns, not {type(row).__name__}.")
    prompt, *answers = (
        row.get(name) for name in (section.prompt_column, section.chosen_column, section.rejected_column)
    )
    missing = [
        name
        for name, answer in zip((section.chosen_column, section.rejected_column), answers, strict=True)
        if answer is None
    ]
    if missing:
        columns = ", ".join(map(repr, row)) or "none"
        raise ConversationError(f"there is no {missing[0]!r}; the columns are {columns}.")
    if answers[0] == answers[1]:
        raise ConversationError("the better answer and the worse one are the same.")
    if not has_template:
        return _texts(prompt, answers)
    from trl.data_utils import extract_prompt

    better, worse = (_conversation(prompt, answer, section) for answer in answers)
    pair = extract_prompt({"chosen": better, "rejected": worse})
    if not pair["prompt"]:
        raise ConversationError("the two conversations do not begin alike, so that there is no prompt.")
    return pair


def _texts(prompt: Any, answers: list[Any]) -> dict[str, Any]:
    if not all(isinstance(text, str) for text in (prompt, *answers)):
        raise ConversationError(
            "the tokenizer has no chat template, and this is no prompt with two answers, each a text."
        )
    return {"prompt": prompt, "chosen": answers[0], "rejected": answers[1]}


def _conversation(prompt: Any, answer: Any, section: PreferenceDataSection) -> Messages:
    """Prompt and answer as messages. An answer that begins otherwise than by the assistant is the whole."""
    if isinstance(answer, list) and messages_of({"messages": answer}, _MESSAGES)[0]["role"] != "assistant":
        return messages_of({"messages": answer}, _MESSAGES)
    if prompt is None:
        raise ConversationError(
            f"there is no {section.prompt_column!r}, and the answers are no whole conversations."
        )
    return messages_of({"prompt": prompt, "completion": answer}, _MESSAGES)
