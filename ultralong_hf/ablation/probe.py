"""What an arm of the lab can do: recall among many keys, and loss by position, in seconds.

Letters: `P` tokens of a text, `Q` tokens of all questions on it, `V` vocabulary.

Every text holds many facts of like wording, and each is asked for: for one question the others are
distractors, and one reading of the text serves them all.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from ultralong_hf.evaluation.engines.kv_cache import roomy_cache
from ultralong_hf.evaluation.haystack import Break, Haystack
from ultralong_hf.evaluation.needle import Needle
from ultralong_hf.evaluation.prompts import encode_plain
from ultralong_hf.lab.facts import draw_facts


@dataclass(frozen=True)
class Question:
    """Token ids of a question up to its answer, the answer's own, and where its fact stands."""

    asked: tuple[int, ...]
    answer: tuple[int, ...]
    depth: float


@dataclass(frozen=True)
class Text:
    """A text with facts, as token ids, and the questions on it."""

    ids: list[int]
    questions: tuple[Question, ...]


def build_text(tokenizer: Any, haystack: Haystack, *, length: int, facts: int, rng: random.Random) -> Text:
    """A text that is `length` tokens long together with its longest question; facts at even depths.

    Facts stand at line or sentence starts, each within its own 1/facts of the text.
    """
    drawn = draw_facts(rng, facts)
    needles = [Needle(f.statement, f.question, f.answer_prefix, f.value) for f in drawn]
    asked = [_encode_question(tokenizer, needle) for needle in needles]
    forms = [{kind: encode_plain(tokenizer, needle.at(kind)) for kind in Break} for needle in needles]
    room = length - max(len(question) + len(answer) for question, answer in asked)
    filler = room - sum(max(map(len, form.values())) for form in forms)
    end = int(haystack.breaks[rng.randrange(len(haystack.breaks))])
    ids: list[int] = []
    questions = []
    read = end - filler  # where the text goes on in the haystack
    for number, (form, (question, answer)) in enumerate(zip(forms, asked, strict=True)):
        wanted = end - filler + round((number + rng.random()) * filler / facts)
        at, kind = haystack.nearest_break(wanted)
        at = min(max(at, read), end)
        ids += haystack.window(at, at - read).tolist()
        questions.append(Question(question, answer, 100 * len(ids) / room))
        ids += form[kind]
        read = at
    ids += haystack.window(end, end - read).tolist()
    return Text(ids, tuple(questions))


@torch.inference_mode()
def answered(model: PreTrainedModel, text: Text) -> list[bool]:
    """Whether each question is answered: every token of the value is the model's first choice.

    So greedy decoding would begin with the value. The text is read once. The questions follow in one pass in
    which none sees another and each takes the positions right after the text: the answers are those of one
    prompt a question.
    """
    device = model.device
    cache = roomy_cache(model, len(text.ids) + sum(len(q.asked) + len(q.answer) for q in text.questions))
    model(torch.tensor([text.ids], device=device), past_key_values=cache, use_cache=True, logits_to_keep=1)
    spans = [[*question.asked, *question.answer[:-1]] for question in text.questions]
    ids = torch.tensor([token for span in spans for token in span], device=device)
    owner = torch.tensor([n for n, span in enumerate(spans) for _ in span], device=device)
    place = torch.tensor([i for span in spans for i in range(len(span))], device=device)
    own = (owner[:, None] == owner) & (place[:, None] >= place)  # [Q, Q]
    mask = torch.cat([own.new_ones(len(ids), len(text.ids)), own], dim=1)  # [Q, P + Q]
    logits = model(
        ids[None],
        attention_mask=mask[None, None],
        position_ids=(len(text.ids) + place)[None],
        past_key_values=cache,
        use_cache=True,
    ).logits[0]  # [Q, V]
    chosen = logits.argmax(dim=-1).tolist()
    hits, end = [], 0
    for question, span in zip(text.questions, spans, strict=True):
        end += len(span)
        hits.append(chosen[end - len(question.answer) : end] == list(question.answer))
    return hits


def recall_by_text(
    model: PreTrainedModel,
    tokenizer: Any,
    haystack: Haystack,
    *,
    length: int,
    texts: int,
    facts: int,
    seed: int,
) -> list[dict[str, Any]]:
    """[{"length", "text", "hits", "asked"}], a text each; the texts hang on (seed, length) alone."""
    found = []
    for number in range(texts):
        rng = random.Random(f"ablation probe {seed}/{length}/{number}")
        hits = answered(model, build_text(tokenizer, haystack, length=length, facts=facts, rng=rng))
        found.append({"length": length, "text": number, "hits": sum(hits), "asked": len(hits)})
    return found


def _encode_question(tokenizer: Any, needle: Needle) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids of the question with the start of its answer, and of the value; split where the text splits."""
    before = encode_plain(tokenizer, f"\n{needle.question} {needle.answer_prefix}")
    whole = encode_plain(tokenizer, f"\n{needle.question} {needle.answer_prefix} {needle.expected}")
    return tuple(before), tuple(_after(whole, before))


def _after(whole: Sequence[int], before: Sequence[int]) -> Sequence[int]:
    assert list(whole[: len(before)]) == list(before), "the tokenizer joins the value to what precedes it"
    return whole[len(before) :]
