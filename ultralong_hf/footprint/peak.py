"""A device's memory in a training step: bytes by part at the moments that can be the fullest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from ultralong_hf.footprint.layer import LayerBytes, layer_bytes, repeated_kv_size
from ultralong_hf.footprint.setup import Setup
from ultralong_hf.footprint.shape import ModelShape

PARTS = (
    "parameters",
    "gradients",
    "optimizer",
    "checkpoints",
    "attention",
    "mlp",
    "loss",
    "communication",
    "batch",
)
"""What the bytes of a device are for. checkpoints: what layers keep from the forward to their backward."""

_FLOAT, _TOKEN_ID = 4, 8
_IN_FLIGHT = 2
"""Layers whose checkpoints are on the device while they lie elsewhere: one in use, one on its way."""

Parts = Counter[str]


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Bytes of one device at its fullest moment, and what it has elsewhere."""

    moment: str
    """The fullest."""
    parts: Mapping[str, int]
    """At that moment, in the order of PARTS."""
    most: Mapping[str, int]
    """Of each part, the bytes at its own fullest moment."""
    moments: Mapping[str, int]
    """Bytes at each of the moments."""
    host: Mapping[str, int] = field(default_factory=dict)
    """In host memory, by what for."""
    disk: int = 0
    """On a local disk, during the step."""

    @property
    def total(self) -> int:
        return sum(self.parts.values())


def footprint(shape: ModelShape, setup: Setup) -> Footprint:
    """The fullest moment of a step that follows others: the optimizer's state is there.

    Not counted: the context of the device's driver, fragments, a kernel's own scratch. Counted against
    measurement in benchmarks/plan_accuracy.py.
    """
    step = _Step(shape, setup)
    moments = {
        "MLP's backward in the last layer": step.backward(last=True, attends=False),
        "attention's backward in the last layer": step.backward(last=True, attends=True),
        "MLP's backward in the first layer": step.backward(last=False, attends=False),
        "attention's backward in the first layer": step.backward(last=False, attends=True),
        "loss": step.loss(),
        "embeddings' backward": step.embeddings(),
        "optimizer's step": step.optimizer(),
    }
    totals = {name: int(sum(parts.values())) for name, parts in moments.items()}
    fullest = max(totals, key=lambda name: totals[name])
    host, disk = step.elsewhere()
    return Footprint(
        moment=fullest,
        parts={part: int(moments[fullest][part]) for part in PARTS},
        most={part: max(int(parts[part]) for parts in moments.values()) for part in PARTS},
        moments=totals,
        host=host,
        disk=disk,
    )


class _Step:
    """The bytes of one device, moment by moment."""

    def __init__(self, shape: ModelShape, setup: Setup) -> None:
        self.shape, self.setup = shape, setup
        self.layer: LayerBytes = layer_bytes(shape, setup)
        self.tokens = setup.tokens
        self.trained = shape.parameters if setup.trained is None else setup.trained
        self.adapted = self.trained < shape.parameters
        self.shards = setup.weight_shards
        self.whole_layer = shape.layer_parameters * setup.value_bytes
        self.whole_head = shape.embedding_parameters * setup.value_bytes

    def resident(self) -> Parts:
        """What is there through the whole step."""
        setup, shards = self.setup, self.shards
        parts: Parts = Counter()
        if not setup.offload_parameters:
            parts["parameters"] = self.weights()
            if not setup.offload_optimizer:
                parts["optimizer"] = int(self.trained * setup.state_bytes) // shards
            if setup.accumulates:
                parts["gradients"] = self.gradients(1.0)
        if setup.sharding == "ddp":
            parts["communication"] = self.trained * setup.weight_bytes  # the reducer's buckets
        parts["batch"] = self.batch()
        return parts

    def weights(self) -> int:
        """Of the model, those that train and those that do not."""
        setup = self.setup
        return (self.trained * setup.weight_bytes + setup.frozen * setup.frozen_bytes) // self.shards

    def gradients(self, share: float) -> int:
        """Of the trained weights, so large a share of them."""
        if self.setup.offload_parameters:
            return 0
        return int(share * self.trained * self.setup.weight_bytes) // self.shards

    def batch(self) -> int:
        """Ids, labels, positions and mask of whole rows, a device's part of them, cosines and sines."""
        setup = self.setup
        whole = 4 * _TOKEN_ID * setup.rows * setup.length
        parts = 0 if setup.degree == 1 else 4 * _TOKEN_ID * self.tokens
        return whole + parts + 2 * self.shape.head_size * setup.stream_bytes * self.tokens

    def checkpoints(self, layers: int) -> int:
        """Kept by the first so many layers until their backward, on the device."""
        setup = self.setup
        recomputed = setup.recomputed(layers)
        if setup.storage != "device":
            recomputed = min(recomputed, _IN_FLIGHT)
        kept_layers = layers - setup.recomputed(layers)
        bytes_ = recomputed * self.checkpoint() + kept_layers * self.kept_layer()
        return int(bytes_)

    def checkpoint(self) -> float:
        """Of one recomputed layer."""
        kept = self.layer.attention_kept if self.setup.keeps_attention else 0
        return (self.layer.entry + kept) * self.tokens

    def kept_layer(self) -> float:
        """Of one layer that is not recomputed. In half precision the norm's copy stands for the entry."""
        half = self.setup.stream_bytes < _FLOAT and not (self.setup.liger or self.setup.tiled)
        entry = 0 if half else self.layer.entry
        return (entry + self.layer.attention + self.layer.mlp) * self.tokens

    def backward(self, *, last: bool, attends: bool) -> Parts:
        """In the last layer, whose backward comes first, or in the first one; in attention or in the MLP."""
        shape, setup, layer = self.shape, self.setup, self.layer
        parts = self.resident()
        head = shape.embedding_parameters / shape.parameters
        if not setup.accumulates and self.adapted:
            parts["gradients"] = 0 if last else self.gradients(1.0)
        elif not setup.accumulates:
            below = 0 if shape.tied_embeddings else head
            parts["gradients"] = self.gradients(head if last else 1 - below)
        before = shape.layers - 1 if last else 0
        parts["checkpoints"] = self.checkpoints(before)
        if setup.recomputed(before + 1) > setup.recomputed(before):
            alive = _IN_FLIGHT if setup.storage != "device" else before + 1
            if setup.recomputed(before) < alive:
                parts["checkpoints"] += int(self.checkpoint())
        elif setup.stream_bytes == _FLOAT or setup.liger or setup.tiled:
            parts["checkpoints"] += int(layer.entry * self.tokens)
        parts["attention"] = int(layer.attention * self.tokens)
        if attends:
            parts["attention"] += int(layer.attention_backward * self.tokens)
            parts["communication"] += int(self.exchange())
        else:
            parts["mlp"] = int((layer.mlp + layer.mlp_backward) * self.tokens + layer.mlp_tiles)
        parts["communication"] += self.gathered_layers()
        if setup.keeps_attention:  # it is there once, as a checkpoint
            parts["attention"] -= int(layer.attention_kept * self.tokens)
        return parts

    def gathered_layers(self) -> int:
        """FSDP2: a layer whole and the next one on its way; its gradients, and those being summed."""
        if self.setup.sharding != "fsdp" or self.shards == 1:
            return 0
        return 4 * self.whole_layer if not self.adapted else 2 * self.whole_layer

    def exchange(self) -> float:
        """Buffers of what devices that share a row send each other for one layer's attention."""
        setup, value = self.setup, self.setup.value_bytes
        bytes_ = 0.0
        if setup.ulysses > 1:
            bytes_ += 2 * value * self.shape.query_size * self.tokens
        if setup.ring > 1:
            keys = 2 * repeated_kv_size(self.shape, setup) * self.tokens
            turns = setup.ring if setup.rotation == "allgather" else 2
            bytes_ += keys * (value * turns + 2 * _FLOAT)
        return bytes_

    def loss(self) -> Parts:
        """The LM head in its backward: hidden states and their gradient, the head's, a tile or all logits."""
        shape, setup = self.shape, self.setup
        parts = self.resident()
        parts["checkpoints"] = self.checkpoints(shape.layers)
        size, value = shape.hidden_size, setup.value_bytes
        hidden = self._last_norm() + _FLOAT * size
        if setup.device == "gpu":
            hidden += value * size  # the positions that count, copied
        if value < _FLOAT:
            hidden += value * size
        loss = hidden * self.tokens
        head = shape.embedding_parameters
        if not self.adapted:
            loss += head * (_FLOAT if value == _FLOAT else _FLOAT + value)
        if setup.whole_logits:  # their log-softmax, and two gradients of it
            parts["loss"] = int(loss + 3 * _FLOAT * shape.vocab_size * self.tokens)
            return self._beside_the_loss(parts)
        rows = min(setup.lm_head_tile, self.tokens)
        width = min(setup.lm_head_width, shape.vocab_size)
        loss += rows * setup.lm_head_width * value
        if setup.device == "cpu":  # temporaries in float32, and a mask
            loss += rows * width * (_FLOAT * (7 if value == _FLOAT else 8) + 1)
        parts["loss"] = int(loss)
        return self._beside_the_loss(parts)

    def _beside_the_loss(self, parts: Parts) -> Parts:
        """With what FSDP2 gathers, or autocast's copies."""
        shape, setup, value = self.shape, self.setup, self.setup.value_bytes
        if setup.sharding == "fsdp" and self.shards > 1:
            parts["communication"] += self.whole_head + self.whole_layer
        elif setup.stream_bytes > value:
            parts["communication"] += shape.parameters * value  # autocast's copies of the weights
        return parts

    def _last_norm(self) -> float:
        """Kept for each token by the last norm, its input included."""
        size, value, stream = self.shape.hidden_size, self.setup.value_bytes, self.setup.stream_bytes
        if self.setup.liger or self.setup.tiled:
            return (stream + value) * size
        return (2 * _FLOAT + value) * size if stream == _FLOAT else (_FLOAT + 2 * value) * size

    def embeddings(self) -> Parts:
        """All gradients are there, and the embeddings' comes, whole."""
        parts = self.resident()
        parts["gradients"] = self.gradients(1.0)
        stream = self.setup.stream_bytes * self.shape.hidden_size * self.tokens
        parts["mlp"] = stream
        if not self.adapted:
            if self.setup.sharding == "fsdp" and self.shards > 1:
                parts["communication"] += 3 * self.whole_head
            elif self.shape.tied_embeddings or self.setup.accumulates:
                parts["gradients"] += self.shape.embedding_parameters * self.setup.weight_bytes
        return parts

    def optimizer(self) -> Parts:
        """The fused step: no temporaries."""
        setup = self.setup
        parts = self.resident()
        parts["gradients"] = self.gradients(1.0)
        if setup.offload_optimizer and not setup.offload_parameters:
            parts["optimizer"] = int(self.trained * setup.state_bytes) // self.shards
        return parts

    def elsewhere(self) -> tuple[dict[str, int], int]:
        """Bytes of this device's in host memory, and on a local disk."""
        setup, host, disk = self.setup, {}, 0
        kept = int(setup.recomputed(self.shape.layers) * self.checkpoint())
        if setup.storage == "host":
            host["checkpoints"] = kept
        elif setup.storage == "disk":
            disk = kept
        state = int(self.trained * setup.state_bytes) // self.shards
        if setup.offload_parameters:
            host["parameters"] = self.weights()
            host["gradients"] = self.trained * setup.weight_bytes // self.shards
        if setup.offload_parameters or setup.offload_optimizer:
            host["optimizer"] = state
        return host, disk
