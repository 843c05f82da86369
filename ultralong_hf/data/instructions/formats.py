"""A record of any known shape -> messages with the keys role and content.

| format | columns | what becomes the conversation |
|---|---|---|
| messages | `messages` | {"role", "content"} each, as OpenAI has them; content may be a list of text parts |
| sharegpt | `conversations`, `conversation` | {"from", "value"} each |
| alpaca | `instruction`, `input`, `output` or `response` | instruction, blank line, input; the answer |
| prompt_completion | two columns of `PAIRS`, or those named | a text each, or lists of messages |

What a record holds beside them is left alone, but for a system prompt (`system`, `system_prompt`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ultralong_hf.data.reading.records import EMPTY, NO_COLUMN
from ultralong_hf.data.reading.values import BadValueError
from ultralong_hf.errors import ConversationError
from ultralong_hf.recipes.schema import ConversationColumns, ConversationSource, InstructSection

Messages = list[dict[str, str]]

PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
    ("question", "response"),
    ("query", "response"),
    ("query", "answer"),
    ("problem", "solution"),
)
"""Columns of prompt and completion, looked for in this order."""
_SHAREGPT_COLUMNS = ("conversations", "conversation")
_SYSTEM_COLUMNS = ("system", "system_prompt")
_ROLES = ("system", "user", "assistant", "tool")
_OTHER_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "developer": "system",
}
"""Names of ShareGPT's exports and of other servers."""

NO_ANSWER = "no answer"
MALFORMED = "malformed"
"""Beside the words of `reading.records`: what is wrong with a record."""


@dataclass(frozen=True)
class Shape:
    """Where a record's conversation stands."""

    format: str
    messages: str = ""
    prompt: str = ""
    input: str = ""
    completion: str = ""
    system: str = ""

    def __str__(self) -> str:
        """As reports tell it: `alpaca: instruction, input, output`."""
        columns = (self.system, self.messages, self.prompt, self.input, self.completion)
        return f"{self.format}: {', '.join(column for column in columns if column)}"


@dataclass(frozen=True)
class Conversation:
    messages: Messages
    shape: Shape
    repairs: tuple[str, ...] = ()
    """What was left out so that it begins with a prompt and ends with an answer."""


def messages_of(row: Any, section: InstructSection) -> Messages:
    """The conversation of a row, none of it left out. Raises ConversationError."""
    try:
        return _read(row, section, None).messages
    except BadValueError as fault:
        raise ConversationError(fault.detail) from None


def read_conversation(row: Any, section: InstructSection, source: ConversationSource | None) -> Conversation:
    """The conversation of a row, from the first prompt to the last answer. Raises BadValueError.

    Turns before the first prompt (halves of cut conversations, in ShareGPT) and after the last answer teach
    nothing; they are left out and named in `repairs`.
    """
    found = _read(row, section, source)
    messages, repairs = found.messages, []
    body = next((n for n, message in enumerate(messages) if message["role"] != "system"), len(messages))
    start = next((n for n, message in enumerate(messages) if message["role"] == "user"), len(messages))
    if start > body:
        messages = messages[:body] + messages[start:]
        repairs.append("turns before the first prompt left out")
    last = max((n for n, message in enumerate(messages) if message["role"] == "assistant"), default=-1)
    if last < 0:
        raise BadValueError(NO_ANSWER, "no answer of the assistant follows a prompt.")
    if last + 1 < len(messages):
        messages = messages[: last + 1]
        repairs.append("turns after the last answer left out")
    return replace(found, messages=messages, repairs=tuple(repairs))


def _read(row: Any, section: InstructSection, source: ConversationSource | None) -> Conversation:
    if isinstance(row, list):
        row = {section.messages_column: row}
    if not isinstance(row, Mapping):
        raise BadValueError(MALFORMED, f"a conversation is a mapping of columns, not {type(row).__name__}.")
    shape = _shape_of(row, section, source)
    if shape.messages:
        messages = _messages(row[shape.messages], "user")
    else:
        prompt, completion = row[shape.prompt], row[shape.completion]
        extra = row.get(shape.input) if shape.input else None
        if isinstance(prompt, str) and isinstance(extra, str) and extra.strip():
            prompt = f"{prompt}\n\n{extra}"
        messages = _messages(prompt, "user") + _messages(completion, "assistant")
    system = row.get(shape.system) if shape.system else None
    if isinstance(system, str) and system.strip() and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system}, *messages]
    answers = [message["content"] for message in messages if message["role"] == "assistant"]
    if not answers:
        raise BadValueError(NO_ANSWER, "no message is the assistant's, so there is nothing to learn.")
    if not all(map(str.strip, answers)):
        raise BadValueError(NO_ANSWER, "an answer of the assistant is blank.")
    return Conversation(messages, shape)


def _shape_of(row: Mapping[str, Any], section: InstructSection, source: ConversationSource | None) -> Shape:
    columns = (source and source.columns) or ConversationColumns()
    wanted = source.format if source else None
    system = columns.system or next((name for name in _SYSTEM_COLUMNS if row.get(name) is not None), "")
    for shape in _candidates(columns, section):
        if wanted and shape.format != wanted:
            continue
        needed = [column for column in (shape.messages, shape.prompt, shape.completion) if column]
        if all(row.get(column) is not None for column in needed):
            shape = replace(shape, system=system)
            return shape if not shape.input or shape.input in row else replace(shape, input="")
    there = ", ".join(map(repr, row)) or "none"
    what = f"the format {wanted}" if wanted else "any known format"
    raise BadValueError(NO_COLUMN, f"the columns of {what} are not there. Columns there: {there}.")


def _candidates(columns: ConversationColumns, section: InstructSection) -> list[Shape]:
    """The shapes to try, in order; named columns stand before all others."""
    if columns.messages:
        return [Shape(name, messages=columns.messages) for name in ("messages", "sharegpt")]
    if columns.prompt or columns.completion:
        prompt, completion = columns.prompt or "prompt", columns.completion or "completion"
        extra = columns.input or ""
        return [
            Shape(name, prompt=prompt, input=extra, completion=completion)
            for name in ("prompt_completion", "alpaca")
        ]
    named = (section.prompt_column, section.completion_column)
    extra = columns.input or "input"
    return [
        Shape("messages", messages=section.messages_column),
        *(Shape("sharegpt", messages=name) for name in _SHAREGPT_COLUMNS),
        *(Shape("alpaca", prompt="instruction", input=extra, completion=c) for c in ("output", "response")),
        *(Shape("prompt_completion", prompt=p, completion=c) for p, c in dict.fromkeys([named, *PAIRS])),
    ]


def _messages(value: Any, role_of_text: str) -> Messages:
    if isinstance(value, str):
        if not value.strip() and role_of_text == "user":
            raise BadValueError(EMPTY, "the prompt is blank.")
        return [{"role": role_of_text, "content": value}]
    if not isinstance(value, list):
        raise BadValueError(MALFORMED, f"messages are a list that is not empty, not {value!r:.80}.")
    if not value:
        raise BadValueError(EMPTY, "there are no messages.")
    return [_message(number, message) for number, message in enumerate(value, start=1)]


def _message(number: int, message: Any) -> dict[str, str]:
    if not isinstance(message, Mapping):
        raise BadValueError(
            MALFORMED, f"message {number} is {message!r:.80}; expected a mapping with role and content."
        )
    role = message.get("role", message.get("from"))
    content = message.get("content", message.get("value"))
    role = _OTHER_ROLES.get(role, role) if isinstance(role, str) else role
    if role not in _ROLES:
        expected = ", ".join(_ROLES)
        raise BadValueError(
            MALFORMED, f"message {number} has the role {role!r:.80}; expected one of {expected}."
        )
    if isinstance(content, list):
        content = _joined_parts(number, content)
    if not isinstance(content, str):
        raise BadValueError(MALFORMED, f"message {number} has the content {content!r:.80}; expected a text.")
    return {"role": role, "content": content}


def _joined_parts(number: int, parts: list[Any]) -> str:
    """OpenAI's list of parts, where all of them are texts."""
    texts = [part.get("text") if isinstance(part, Mapping) else part for part in parts]
    found = [text for text in texts if isinstance(text, str)]
    if len(found) < len(texts):
        raise BadValueError(MALFORMED, f"message {number} has parts that are no texts.")
    return "".join(found)
