"""Floating-point operations of a training step, attention's causal half and recomputation counted."""

from __future__ import annotations

from dataclasses import dataclass

from ultralong_hf.footprint.setup import Setup
from ultralong_hf.footprint.shape import ModelShape


@dataclass(frozen=True, kw_only=True)
class Work:
    """Operations for so many rows, over all devices. A multiplication and its addition are 2.

    Forward: 2 operations for each weight and token, and 4 for each value of the queries and each pair of
    tokens that see each other (two products), a causal half being N^2 / 2 pairs.
    """

    matmul: float
    """Forward of all products with weights."""
    attention: float
    """Forward of the products of queries, keys and values."""
    recomputed_matmul: float
    recomputed_attention: float

    @property
    def forward(self) -> float:
        return self.matmul + self.attention

    @property
    def model(self) -> float:
        """Forward and backward as MFU counts them (arXiv 2204.02311, appendix B): three times the forward."""
        return 3 * self.forward

    @property
    def hardware(self) -> float:
        """What is done: flash attention's backward is 2.5 forwards, for it computes the scores again (arXiv
        2307.08691, section 4.1), and recomputed layers run forward twice."""
        done = 3 * self.matmul + 3.5 * self.attention
        return done + self.recomputed_matmul + self.recomputed_attention

    @property
    def attention_share(self) -> float:
        """Of the forward."""
        return self.attention / self.forward


def step_work(shape: ModelShape, setup: Setup, *, rows: float) -> Work:
    """The work for `rows` rows of `setup.length` tokens each.

    The LM head is computed once more in the backward of the fused loss, and is counted so unless logits are
    whole.
    """
    tokens = rows * setup.length
    head = 2.0 * shape.embedding_parameters * tokens
    layers = 2.0 * (shape.multiplied_parameters - shape.embedding_parameters) * tokens
    attention = 4.0 * shape.query_size * shape.attended(setup.length) * rows
    share = setup.recomputed(shape.layers) / shape.layers
    return Work(
        matmul=layers + head,
        attention=attention,
        recomputed_matmul=share * layers + (0.0 if setup.whole_logits else head),
        recomputed_attention=0.0 if setup.keeps_attention else share * attention,
    )
