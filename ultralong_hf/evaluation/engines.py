"""Engines: token ids in, greedy answers out. `TransformersEngine` runs a model in this process."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from ultralong_hf.errors import EvaluationError, ModelError

PREFILL_CHUNK = 8_192
# Short prompts are read several a pass, but on a CPU no more than this: measured on one core with 3 layers of
# width 128, 20 prompts of 4,080 tokens took 266 ms each one by one and 462 ms in one pass (page faults).
CPU_PASS = 2_048
# From the second chunk on, sdpa takes a [chunk, tokens so far] mask; the chunk shrinks to keep it under this.
MASK_BYTES = 256 * 1024**2
# The share of free memory that the KV cache of one batch may take; the rest is for activations and others.
CACHE_SHARE = 0.4
# Larger batches no longer gain: measured on 2 cores and read off the arithmetic of one GPU's decode step.
LARGEST_BATCH = 32

Prompt: TypeAlias = Sequence[int] | np.ndarray
"""Token ids: a list, or int32 [tokens]."""


class Engine(Protocol):
    """Answers prompts of token ids, greedily."""

    window: int | None
    """Tokens (prompt and answer) that the model was made for; None where the engine does not know."""

    def batch_size(self, prompt_tokens: int, max_new_tokens: int) -> int:
        """How many prompts of this size to hand over in one call."""

    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[list[int]]:
        """The new tokens of each prompt, without the end-of-text token. Raises EvaluationError."""

    def identity(self) -> dict[str, Any]:
        """What tells this model from another: interrupted results are continued only by the same one."""


class TransformersEngine:
    """A causal language model of transformers, with chunked prefill and prompts of one length batched.

    `generate` of transformers is not used: it copies the whole KV cache for every new token (DynamicCache
    concatenates), and warns about lengths beyond the window, which are measured here on purpose.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        *,
        batch_size: int | str = "auto",
        prefill_chunk_size: int | None = None,
        beyond_window: bool = False,
    ) -> None:
        if batch_size != "auto" and not (isinstance(batch_size, int) and batch_size >= 1):
            raise EvaluationError(
                f"batch_size={batch_size!r} is neither 'auto' nor a whole number of at least 1."
            )
        if prefill_chunk_size is not None and prefill_chunk_size < 1:
            raise EvaluationError(f"prefill_chunk_size={prefill_chunk_size} must be at least 1 token.")
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.beyond_window = beyond_window
        self.window: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self._fit_to_memory = batch_size == "auto"
        self._largest_batch = batch_size if isinstance(batch_size, int) else LARGEST_BATCH
        self._prefill_chunk_size = prefill_chunk_size
        self._stop_ids = _stop_ids(model, tokenizer)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        *,
        tokenizer: Any = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype = "auto",
        **options: Any,
    ) -> TransformersEngine:
        """Loads a folder or hub id; on the first GPU if there is one. Raises ModelError."""
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
            tokenizer = tokenizer or AutoTokenizer.from_pretrained(model)
        except (OSError, ValueError) as error:
            first_line = str(error).strip().splitlines()[0]
            raise ModelError(f"{model} cannot be read as a model with its tokenizer: {first_line}") from error
        return cls(loaded.to(device), tokenizer, **options)

    def batch_size(self, prompt_tokens: int, max_new_tokens: int) -> int:
        """As asked; for "auto" what the free memory holds, halved after each out-of-memory."""
        if not self._fit_to_memory:
            return self._largest_batch
        cache_bytes = (prompt_tokens + max_new_tokens) * kv_bytes_per_token(self.model)
        fitting = int(CACHE_SHARE * free_bytes(self.model.device) / cache_bytes)
        return max(1, min(self._largest_batch, fitting))

    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[list[int]]:
        for prompt in prompts:
            check_window(len(prompt) + max_new_tokens, self.window, beyond_window=self.beyond_window)
        answers: list[list[int]] = [[] for _ in prompts]
        by_length = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        for length, group in groupby(by_length, key=lambda index: len(prompts[index])):
            waiting = list(group)
            while waiting:
                size = self.batch_size(length, max_new_tokens)
                try:
                    found = self._generate_batch([prompts[index] for index in waiting[:size]], max_new_tokens)
                except RuntimeError as error:
                    if not _is_out_of_memory(error):
                        raise
                    self._shrink_batch(size, length, error)
                    continue
                for index, answer in zip(waiting, found, strict=False):
                    answers[index] = answer
                waiting = waiting[size:]
        return answers

    def identity(self) -> dict[str, Any]:
        """The config and a digest over 16 values of each weight: two checkpoints of one run differ in it."""
        config = self.model.config.to_diff_dict()
        for key in ("_name_or_path", "transformers_version", "dtype", "architectures"):
            config.pop(key, None)
        return {"engine": "transformers", "config": config, "weights": _weights_digest(self.model)}

    def _shrink_batch(self, size: int, length: int, error: RuntimeError) -> None:
        if size == 1:
            raise EvaluationError(
                f"A single prompt of {length:,} tokens does not fit into the memory of {self.model.device}: "
                "use a shorter length, a smaller prefill_chunk_size, or a device with more memory."
            ) from error
        self._largest_batch = size // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def _generate_batch(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[list[int]]:
        input_ids = torch.from_numpy(np.asarray(prompts, dtype=np.int64)).to(self.model.device)
        batch, length = input_ids.shape
        cache = roomy_cache(self.model, length + max_new_tokens, batch=batch)
        logits = self._read(input_ids, cache)
        running = torch.ones(batch, dtype=torch.bool, device=input_ids.device)
        stop_ids = torch.tensor(sorted(self._stop_ids), device=input_ids.device)
        steps = []
        for step in range(max_new_tokens):
            token = logits.argmax(dim=-1)
            running &= ~torch.isin(token, stop_ids)
            steps.append(torch.where(running, token, -1))
            if step + 1 == max_new_tokens or not running.any():
                break
            logits = self._next_logits(token[:, None], cache)
        return [[token for token in row if token >= 0] for row in torch.stack(steps, dim=1).tolist()]

    def _read(self, input_ids: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
        """[B, V] logits after prompts [B, S]; a pass reads some short prompts, or a part of a long one."""
        batch, length = input_ids.shape
        chunk = self._prefill_chunk_size or prefill_chunk(length, self.model.config._attn_implementation)
        tokens_a_pass = min(chunk, CPU_PASS) if self.model.device.type == "cpu" else chunk
        rows_a_pass = max(1, tokens_a_pass // length) if _is_roomy(cache) else batch
        logits = []
        for first in range(0, batch, rows_a_pass):
            rows = slice(first, first + rows_a_pass)
            _look_at(cache, rows, 0)
            for start in range(0, length, chunk):
                last = self._next_logits(input_ids[rows, start : start + chunk], cache)
            logits.append(last)
        _look_at(cache, slice(0, batch), length)
        return torch.cat(logits)

    def _next_logits(self, input_ids: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
        """[B, V] logits of the last token alone; no mask is given, because nothing is padded."""
        return self.model(input_ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]


class _RoomyLayer(DynamicLayer):
    """A KV cache layer that is allocated once: no copy of all earlier keys for each new token or chunk.

    `look_at` makes it a cache of some rows of the batch: prompts are read a few at a time, answered together.
    """

    def __init__(self, batch: int, capacity: int) -> None:
        super().__init__()
        self.size = batch, capacity
        self.rows = slice(0, batch)

    def look_at(self, rows: slice, length: int) -> None:
        """From now on the cache of these rows, which hold `length` tokens so far."""
        self.rows = rows
        if self.is_initialized:
            self.keys, self.values = (whole[rows, :, :length] for whole in self._whole)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            batch, capacity = self.size
            self._whole = tuple(
                states.new_empty(batch, states.shape[1], capacity, states.shape[3])
                for states in (key_states, value_states)
            )
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        for whole, states in zip(self._whole, (key_states, value_states), strict=True):
            whole[self.rows, :, start:end] = states
        self.look_at(self.rows, end)
        keys, values = (whole[self.rows, :, :end] for whole in self._whole)
        return keys, values


def roomy_cache(model: PreTrainedModel, capacity: int, *, batch: int = 1) -> DynamicCache:
    """The model's own kind of cache, its full-attention layers allocated for `capacity` tokens at once."""
    cache = DynamicCache(config=model.config)
    cache.layers = [
        _RoomyLayer(batch, capacity) if type(layer) is DynamicLayer else layer for layer in cache.layers
    ]
    return cache


def _is_roomy(cache: DynamicCache) -> bool:
    return all(isinstance(layer, _RoomyLayer) for layer in cache.layers)


def _look_at(cache: DynamicCache, rows: slice, length: int) -> None:
    for layer in cache.layers:
        if isinstance(layer, _RoomyLayer):
            layer.look_at(rows, length)


def prefill_chunk(length: int, attention: str) -> int:
    """Tokens a forward pass while reading a prompt of `length` tokens.

    Flash attention builds no mask. sdpa builds none for a prompt read at once, else a boolean [chunk, length]
    one, which is kept under MASK_BYTES (256 tokens at 1M).
    """
    if length <= PREFILL_CHUNK or "flash" in attention:
        return PREFILL_CHUNK
    return max(64, min(PREFILL_CHUNK, MASK_BYTES // length))


def kv_bytes_per_token(model: PreTrainedModel) -> int:
    """Bytes of keys and values that one token leaves in the cache, all layers together."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * int(config.num_hidden_layers) * int(heads) * int(head_size) * model.dtype.itemsize


def free_bytes(device: torch.device) -> int:
    """Memory that is free on the device: the GPU's, or the machine's."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil  # accelerate brings it

    return int(psutil.virtual_memory().available)


def check_window(tokens: int, window: int | None, *, beyond_window: bool) -> None:
    """Raises EvaluationError where prompt and answer outgrow the model's window, unless that is wanted."""
    if window is not None and tokens > window and not beyond_window:
        raise EvaluationError(
            f"{tokens:,} tokens are more than the model's window of {window:,}. Use shorter lengths, "
            "or beyond_window=True (--beyond-window) to measure how it fails there."
        )


def _stop_ids(model: PreTrainedModel, tokenizer: Any) -> set[int]:
    configured = getattr(model.generation_config, "eos_token_id", None)
    ids = configured if isinstance(configured, Sequence) else [configured]
    return {int(token) for token in (*ids, tokenizer.eos_token_id) if token is not None}


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _weights_digest(model: PreTrainedModel) -> str:
    digest = hashlib.sha256()
    for name, weight in model.state_dict().items():
        flat = weight.detach().reshape(-1)
        sampled = flat[:: max(1, flat.numel() // 16)][:16].float().cpu()
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        digest.update(sampled.numpy().tobytes())
    return digest.hexdigest()
