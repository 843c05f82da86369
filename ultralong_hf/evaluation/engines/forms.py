"""How a prompt is put to an OpenAI-compatible server: as token ids, as text, or as a chat message."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ultralong_hf.evaluation.engines.base import Answer
from ultralong_hf.evaluation.tasks import Sample

Form = Literal["token ids", "text", "chat messages"]
PATHS: dict[Form, str] = {
    "token ids": "/completions",
    "text": "/completions",
    "chat messages": "/chat/completions",
}


@dataclass(frozen=True)
class Request:
    body: dict[str, Any]
    notes: tuple[str, ...] = ()


def make_request(sample: Sample, form: Form, tokenizer: Any, model: str) -> Request | None:
    """The body of a greedy request; None where the sample has no such form (a chat message without frame)."""
    body = {"model": model, "max_tokens": sample.max_new_tokens, "temperature": 0.0, "stream": False}
    ids = np.asarray(sample.ids)
    if form == "token ids":
        return Request(body | {"prompt": ids.tolist()})
    if form == "text":
        text, note = text_of(ids, tokenizer)
        return Request(body | {"prompt": text}, note)
    if sample.frame is None:
        return None
    frame = sample.frame
    inner = tokenizer.decode(ids[len(frame.head) : len(ids) - len(frame.tail)], skip_special_tokens=False)
    message = {"role": "user", "content": f"{frame.before}{inner}{frame.after}"}
    notes = ("answer prefix left out: the server takes chat messages only",) if frame.answer_prefix else ()
    return Request(body | {"messages": [message]}, notes)


def text_of(ids: np.ndarray, tokenizer: Any) -> tuple[str, tuple[str, ...]]:
    """(text that a server's tokenizer turns into these ids, a note where it does not).

    Servers tokenize a text as the tokenizer does by itself: where that adds BOS, the text has none.
    """
    adds_bos = tokenizer("a", verbose=False)["input_ids"][:1] == [tokenizer.bos_token_id]
    own = ids[1:] if adds_bos and len(ids) and ids[0] == tokenizer.bos_token_id else ids
    text = str(tokenizer.decode(own, skip_special_tokens=False))
    again = np.asarray(tokenizer(text, verbose=False)["input_ids"])
    if np.array_equal(again, ids):
        return text, ()
    return text, (
        f"retokenized: as text, the prompt becomes {len(again):,} tokens other than its {len(ids):,}",
    )


def read_answer(content: Mapping[str, Any], form: Form, budget: int, tokenizer: Any) -> Answer:
    """The answer in a completion's JSON; whatever is not one is a failure."""
    try:
        choice = content["choices"][0]
        text = choice["message"]["content"] if form == "chat messages" else choice["text"]
    except (KeyError, IndexError, TypeError):
        return Answer(failure="the reply holds no answer: it is no completion")
    reason = choice.get("finish_reason")
    if reason not in (None, "stop", "length", "eos_token", "stop_sequence", "eos"):
        return Answer(failure=f"the server ended the answer itself: {reason}")
    if text is None:
        return Answer(failure="the reply holds no text")
    if not isinstance(text, str):
        return Answer(failure="the reply holds no answer: it is no completion")
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    used = (content.get("usage") or {}).get("completion_tokens")
    if len(ids) > 2 * budget or (isinstance(used, int) and used > budget):
        shortened = tokenizer.decode(ids[:budget], skip_special_tokens=True)
        return Answer(shortened, notes=(f"answer cut: the server gave more than {budget} tokens",))
    return Answer(text)
