"""`TransformersEngine` runs a model in this process."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.cache_utils import Cache

from ultralong_hf.errors import EvaluationError, ModelError
from ultralong_hf.evaluation.engines import memory
from ultralong_hf.evaluation.engines.attention import without_masks
from ultralong_hf.evaluation.engines.base import Prompt, check_window
from ultralong_hf.evaluation.engines.kv_cache import (
    KV_CACHES,
    KVCache,
    RowCache,
    quantized_cache,
    roomy_cache,
    takes_rows,
)
from ultralong_hf.evaluation.engines.prefixes import longest_shared

# The share of free memory that the KV cache of one batch may take; the rest is for activations and others.
CACHE_SHARE = 0.4
# Larger batches no longer gain: measured on 2 cores and read off the arithmetic of one GPU's decode step.
LARGEST_BATCH = 32
KV_SHRINKS = {"fp8": 2, "int4": 4}


class TransformersEngine:
    """A causal language model of transformers: chunked prefill, shared prefixes, answers in batches.

    `generate` of transformers is not used: it copies the whole KV cache for every new token (DynamicCache
    concatenates), and warns about lengths beyond the window, which are measured here on purpose.

    A prompt that begins like one just before it, in this call or the last, is read from where they differ:
    answers are those of reading it whole, up to the rounding of sums taken in another order.
    kv_cache: see KV_CACHES. share_prefixes=False reads every prompt whole.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        *,
        batch_size: int | str = "auto",
        prefill_chunk_size: int | None = None,
        kv_cache: str = "model",
        share_prefixes: bool = True,
        beyond_window: bool = False,
    ) -> None:
        if batch_size != "auto" and not (isinstance(batch_size, int) and batch_size >= 1):
            raise EvaluationError(
                f"batch_size={batch_size!r} is neither 'auto' nor a whole number of at least 1."
            )
        if prefill_chunk_size is not None and prefill_chunk_size < 1:
            raise EvaluationError(f"prefill_chunk_size={prefill_chunk_size} must be at least 1 token.")
        if kv_cache not in KV_CACHES:
            raise EvaluationError(f"kv_cache={kv_cache!r} is none of {', '.join(KV_CACHES)}.")
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.beyond_window = beyond_window
        self.window: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.kv_cache: KVCache = kv_cache
        self._fit_to_memory = batch_size == "auto"
        self._largest_batch = batch_size if isinstance(batch_size, int) else LARGEST_BATCH
        self._prefill_chunk_size = prefill_chunk_size
        self.stop_ids = _stop_ids(model, tokenizer)
        self._by_rows = takes_rows(model) and kv_cache in ("model", "offloaded")
        self._share_prefixes = share_prefixes
        self._rows: RowCache | None = None
        self._held: list[np.ndarray | None] = []
        self.prefilled_tokens = 0
        """Prompt tokens that were computed so far; shared ones count once."""

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
        """Loads a folder or hub id; on the first GPU if there is one. Raises ModelError.

        device: such as "cuda:0" or "cpu"; "auto" spreads the layers over all GPUs (accelerate's device_map).
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        spread = {"device_map": "auto"} if device == "auto" else {}
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=dtype, **spread)
            tokenizer = tokenizer or AutoTokenizer.from_pretrained(model)
        except (OSError, ValueError) as error:
            first_line = str(error).strip().splitlines()[0]
            raise ModelError(f"{model} cannot be read as a model with its tokenizer: {first_line}") from error
        return cls(loaded if spread else loaded.to(device), tokenizer, **options)

    def batch_size(self, prompt_tokens: int, max_new_tokens: int) -> int:
        """As asked; for "auto" what the free memory holds, halved after each out-of-memory."""
        if not self._fit_to_memory:
            return self._largest_batch
        per_token = memory.kv_bytes_per_token(self.model) / KV_SHRINKS.get(self.kv_cache, 1)
        free = sum(map(memory.free_bytes, self._cache_devices()))
        held = self._rows.rows * self._rows.capacity * per_token if self._rows else 0
        fitting = int(CACHE_SHARE * (free + held) / (per_token * (prompt_tokens + max_new_tokens)))
        return max(1, min(self._largest_batch, fitting))

    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[list[int]]:
        for prompt in prompts:
            check_window(len(prompt) + max_new_tokens, self.window, beyond_window=self.beyond_window)
        answers: list[list[int]] = [[] for _ in prompts]
        for waiting in self._groups(prompts):
            while waiting:
                longest = max(len(prompts[index]) for index in waiting)
                size = self.batch_size(longest, max_new_tokens)
                try:
                    with without_masks(self.model):
                        found = self._generate_batch(
                            [prompts[index] for index in waiting[:size]], max_new_tokens
                        )
                except RuntimeError as error:
                    self.release()
                    if not memory.is_out_of_memory(error):
                        raise
                    self._shrink_batch(size, longest, error)
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
        identity = {"engine": "transformers", "config": config, "weights": _weights_digest(self.model)}
        return identity if self.kv_cache in ("model", "offloaded") else identity | {"kv_cache": self.kv_cache}

    def numerics(self) -> dict[str, Any]:
        """What the rounding of its answers depends on: answers are taken over only where it is equal."""
        return {
            "dtype": str(self.model.dtype),
            "attention": self.model.config._attn_implementation,
            "device": self.model.device.type,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }

    def release(self) -> None:
        """Gives the memory of the KV cache back; the next prompt is read whole."""
        self._rows, self._held = None, []
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _groups(self, prompts: Sequence[Prompt]) -> Iterator[list[int]]:
        """Indices of prompts that may be read in one batch: all, or those of one length."""
        if self._by_rows:
            yield list(range(len(prompts)))
            return
        by_length = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        for _, group in groupby(by_length, key=lambda index: len(prompts[index])):
            yield list(group)

    def _cache_devices(self) -> set[torch.device]:
        if self.kv_cache == "offloaded":
            return {torch.device("cpu")}
        return {weight.device for weight in self.model.parameters()}

    def _shrink_batch(self, size: int, length: int, error: RuntimeError) -> None:
        if size == 1:
            raise EvaluationError(
                f"A single prompt of {length:,} tokens does not fit into the memory of {self.model.device}: "
                "use a shorter length, a smaller prefill_chunk_size, kv_cache='fp8' or 'offloaded', "
                "or a device with more memory."
            ) from error
        self._largest_batch = size // 2

    @torch.inference_mode()
    def _generate_batch(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[list[int]]:
        ids = [np.asarray(prompt, dtype=np.int64) for prompt in prompts]
        if self._by_rows:
            logits, cache, lengths = self._read_rows(ids, max_new_tokens)
        else:
            logits, cache, lengths = self._read_at_once(ids, max_new_tokens)
        running = torch.ones(len(ids), dtype=torch.bool, device=self.model.device)
        stop_ids = torch.tensor(sorted(self.stop_ids), device=self.model.device)
        steps = []
        for step in range(max_new_tokens):
            token = logits.argmax(dim=-1).to(self.model.device)
            running &= ~torch.isin(token, stop_ids)
            steps.append(torch.where(running, token, -1))
            if step + 1 == max_new_tokens or not running.any():
                break
            logits = self._answer_step(token, cache, lengths)
        return [[token for token in row if token >= 0] for row in torch.stack(steps, dim=1).tolist()]

    def _read_rows(
        self, prompts: Sequence[np.ndarray], max_new_tokens: int
    ) -> tuple[torch.Tensor, Cache, torch.Tensor | None]:
        """[B, V] logits after the prompts, each read from where it differs from one that is held."""
        rows = self._rows_for(len(prompts), max(map(len, prompts)) + max_new_tokens)
        logits = []
        for row, ids in enumerate(prompts):
            source, shared = longest_shared(ids, self._held) if self._share_prefixes else (row, 0)
            shared = min(shared, len(ids) - 1)  # the last token gives the logits
            rows.share(source, row, shared)
            self._held[row] = None  # until it is read: an error in between leaves no wrong prefix behind
            logits.append(self._read(ids, rows.read_row(row, shared), shared))
            self._held[row] = ids
        cache = rows.read_together([len(ids) for ids in prompts], self.model.device)
        return torch.cat(logits), cache, rows.lengths

    def _rows_for(self, rows: int, capacity: int) -> RowCache:
        if self._rows is None or self._rows.rows < rows or self._rows.capacity < capacity:
            self.release()
            self._rows = RowCache(self.model, rows, capacity, offloaded=self.kv_cache == "offloaded")
            self._held = [None] * rows
        return self._rows

    def _read_at_once(
        self, prompts: Sequence[np.ndarray], max_new_tokens: int
    ) -> tuple[torch.Tensor, Cache, None]:
        """[B, V] logits after prompts of one length, for caches whose rows cannot stand apart."""
        ids = np.stack(prompts)
        if self.kv_cache in ("fp8", "int4"):
            cache: Cache = quantized_cache(self.model, self.kv_cache)
        else:
            cache = roomy_cache(
                self.model,
                ids.shape[1] + max_new_tokens,
                rows=len(ids),
                offloaded=self.kv_cache == "offloaded",
            )
        return self._read(ids, cache, 0), cache, None

    def _read(self, ids: np.ndarray, cache: Cache, start: int) -> torch.Tensor:
        """[B, V] logits after prompts [B, S] or [S], of which `start` tokens are in the cache."""
        input_ids = torch.from_numpy(np.atleast_2d(ids)[:, start:]).to(self.model.device)
        attention = self.model.config._attn_implementation or ""
        length = ids.shape[-1]
        chunk = self._prefill_chunk_size or memory.prefill_chunk(length, attention)
        for first in range(0, input_ids.shape[1], chunk):
            logits = self.next_logits(input_ids[:, first : first + chunk], cache)
        self.prefilled_tokens += input_ids.numel()
        return logits

    def _answer_step(self, token: torch.Tensor, cache: Cache, lengths: torch.Tensor | None) -> torch.Tensor:
        """[B, V] logits after one more token [B]; `lengths` of rows that differ, counted on in place."""
        if lengths is None:
            return self.next_logits(token[:, None], cache)
        longest = int(lengths.max()) + 1
        seen = torch.arange(longest, device=lengths.device) <= lengths[:, None]
        logits = self.next_logits(
            token[:, None], cache, attention_mask=seen, position_ids=lengths[:, None].clone()
        )
        lengths += 1
        return logits

    def next_logits(self, input_ids: torch.Tensor, cache: Cache, **options: Any) -> torch.Tensor:
        """[B, V] logits of the last token alone; without a mask, because nothing is padded."""
        output = self.model(input_ids, past_key_values=cache, use_cache=True, logits_to_keep=1, **options)
        logits: torch.Tensor = output.logits[:, -1]
        return logits


def _stop_ids(model: PreTrainedModel, tokenizer: Any) -> set[int]:
    configured = getattr(model.generation_config, "eos_token_id", None)
    ids = configured if isinstance(configured, Sequence) else [configured]
    return {int(token) for token in (*ids, tokenizer.eos_token_id) if token is not None}


def _weights_digest(model: PreTrainedModel) -> str:
    digest = hashlib.sha256()
    for name, weight in model.state_dict().items():
        flat = weight.detach().reshape(-1)
        sampled = flat[:: max(1, flat.numel() // 16)][:16].float().cpu()
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        digest.update(sampled.numpy().tobytes())
    return digest.hexdigest()
