"""KV caches that are allocated once, whose rows are prompts: read one by one, answered together.

transformers' DynamicCache copies all earlier keys for every new token or chunk, and all its rows have one
length. Here a row keeps what it has read, so that the next prompt goes on where it begins to differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from transformers import DynamicCache, PreTrainedModel, QuantizedCache
from transformers.cache_utils import Cache, DynamicLayer

from ultralong_hf.errors import EvaluationError

KVCache = Literal["model", "offloaded", "fp8", "int4"]
KV_CACHES: tuple[KVCache, ...] = ("model", "offloaded", "fp8", "int4")
"""model: on the device, in the model's dtype; offloaded: in the host's memory, a layer at a time on the
device; fp8 and int4: transformers' QuantizedCache (int4 needs optimum-quanto)."""


class RoomyLayer(DynamicLayer):
    """One layer's keys and values of all rows: [rows, heads, capacity, head size].

    home: where they are kept; None: on the layer's own device.
    """

    def __init__(self, rows: int, capacity: int, home: torch.device | None = None) -> None:
        super().__init__()
        self.size, self.home = (rows, capacity), home
        self._whole: tuple[torch.Tensor, ...] = ()
        self._rows = slice(0, rows)
        self._length = 0
        self._lengths: torch.Tensor | None = None

    def look_at(self, rows: slice, length: int, lengths: torch.Tensor | None = None) -> None:
        """From now on the cache of these rows, which hold `length` tokens each; or, with `lengths` int64
        [rows], as many as that says, of which `length` is the greatest."""
        self._rows, self._length, self._lengths = rows, length, lengths

    def share(self, source: int, row: int, length: int) -> None:
        """The first tokens of one row become those of another too."""
        for whole in self._whole:
            whole[row, :, :length] = whole[source, :, :length]

    def held(self, row: int, length: int) -> tuple[torch.Tensor, ...]:
        """Keys and values of a row's first tokens, each [heads, length, head size]; no copy."""
        return tuple(whole[row, :, :length] for whole in self._whole)

    def fill(self, keys: torch.Tensor, values: torch.Tensor, device: torch.device) -> None:
        """Row 0 holds these tokens, each [heads, tokens, head size], of a layer that runs on `device`."""
        if not self._whole:
            self._allocate(keys.to(device)[None], values.to(device)[None])
        for whole, states in zip(self._whole, (keys, values), strict=True):
            whole[0, :, : states.shape[1]] = states.to(whole.device)
        self.look_at(slice(0, 1), keys.shape[1])

    def grow(self, capacity: int, length: int) -> None:
        """Room for `capacity` tokens, of which the first `length` are kept."""
        earlier, self.size = self._whole, (self.size[0], capacity)
        self._whole = tuple(
            whole.new_empty((whole.shape[0], whole.shape[1], capacity, whole.shape[3])) for whole in earlier
        )
        for new, old in zip(self._whole, earlier, strict=True):
            new[:, :, :length] = old[:, :, :length]

    def get_seq_length(self) -> int:
        return self._length

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self._whole:
            self._allocate(key_states, value_states)
        end = self._length + key_states.shape[-2]
        keys, values = (
            self._store(whole, states, end).to(states.device, non_blocking=True)
            for whole, states in zip(self._whole, (key_states, value_states), strict=True)
        )
        self._length = end
        return keys, values

    def _store(self, whole: torch.Tensor, states: torch.Tensor, end: int) -> torch.Tensor:
        if self._lengths is None:
            whole[self._rows, :, self._length : end] = states.to(whole.device)
        else:
            rows = torch.arange(len(self._lengths), device=whole.device)
            whole[rows, :, self._lengths.to(whole.device)] = states[:, :, 0].to(whole.device)
        return whole[self._rows, :, :end]

    def _allocate(self, *states: torch.Tensor) -> None:
        self.lazy_initialization(*states)
        rows, capacity = self.size
        pinned = self.home is not None and states[0].device.type == "cuda"
        # Zeros: what a mask hides must still be a number, since 0 times NaN is NaN.
        self._whole = tuple(
            torch.zeros(
                (rows, one.shape[1], capacity, one.shape[3]),
                dtype=one.dtype,
                device=self.home or one.device,
                pin_memory=pinned,
            )
            for one in states
        )


class RowCache:
    """The cache of a model for `rows` prompts of up to `capacity` tokens, answers included."""

    def __init__(self, model: PreTrainedModel, rows: int, capacity: int, *, offloaded: bool = False) -> None:
        self.rows, self.capacity = rows, capacity
        self.cache = roomy_cache(model, capacity, rows=rows, offloaded=offloaded)
        self.lengths: torch.Tensor | None = None
        """int64 [rows] of rows that are answered together and differ; counted on by who answers."""

    def read_row(self, row: int, length: int) -> Cache:
        """The cache of one row, which holds `length` tokens so far."""
        self._look_at(slice(row, row + 1), length)
        return self.cache

    def read_together(self, lengths: Sequence[int], device: torch.device) -> Cache:
        """The cache of the first rows, which hold these many tokens."""
        same = len(set(lengths)) == 1
        self._look_at(
            slice(0, len(lengths)), max(lengths), None if same else torch.tensor(lengths, device=device)
        )
        return self.cache

    def share(self, source: int, row: int, length: int) -> None:
        if source != row:
            for layer in self.cache.layers:
                assert isinstance(layer, RoomyLayer)
                layer.share(source, row, length)

    def _look_at(self, rows: slice, length: int, lengths: torch.Tensor | None = None) -> None:
        self.lengths = lengths
        for layer in self.cache.layers:
            assert isinstance(layer, RoomyLayer)
            layer.look_at(rows, length, lengths)


def takes_rows(model: PreTrainedModel) -> bool:
    """Whether all layers keep all tokens: a sliding window, or a linear layer's state, cannot go back."""
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)


def roomy_cache(
    model: PreTrainedModel, capacity: int, *, rows: int = 1, offloaded: bool = False
) -> DynamicCache:
    """The model's own kind of cache, its full-attention layers allocated for `capacity` tokens at once."""
    cache = DynamicCache(config=model.config)
    home = torch.device("cpu") if offloaded else None
    cache.layers = [
        RoomyLayer(rows, capacity, home) if type(layer) is DynamicLayer else layer for layer in cache.layers
    ]
    return cache


def quantized_cache(model: PreTrainedModel, kind: KVCache) -> QuantizedCache:
    """transformers' own. Raises EvaluationError where the library or the model does not have it."""
    options: dict[str, Any] = {"backend": "fp8"} if kind == "fp8" else {"backend": "quanto", "nbits": 4}
    try:
        return QuantizedCache(config=model.config, **options)
    except (ImportError, ValueError) as error:
        raise EvaluationError(f"kv_cache={kind!r} cannot be had here: {error}") from error
