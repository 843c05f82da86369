"""Conversations -> token ids by the tokenizer's chat template, and labels of the assistant's tokens alone.

Which tokens are the assistant's is told by the template's `{% generation %}` marks. A template without them
that TRL knows is replaced by TRL's training form of it; of any other, the assistant's part is what its
messages add to the text, if it writes earlier turns the same whatever follows. Else it is refused, once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ultralong_hf.data.instructions.formats import Messages
from ultralong_hf.errors import ConversationError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""The label of a token that does not count in the loss."""

Spans = list[tuple[int, int]]
"""Beginnings and ends of the assistant's parts, in characters."""

_PROBE: Messages = [
    {"role": "user", "content": "What is two and two?"},
    {"role": "assistant", "content": "Four."},
    {"role": "user", "content": "And three more?"},
    {"role": "assistant", "content": "Seven."},
]
_MARKS = (
    "Put the marks {% generation %} and {% endgeneration %} around what the assistant says, its end-of-turn "
    "token included, and give the template as instruct.chat_template: FILE."
)


class Rendered(NamedTuple):
    """A conversation as the model sees it."""

    text: str
    spans: Spans


class ChatEncoder:
    """A tokenizer with a chat template that tells the assistant's part.

    `template`: a file in place of the tokenizer's own. Raises ConversationError for none, and for one that
    does not tell the assistant's part. `notices` holds what a user should know of the template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str | None = None) -> None:
        self.tokenizer = with_template(tokenizer, template)
        self.marked = marked_template(self.tokenizer)
        self.notices = _notices(self.tokenizer, self.marked)
        if self.marked is None:
            _check_unmarked(self)

    @property
    def template_sha256(self) -> str:
        text = self.marked or str(self.tokenizer.get_chat_template())
        return hashlib.sha256(text.encode()).hexdigest()

    def render(self, messages: Messages) -> Rendered:
        """The text, and where in it the assistant speaks. Raises ConversationError."""
        from jinja2 import TemplateError

        try:
            found = (
                _marked_spans(messages, self.tokenizer, self.marked)
                if self.marked
                else _added_spans(messages, self.tokenizer)
            )
        except TemplateError as error:
            reason = str(error).strip().split("\n")[0]
            raise ConversationError(f"the chat template refuses it: {reason}.") from None
        if not any(end > start for start, end in found.spans):
            raise ConversationError("no token is the assistant's, so there is nothing to learn.")
        return found

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, on all cores."""
        if not texts:
            return []
        encoded: Any = self.tokenizer(
            list(texts),
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        return list(map(len, encoded["input_ids"]))

    def encode(self, rendered: Rendered) -> tuple[list[int], list[int]]:
        """Ids of the whole conversation, and labels: the id where the assistant speaks, -100 elsewhere."""
        text, spans = rendered
        encoded: Any = self.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        labels = [
            token if any(start < last and end > first for first, last in spans) else IGNORED
            for token, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        ]
        if all(label == IGNORED for label in labels):
            raise ConversationError("no token is the assistant's, so there is nothing to learn.")
        return encoded["input_ids"], labels


def with_template(tokenizer: PreTrainedTokenizerBase, file: str | None) -> PreTrainedTokenizerBase:
    """`tokenizer`, its chat template set to the text of `file` if there is one."""
    if file is None:
        return tokenizer
    try:
        tokenizer.chat_template = Path(file).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConversationError(f"instruct.chat_template: {file} cannot be read: {error}.") from error
    return tokenizer


def marked_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The tokenizer's chat template, or TRL's training form of it, if it marks the assistant's part.

    None where neither has `{% generation %}` marks. Raises ConversationError where there is no template.
    """
    from trl.chat_template_utils import get_training_chat_template, has_generation_markers

    if tokenizer.chat_template is None:
        raise ConversationError(
            f"The tokenizer of {_name(tokenizer)} has no chat template. Use an instruct model's tokenizer, "
            "or give a template as instruct.chat_template: FILE."
        )
    template = tokenizer.get_chat_template()
    if has_generation_markers(template):
        return template
    try:
        return get_training_chat_template(tokenizer)
    except ValueError:
        return None


def _name(tokenizer: PreTrainedTokenizerBase) -> str:
    return tokenizer.name_or_path or "this model"


def _notices(tokenizer: PreTrainedTokenizerBase, marked: str | None) -> list[str]:
    from jinja2 import TemplateError
    from trl.chat_template_utils import is_chat_template_stop_token_trained

    notices = []
    template = str(tokenizer.get_chat_template())
    if marked is not None and marked != template:
        notices.append("the chat template has no {% generation %} marks; TRL's training form of it is used")
    if marked is None:
        notices.append(
            "the chat template has no {% generation %} marks and is none that TRL knows: the assistant's "
            "part is what its messages add to the text"
        )
    if "strftime_now" in template:
        notices.append("the chat template writes today's date: samples made on another day differ in it")
    try:
        ends = marked is None or is_chat_template_stop_token_trained(tokenizer, chat_template=marked)
    except (ValueError, TypeError, TemplateError):  # a template that refuses TRL's own probe
        ends = True
    if not ends:
        notices.append(
            "the template's marks leave out the assistant's end-of-turn token, so the model may not learn to "
            "stop"
        )
    return notices


def _check_unmarked(encoder: ChatEncoder) -> None:
    """Raises ConversationError where the template rewrites earlier turns, or refuses plain ones."""
    try:
        encoder.render(_PROBE)
    except ConversationError as error:
        raise ConversationError(
            f"The chat template of {_name(encoder.tokenizer)} does not tell which part is the assistant's: "
            f"it has no {{% generation %}} marks, TRL knows no training form of it, and {error} {_MARKS}"
        ) from None


def _marked_spans(messages: Messages, tokenizer: PreTrainedTokenizerBase, template: str) -> Rendered:
    """The text, and what stands between `{% generation %}` marks.

    transformers' own `return_assistant_tokens_mask` looks for the token of a part's last character; a
    tokenizer that drops blanks has none for a blank, and the mask then runs on to the end (5.23, measured).
    """
    from transformers.utils.chat_template_utils import render_jinja_template

    special_tokens: dict[str, Any] = {**tokenizer.special_tokens_map}
    rendered: Any = render_jinja_template(
        [messages], chat_template=template, return_assistant_tokens_mask=True, **special_tokens
    )
    texts, spans = rendered
    return Rendered(texts[0], spans[0])


def _added_spans(messages: Messages, tokenizer: PreTrainedTokenizerBase) -> Rendered:
    """The text, and what each message of the assistant adds to it after the prompt for a reply."""

    def render(end: int, *, reply: bool = False) -> str:
        text = str(tokenizer.apply_chat_template(messages[:end], tokenize=False, add_generation_prompt=reply))
        if not whole.startswith(text):
            raise ConversationError("it writes the beginning of a conversation otherwise than in the whole.")
        return text

    whole = str(tokenizer.apply_chat_template(messages, tokenize=False))
    if messages[0]["role"] == "assistant":
        raise ConversationError("the first message is the assistant's, and replies to nothing.")
    return Rendered(
        whole,
        [
            (len(render(number, reply=True)), len(render(number + 1)))
            for number, message in enumerate(messages)
            if message["role"] == "assistant"
        ],
    )
