"""Where an answer's tokens looked: attention mass over the documents, one query row per answer token.

The answer's tokens are read once more behind the cached prompt, by an attention that computes each row of
weights anyway and so can add it up. No N x N matrix is made: rows are taken a few at a time.

B batch (1), H query heads, K key heads, R rows (answer tokens of a pass), S cached tokens, D head size.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask

from ultralong_hf.chat.encoding import EncodedPrompt, EncodedText
from ultralong_hf.chat.engine import Passage
from ultralong_hf.chat.kv_pool import Held

NAME = "ultralong_attention_mass"
ROW_BYTES = 128 * 1024**2
MOST_ROWS = 128
"""Answer tokens that are looked at, from the answer's start on."""
WINDOW = 48
"""Tokens of a passage, before it is widened to whole lines."""
LONGEST_PASSAGE = 600
"""Characters."""

_current = threading.local()


class _Mass:
    """Attention of the answer's rows on each token of the prompt, summed over rows and heads, by layer."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.layers: list[torch.Tensor] = []
        self._layer = 0

    def next_pass(self) -> None:
        self._layer = 0

    def add(self, weights: torch.Tensor) -> None:
        """weights: float32 [H, R, S]; a layer that keeps a part of the tokens alone tells nothing."""
        if weights.shape[-1] < self.tokens:
            return
        summed = weights[..., : self.tokens].sum(dim=(0, 1))
        if self._layer < len(self.layers):
            self.layers[self._layer] += summed
        else:
            self.layers.append(summed)
        self._layer += 1


def passages_by_attention(
    model: PreTrainedModel,
    tokenizer: Any,
    held: Held,
    prompt: EncodedPrompt,
    encoded: Sequence[EncodedText],
    answer: Sequence[int],
    *,
    count: int,
) -> tuple[Passage, ...]:
    """The passages of the documents that the answer attended to most, the strongest first.

    Empty where the model's attention cannot be watched (no keys are kept, or an attention of its own).
    """
    mass = attention_mass(model, held, prompt, answer)
    return () if mass is None else strongest_passages(mass, tokenizer, prompt, encoded, count=count)


@torch.inference_mode()
def attention_mass(
    model: PreTrainedModel, held: Held, prompt: EncodedPrompt, answer: Sequence[int]
) -> np.ndarray | None:
    """float64 [tokens of the prompt]: the mean weight over layers, heads and the answer's tokens.

    Row i is the query that chose token i of the answer: it stands one token before it. The cache is left as
    it was after the answer.
    """
    if not held.goes_back():
        return None
    tokens, rows = len(prompt.ids), list(answer[:MOST_ROWS])
    inputs = np.array([prompt.ids[-1], *rows[:-1]], dtype=np.int64)
    heads = model.config.get_text_config().num_attention_heads
    rows_a_pass = max(1, ROW_BYTES // (4 * heads * (tokens + len(inputs))))
    ids = held.ids
    held.rewind(tokens - 1)
    mass = _Mass(tokens)
    try:
        with _watched(model, mass):
            for first in range(0, len(inputs), rows_a_pass):
                mass.next_pass()
                part = torch.from_numpy(inputs[first : first + rows_a_pass])[None].to(model.device)
                model(part, past_key_values=held.cache, use_cache=True, logits_to_keep=1)
    finally:
        _restore(held, ids)
    if not mass.layers:
        return None
    total: torch.Tensor = sum(layer.double().cpu() for layer in mass.layers)  # type: ignore[assignment]
    return (total / (len(mass.layers) * heads * len(inputs))).numpy()


def strongest_passages(
    mass: np.ndarray, tokenizer: Any, prompt: EncodedPrompt, encoded: Sequence[EncodedText], *, count: int
) -> tuple[Passage, ...]:
    """Windows with most mass, none over another; what every position gets (the median) is taken off first."""
    inside = sum(mass[first:last].sum() for _, first, last in prompt.spans)
    if not inside > 0:
        return ()
    found: list[tuple[float, int, int, int]] = []
    for index, first, last in prompt.spans:
        weights = mass[first:last].copy()
        weights[:4] = np.median(weights)  # the first tokens of a text draw attention whatever is asked
        sums = _window_sums(np.maximum(weights - np.median(weights), 0.0))
        for _ in range(count):
            peak = int(sums.argmax())
            if not sums[peak] > 0:
                break
            end = min(peak + WINDOW, last - first)
            found.append((float(mass[first + peak : first + end].sum()), index, peak, end))
            sums[max(0, peak - WINDOW + 1) : end] = 0.0
    found.sort(reverse=True)
    passages = []
    for weight, index, start, end in found[:count]:
        text = encoded[index].text
        begin, stop = _whole_lines(text, *encoded[index].characters(tokenizer, start, end))
        passages.append(Passage(index, begin, stop, float(weight / inside)))
    return tuple(passages)


def _window_sums(weights: np.ndarray) -> np.ndarray:
    """[tokens] sums of the WINDOW tokens from each on."""
    total = np.concatenate([[0.0], np.cumsum(weights)])
    ends = np.minimum(np.arange(len(weights)) + WINDOW, len(weights))
    return total[ends] - total[: len(weights)]


def _whole_lines(text: str, start: int, end: int) -> tuple[int, int]:
    """Widened to the lines' ends, where these are near."""
    spare = max(0, LONGEST_PASSAGE - (end - start)) // 2
    line = text.rfind("\n", max(0, start - spare), start) + 1
    begin = line if line > 0 or start <= spare else start
    stop = text.find("\n", end, end + spare)
    stop = stop if stop >= 0 else (len(text) if len(text) - end <= spare else end)
    while begin < stop - 1 and text[begin].isspace():
        begin += 1
    while stop - 1 > begin and text[stop - 1].isspace():
        stop -= 1
    return begin, stop


def _restore(held: Held, ids: np.ndarray) -> None:
    held.ids = ids
    held.rewind(len(ids))


@contextmanager
def _watched(model: PreTrainedModel, mass: _Mass) -> Iterator[None]:
    AttentionInterface.register(NAME, _watching_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    config = model.config.get_text_config()
    before = config._attn_implementation
    _current.mass = mass
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
        del _current.mass


def _watching_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of [1, H, R, D] queries on [1, K, S, D] keys as eager attention computes it, watched."""
    heads, rows, size = query.shape[1:]
    key_heads, keys = key.shape[1:3]
    grouped = query[0].reshape(key_heads, heads // key_heads * rows, size)
    scores = (grouped @ key[0].transpose(-1, -2)).float().reshape(heads, rows, keys)
    scores *= size**-0.5 if scaling is None else scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if attention_mask is None:
        own = torch.arange(keys - rows, keys, device=scores.device)
        seen = torch.arange(keys, device=scores.device) <= own[:, None]
        scores = scores.masked_fill(~seen, float("-inf"))
    elif attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask[0, :, -rows:, :keys], float("-inf"))
    else:
        scores = scores + attention_mask[0, :, -rows:, :keys].float()
    weights = scores.softmax(dim=-1)
    _current.mass.add(weights)
    mixed = weights.to(value.dtype).reshape(key_heads, heads // key_heads * rows, keys) @ value[0]
    return mixed.reshape(1, heads, rows, -1).transpose(1, 2).contiguous(), None
