"""How a step is trained, as plain numbers: what `peak.py` and `work.py` need to know."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Sharding = Literal["none", "ddp", "fsdp"]
"""Of weights, gradients and optimizer: a process for itself, whole copies, or FSDP2's shards."""

Storage = Literal["device", "host", "disk"]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """One training step. Defaults are those of a recipe on several GPUs: bf16 over float32, FSDP2."""

    length: int
    """Tokens of a row."""
    rows: int = 1
    """That a group of devices takes at once."""
    ulysses: int = 1
    ring: int = 1
    rotation: Literal["allgather", "alltoall"] = "allgather"
    """Of a ring."""
    weight_shards: int = 1
    """Devices over which weights, gradients and optimizer are spread."""
    sharding: Sharding = "fsdp"
    device: Literal["gpu", "cpu"] = "gpu"
    weight_bytes: int = 4
    """Of a weight that trains, as it is kept between steps; its gradient has as many."""
    frozen_bytes: int = 2
    """Of a weight that does not train."""
    frozen: int = 0
    """Weights that do not train."""
    value_bytes: int = 2
    """Of an activation."""
    stream_bytes: int = 2
    """Of the values that run from layer to layer: 4 under autocast around float32 weights, without FSDP."""
    state_bytes: float = 8
    """Of the optimizer, for each weight that trains."""
    trained: int | None = None
    """Weights that train; None: all."""
    adapter_bytes: int = 0
    """What LoRA adds to a token's activations of a layer."""
    accumulates: bool = False
    """Gradients of earlier batches are there when a batch begins."""
    liger: bool = False
    tile: int | None = None
    """Tokens that norms and MLPs take at once; None: all."""
    tile_above: int = 0
    """Tokens of a device up to which they take all at once all the same."""
    whole_logits: bool = False
    """The LM head is not in tiles, and not computed again in the backward."""
    lm_head_tile: int = 4096
    lm_head_width: int = 32_768
    """Entries of the vocabulary that TRL's fused LM head takes at once (TRL 1.16, trainer/utils.py)."""
    checkpoint_every: int = 1
    """Every n-th layer is recomputed; 0: none."""
    storage: Storage = "device"
    """Of what recomputed layers keep."""
    keeps_attention: bool = False
    """Attention's output and log-sum-exp are kept, not recomputed."""
    offload_optimizer: bool = False
    offload_parameters: bool = False

    @property
    def degree(self) -> int:
        """Devices that share a row."""
        return self.ulysses * self.ring

    @property
    def tokens(self) -> int:
        """Of one device."""
        return self.rows * math.ceil(self.length / self.degree)

    @property
    def tiled(self) -> int | None:
        """Tokens of a tile, where there are tiles."""
        return self.tile if self.tile and self.tokens > max(self.tile, self.tile_above) else None

    def recomputed(self, layers: int) -> int:
        """Of so many layers, those that are recomputed: the first, and every n-th from there."""
        return math.ceil(layers / self.checkpoint_every) if self.checkpoint_every else 0
