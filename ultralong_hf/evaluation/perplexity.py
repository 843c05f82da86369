"""Loss by position: how well each token is predicted, by how far into the row it stands."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.buckets import bucket_edges, mean_by_bucket
from ultralong_hf.evaluation.engines.attention import without_masks
from ultralong_hf.evaluation.engines.kv_cache import roomy_cache
from ultralong_hf.evaluation.engines.memory import prefill_chunk
from ultralong_hf.evaluation.prompts import encode_plain
from ultralong_hf.evaluation.tasks import TaskContext

if TYPE_CHECKING:
    from ultralong_hf.evaluation.engines import Engine

SELECTORS: tuple[str, ...] = ()
DEFAULT_ROWS = 20

# Logits of one chunk in float32: 1,046 tokens with Llama-3's vocabulary of 128,256.
LOGIT_BYTES = 512 * 1024**2

Row: TypeAlias = Sequence[int] | np.ndarray | torch.Tensor


def loss_by_position(
    model: PreTrainedModel,
    rows: Iterable[Row],
    *,
    buckets: Sequence[int] | None = None,
    chunk: int | None = None,
) -> list[dict[str, Any]]:
    """Perplexity of the rows' tokens by position bucket, each row read once with all that stands before.

    rows: token ids, one row each, at least 2 long. `buckets`: ascending edges (default: `bucket_edges` of the
    longest row). Rows are read through the KV cache in chunks (default: by LOGIT_BYTES), so that logits are
    [chunk, vocabulary] at most. Returns [{"from", "to" (exclusive), "value": perplexity, "loss": mean nats,
    "tokens"}], a bucket that has tokens; a token's position is its own place in its row, counted from 0 (the
    first has no loss).
    """
    was_training = model.training
    model.eval()
    try:
        with without_masks(model):
            losses = [_row_losses(model, row, chunk) for row in rows]
    finally:
        model.train(was_training)
    if not losses:
        raise EvaluationError("There is no row to measure: give at least one row of 2 tokens or more.")
    edges = buckets if buckets is not None else bucket_edges(max(map(len, losses)) + 1)
    positions = [np.arange(1, len(row) + 1) for row in losses]
    means = mean_by_bucket(np.concatenate(losses), np.concatenate(positions), edges)
    return [{**bucket, "value": math.exp(bucket["loss"])} for bucket in means]


@dataclass(frozen=True)
class Perplexity:
    """The task "perplexity": loss by position on rows of the longest length."""

    context: TaskContext
    name: str = "perplexity"

    def settings(self) -> Mapping[str, Any]:
        return {}

    def measure(self, engine: Engine, folder: Path | None) -> Mapping[str, Any]:
        model = getattr(engine, "model", None)
        if model is None:
            raise EvaluationError("The task 'perplexity' needs the weights: use engine='transformers'.")
        context = self.context
        rows = rows_from_documents(
            context.documents(),
            context.tokenizer,
            length=max(context.lengths),
            rows=DEFAULT_ROWS if context.samples is None else context.samples,
        )
        return {"perplexity": loss_by_position(model, rows)}


def perplexity_measures(selector: str | None, context: TaskContext) -> list[Perplexity]:
    return [Perplexity(context)]


def rows_from_documents(
    documents: Iterable[str], tokenizer: Any, *, length: int, rows: int
) -> list[list[int]]:
    """At most `rows` rows of `length` tokens: the starts of documents that are long enough.

    Where none is, documents are joined in their order until they fill one row after another.
    Raises EvaluationError when all documents together are shorter than one row.
    """
    single: list[list[int]] = []
    joined: list[int] = []
    for document in documents:
        ids = encode_plain(tokenizer, document)
        if len(ids) >= length:
            single.append(ids[:length])
        elif not single and len(joined) < rows * length:
            joined += ids
        if len(single) == rows:
            break
    if not single:
        single = [joined[start : start + length] for start in range(0, len(joined) - length + 1, length)][
            :rows
        ]
    if not single:
        raise EvaluationError(
            f"The documents hold {len(joined):,} tokens, fewer than one row of {length:,}: "
            "give more text or a shorter length."
        )
    return single


@torch.inference_mode()
def _row_losses(model: PreTrainedModel, row: Row, chunk: int | None) -> np.ndarray:
    """float64 [tokens - 1]: nats of each token after the first."""
    ids = torch.as_tensor(row, dtype=torch.long, device=model.device).reshape(1, -1)
    length = ids.shape[1]
    if length < 2:
        raise EvaluationError(f"A row of {length} token has nothing to predict: rows need at least 2.")
    cache = roomy_cache(model, length)
    chunk = chunk or max(1, LOGIT_BYTES // (4 * model.config.get_text_config().vocab_size))
    chunk = min(chunk, prefill_chunk(length, model.config._attn_implementation))
    losses = []
    for start in range(0, length - 1, chunk):
        end = min(start + chunk, length - 1)
        logits = model(ids[:, start:end], past_key_values=cache, use_cache=True).logits[0]
        losses.append(F.cross_entropy(logits.float(), ids[0, start + 1 : end + 1], reduction="none").cpu())
    return torch.cat(losses).double().numpy()
