"""What stands around a long text: chat template or plain, as token ids, with exactly one BOS at most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ultralong_hf.errors import EvaluationError

PromptStyle = Literal["auto", "chat", "plain"]
PROMPT_STYLES = ("auto", "chat", "plain")
# Stands for the long text while the chat template is rendered; the template must keep it once, as it is.
_TEXT_HERE = "(the long text stands here)"
# Values that templates ask for: Llama-3's would write today's date, Qwen-3's would begin to think.
TEMPLATE_VALUES = {"date_string": "26 Jul 2024", "enable_thinking": False}


@dataclass(frozen=True)
class Frame:
    """Token ids before and after the long text."""

    head: tuple[int, ...]
    tail: tuple[int, ...]
    before: str = ""
    """The user's message before the text, as text."""
    after: str = ""
    answer_prefix: str = ""

    def __len__(self) -> int:
        return len(self.head) + len(self.tail)

    def wrap(self, *text: Sequence[int] | np.ndarray) -> np.ndarray:
        """int32 ids of the whole prompt around the pieces of its text."""
        return np.concatenate([np.asarray(ids, dtype=np.int32) for ids in (self.head, *text, self.tail)])


def resolve_style(tokenizer: Any, style: str) -> Literal["chat", "plain"]:
    """ "auto" is chat where the tokenizer has a chat template, else plain. Raises EvaluationError."""
    if style not in PROMPT_STYLES:
        raise EvaluationError(f"prompt={style!r} is none of {', '.join(PROMPT_STYLES)}.")
    has_template = bool(getattr(tokenizer, "chat_template", None))
    if style == "chat" and not has_template:
        raise EvaluationError("prompt='chat', but this tokenizer has no chat template: use prompt='plain'.")
    return "chat" if has_template and style != "plain" else "plain"


def build_frame(
    tokenizer: Any,
    style: str,
    *,
    before: str,
    after: str,
    answer_prefix: str,
    joints: tuple[str, str] = ("", ""),
) -> Frame:
    """Token ids around the text of a prompt: `before`, (text), `after`, then the start of the answer.

    In a chat prompt `before`, the text and `after` are the user's message, rendered by the tokenizer's own
    template, and `answer_prefix` follows the template (as NVIDIA's RULER has it). A plain prompt begins with
    BOS where the tokenizer adds one by itself; a chat prompt has what its template writes, and no second one.
    `joints` are how the text begins and ends, such as ("A", "\\n"): the ids before and behind it are those
    that they have next to that.
    Raises EvaluationError for a template that drops, repeats or changes the user's message.
    """
    head, tail = _surroundings(tokenizer, style, before, after)
    if style == "plain" and tail and not tail[-1].isspace():
        answer_prefix = " " + answer_prefix
    return Frame(
        (*(leading_bos(tokenizer) if style == "plain" else ()), *_encode_before(tokenizer, head, joints[0])),
        tuple(encode_behind(tokenizer, joints[1], tail + answer_prefix)),
        before,
        after,
        answer_prefix,
    )


def bos_note(tokenizer: Any, ids: Sequence[int] | np.ndarray) -> tuple[str, ...]:
    """A note where the prompt begins with BOS twice: scores were seen to fall by that alone."""
    bos = tokenizer.bos_token_id
    if bos is None or len(ids) < 2 or not ids[0] == ids[1] == bos:
        return ()
    return (f"double BOS: the prompt begins with {tokenizer.bos_token!r} twice",)


def encode_plain(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text that is data: no special tokens are added, and none are read out of it."""
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    return list(ids)


def _surroundings(tokenizer: Any, style: str, before: str, after: str) -> tuple[str, str]:
    if style == "plain":
        return before, after
    rendered = _render_chat(tokenizer, before, after)
    head, mark, tail = rendered.partition(_TEXT_HERE)
    if not mark or _TEXT_HERE in tail:
        raise EvaluationError(
            "The tokenizer's chat template drops, repeats or changes the user's message, "
            "so no text can be placed in it: use prompt='plain'."
        )
    return head, tail


def _render_chat(tokenizer: Any, before: str, after: str) -> str:
    message = {"role": "user", "content": f"{before}{_TEXT_HERE}{after}"}
    return str(
        tokenizer.apply_chat_template(
            [message], tokenize=False, add_generation_prompt=True, **TEMPLATE_VALUES
        )
    )


def leading_bos(tokenizer: Any) -> tuple[int, ...]:
    first = tokenizer("a", verbose=False)["input_ids"][:1]
    bos = tokenizer.bos_token_id
    return (bos,) if bos is not None and first == [bos] else ()


def _encode(tokenizer: Any, text: str) -> list[int]:
    """Template text: its special tokens are meant."""
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) if text else []


def _encode_before(tokenizer: Any, text: str, follows: str) -> list[int]:
    """The text's ids before another one: GPT-2's pattern makes one token of two line ends at a text's end."""
    both = _encode(tokenizer, text + follows)
    last = encode_behind(tokenizer, "\n", follows)
    return both[: -len(last)] if last and both[-len(last) :] == last else _encode(tokenizer, text)


def encode_behind(tokenizer: Any, precedes: str, text: str) -> list[int]:
    """The text's ids behind another one: some tokenizers put a blank before all that they are given."""
    first, both = _encode(tokenizer, precedes), _encode(tokenizer, precedes + text)
    return both[len(first) :] if both[: len(first)] == first else _encode(tokenizer, text)
