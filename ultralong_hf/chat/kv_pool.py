"""KV caches of documents, kept between questions; the least recently used go when the budget is full."""

from __future__ import annotations

import copy
import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel

from ultralong_hf.chat.engine import CacheEntry, CacheUse
from ultralong_hf.errors import ChatError
from ultralong_hf.evaluation.engines.kv_cache import RoomyLayer, roomy_cache
from ultralong_hf.evaluation.engines.memory import kv_bytes_per_token
from ultralong_hf.evaluation.engines.prefixes import common_prefix

MIB = 1024**2
# An entry of which less is shared is left to its own document, and another is made.
TAKEN_OVER_SHARE = 0.5
# Room beyond this answer, so that the next turns need no larger cache.
LEAST_ROOM, ROOM_SHARE = 1_024, 1 / 16


@dataclass
class Held:
    """One cache: the tokens in it, and the documents that they are of."""

    session: str
    cache: DynamicCache
    capacity: int
    bytes_per_token: int
    ids: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int32))
    frozen: int = 0
    documents: tuple[tuple[str, int], ...] = ()
    in_use: bool = False
    used: int = 0
    _snapshot: tuple[int, list[Any]] | None = None

    @property
    def bytes(self) -> int:
        return self.capacity * self.bytes_per_token

    @property
    def length(self) -> int:
        return len(self.ids)

    def reusable(self, ids: np.ndarray) -> int:
        """How many first tokens of a prompt need not be read; the last must be, for its logits."""
        shared = min(common_prefix(ids, self.ids), len(ids) - 1)
        if shared == self.length or self.goes_back():
            return shared
        return self._snapshot[0] if self._snapshot and self._snapshot[0] <= shared else 0

    @torch.inference_mode()
    def rewind(self, length: int) -> None:
        """From now on it holds the first `length` tokens (as `reusable` said)."""
        if length != self.length and not self.goes_back():
            states = (
                copy.deepcopy(self._snapshot[1]) if self._snapshot and self._snapshot[0] == length else None
            )
            fresh = iter(states or self._without_tokens())
            self.cache.layers = [
                layer if isinstance(layer, RoomyLayer) else next(fresh) for layer in self.cache.layers
            ]
        for layer in self.cache.layers:
            if isinstance(layer, RoomyLayer):
                layer.look_at(slice(0, 1), length)
        self.ids = self.ids[:length]

    @torch.inference_mode()
    def keep_state(self) -> None:
        """Layers that cannot go back (sliding windows, linear attention) remember the state of now."""
        if not self.goes_back():
            others = [layer for layer in self.cache.layers if not isinstance(layer, RoomyLayer)]
            self._snapshot = (self.length, copy.deepcopy(others))

    @torch.inference_mode()
    def grow(self, capacity: int) -> None:
        """A layer at a time, so that one layer alone is there twice."""
        for layer in self.cache.layers:
            if isinstance(layer, RoomyLayer) and layer.get_seq_length():
                layer.grow(capacity, self.length)
                layer.look_at(slice(0, 1), self.length)
            elif isinstance(layer, RoomyLayer):
                layer.size = (1, capacity)
        self.capacity = capacity

    def entry(self) -> CacheEntry:
        documents = tuple((name, tokens, tokens * self.bytes_per_token) for name, tokens in self.documents)
        return CacheEntry(documents, self.length, self.bytes, self.in_use)

    def goes_back(self) -> bool:
        return all(isinstance(layer, RoomyLayer) for layer in self.cache.layers)

    def _without_tokens(self) -> list[Any]:
        others = [layer for layer in self.cache.layers if not isinstance(layer, RoomyLayer)]
        for layer in others:
            layer.reset()
        return others


class KVPool:
    """All caches of an engine. budget: bytes, which all of them together never exceed."""

    def __init__(self, model: PreTrainedModel, budget: int, *, offloaded: bool = False) -> None:
        self.model, self.budget, self.offloaded = model, budget, offloaded
        self.bytes_per_token = kv_bytes_per_token(model)
        self._held: list[Held] = []
        self._lock = threading.Lock()
        self._clock = itertools.count(1)

    def take(self, session: str, ids: np.ndarray, frozen: int, room: int) -> tuple[Held, int]:
        """(a cache for this prompt with `room` for the answer, how many of its tokens it holds already).

        It is the caller's alone until `give_back`. Raises ChatError where the budget does not suffice.
        """
        needed = len(ids) + room
        with self._lock:
            held, shared = self._best(session, ids)
            if held is None or shared < TAKEN_OVER_SHARE * min(held.frozen, held.length):
                held, shared = self._new(session, needed), 0
            held.in_use = True
            try:
                if held.capacity < needed:
                    held.rewind(shared)
                    self._make_room(self._roomy(needed) - held.capacity, needed)
                    held.grow(self._roomy(needed))
                held.rewind(shared)
            except ChatError:
                held.in_use = False
                raise
            held.frozen, held.used = frozen, next(self._clock)
        return held, shared

    def give_back(self, held: Held) -> None:
        with self._lock:
            held.in_use = False
            held.used = next(self._clock)
            if not held.session:
                self._drop(held)

    def add(self, session: str, capacity: int) -> Held:
        """An empty cache in use, to be filled from a file. Raises ChatError."""
        with self._lock:
            held = self._new(session, capacity)
            held.in_use = True
        return held

    def hold(self, session: str, ids: np.ndarray) -> Held | None:
        """The session's cache that begins with these tokens, the caller's alone until `give_back`."""
        with self._lock:
            held, shared = self._best(session, ids)
            if held is None or shared < len(ids) - 1 or held.length < len(ids):
                return None
            held.in_use = True
        return held

    def forget(self, session: str) -> None:
        """One in use is deleted as soon as it is given back."""
        with self._lock:
            for held in [held for held in self._held if held.session == session]:
                if held.in_use:
                    held.session = ""
                else:
                    self._drop(held)

    def use(self, session: str) -> CacheUse:
        with self._lock:
            own = sorted((held for held in self._held if held.session == session), key=lambda h: -h.used)
            return CacheUse(self._used(), self.budget, tuple(held.entry() for held in own))

    def _best(self, session: str, ids: np.ndarray) -> tuple[Held | None, int]:
        own = [held for held in self._held if held.session == session and not held.in_use]
        found = [(held.reusable(ids), held.used, held) for held in own]
        if not found:
            return None, 0
        shared, _, held = max(found, key=lambda one: one[:2])
        return held, shared

    def _new(self, session: str, needed: int) -> Held:
        capacity = self._roomy(needed)
        self._make_room(capacity, needed)
        cache = roomy_cache(self.model, capacity, offloaded=self.offloaded)
        held = Held(session, cache, capacity, self.bytes_per_token)
        self._held.append(held)
        return held

    def _roomy(self, needed: int) -> int:
        """With room for later turns, where the budget has it."""
        wished = needed + max(LEAST_ROOM, int(ROOM_SHARE * needed))
        return max(needed, min(wished, self.budget // self.bytes_per_token))

    def _make_room(self, tokens: int, needed: int) -> None:
        """Drops what was used least recently until so many more tokens fit. Raises ChatError."""
        if needed * self.bytes_per_token > self.budget:
            raise ChatError(
                f"A cache of {needed:,} tokens takes {needed * self.bytes_per_token / MIB:,.0f} MiB; the "
                f"budget for caches is {self.budget / MIB:,.0f} MiB. Use shorter documents, or a larger one."
            )
        wanted = tokens * self.bytes_per_token
        idle = sorted((held for held in self._held if not held.in_use), key=lambda held: held.used)
        if self._used() - sum(held.bytes for held in idle) + wanted > self.budget:
            raise ChatError("The memory for caches is in use by other answers: try again in a moment.")
        for held in idle:
            if self._used() + wanted <= self.budget:
                break
            self._drop(held)

    def _drop(self, held: Held) -> None:
        self._held.remove(held)
        held.cache.layers = []

    def _used(self) -> int:
        return sum(held.bytes for held in self._held)


def documents_of(names: Sequence[str], spans: Sequence[tuple[int, int, int]]) -> tuple[tuple[str, int], ...]:
    """(name, tokens) of the documents of a prompt."""
    return tuple((names[index], last - first) for index, first, last in spans)
