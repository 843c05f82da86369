"""`LocalEngine`: a model of transformers in this process, which keeps the documents' KV cache."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

from ultralong_hf.chat import kv_files
from ultralong_hf.chat.attention import passages_by_attention
from ultralong_hf.chat.documents import Document
from ultralong_hf.chat.encoding import EncodedPrompt, EncodedText, PromptWriter, encode_text
from ultralong_hf.chat.engine import (
    CacheUse,
    Event,
    FinishReason,
    Options,
    Piece,
    Prefill,
    Question,
    Reply,
    TokenCount,
    Waiting,
)
from ultralong_hf.chat.gate import Gate
from ultralong_hf.chat.kv_pool import Held, KVPool, documents_of
from ultralong_hf.chat.prompting import PromptStyle, Turn
from ultralong_hf.chat.remaining import Remaining
from ultralong_hf.chat.streaming_text import TokenText
from ultralong_hf.errors import ChatError, DoesNotFit, OutOfMemory
from ultralong_hf.evaluation.engines import memory
from ultralong_hf.evaluation.engines.local import TransformersEngine

CACHE_SHARE = 0.4
# Tokens a pass on a CPU: some tenths of a second for a small model, so that progress and stop are prompt.
CPU_CHUNK = 512


class LocalEngine:
    """Answers over a model in process.

    cache_bytes: budget of all KV caches; None: 40 % of the device's free memory. offloaded: caches live in
    the host's memory. running: questions that are answered at the same time, their passes in turn.
    waiting: how many more may queue. chunk: tokens a prefill pass. answer_start: how every answer begins, for
    models that need it; it is a part of the answer.
    """

    in_process = True

    def __init__(
        self,
        base: TransformersEngine,
        *,
        name: str,
        style: PromptStyle = "guided",
        cache_bytes: int | None = None,
        offloaded: bool = False,
        running: int = 2,
        waiting: int = 32,
        chunk: int | None = None,
        answer_start: str = "",
    ) -> None:
        self.name, self.window = name, base.window
        self.model, self.tokenizer = base.model, base.tokenizer
        self.writer = PromptWriter(base.tokenizer, style, answer_start=answer_start)
        home = torch.device("cpu") if offloaded else base.model.device
        budget = int(CACHE_SHARE * memory.free_bytes(home)) if cache_bytes is None else cache_bytes
        self.pool = KVPool(base.model, budget, offloaded=offloaded)
        self._base, self._chunk = base, chunk
        self._gate = Gate(running, waiting)
        self._pass = threading.Lock()  # passes of several answers take turns
        self._encoded: dict[str, dict[str, EncodedText]] = {}
        self._encoding = threading.Lock()

    @classmethod
    def from_pretrained(
        cls, model: str | Path, *, device: Any = None, dtype: Any = "auto", **options: Any
    ) -> LocalEngine:
        """Loads a folder or hub id; on the first GPU if there is one. Raises ModelError."""
        base = TransformersEngine.from_pretrained(model, device=device, dtype=dtype)
        return cls(base, name=options.pop("name", Path(str(model)).name), **options)

    def ask(self, question: Question, options: Options, stop: threading.Event) -> Iterator[Event]:
        prompt = self.write(question)
        self._check_window(prompt, options)
        yield from (Waiting(ahead) for ahead in self._gate.enter(stop))
        try:
            if stop.is_set():
                yield Reply("", "stopped", len(prompt.ids), None, 0, None, 0.0, ids=())
                return
            held, reused = self.pool.take(question.session, prompt.ids, prompt.frozen, options.max_new_tokens)
            held.documents = documents_of([document.name for document in question.documents], prompt.spans)
            try:
                yield from self._answer(held, prompt, reused, question, options, stop)
            finally:
                self.pool.give_back(held)
        except RuntimeError as error:
            if not memory.is_out_of_memory(error):
                raise
            raise OutOfMemory(
                f"The device's memory does not suffice for {len(prompt.ids):,} tokens: use shorter "
                "documents, a smaller chunk, or caches in the host's memory."
            ) from error
        finally:
            self._gate.leave()

    def write(self, question: Question) -> EncodedPrompt:
        """The prompt's ids. Raises ChatError."""
        encoded = [self.encode(question.session, document) for document in question.documents]
        return self.writer.write(question.documents, encoded, question.turns, question.question)

    def encode(
        self,
        session: str,
        document: Document,
        *,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> EncodedText:
        """The document's ids, kept for the session."""
        with self._encoding:
            known = self._encoded.setdefault(session, {}).get(document.digest)
        if known is None:
            text = document.text.rstrip("\n") if self.writer.style == "bare" else document.text
            known = encode_text(self.writer.plain, text, progress=progress)
            with self._encoding:
                self._encoded.setdefault(session, {})[document.digest] = known
        return known

    def count(self, session: str, document: Document) -> TokenCount:
        return TokenCount(len(self.encode(session, document)))

    def count_around(
        self, session: str, documents: Sequence[Document], turns: Sequence[Turn], question: str
    ) -> int:
        prompt = self.write(Question(session, tuple(documents), question, tuple(turns)))
        return len(prompt.ids) - sum(last - first for _, first, last in prompt.spans)

    def cache_use(self, session: str) -> CacheUse:
        return self.pool.use(session)

    def keep_texts(self, session: str, documents: Sequence[Document]) -> None:
        digests = {document.digest for document in documents}
        with self._encoding:
            known = self._encoded.get(session, {})
            self._encoded[session] = {digest: text for digest, text in known.items() if digest in digests}

    def forget(self, session: str) -> None:
        self.pool.forget(session)
        with self._encoding:
            self._encoded.pop(session, None)

    def save_cache(self, session: str, documents: Sequence[Document], path: str | Path) -> Path:
        """The documents' cache as one safetensors file. Raises ChatError where they were not read yet."""
        prompt = self.write(Question(session, tuple(documents), ""))
        held = self.pool.hold(session, prompt.ids[: prompt.frozen])
        if held is None:
            raise ChatError("These documents have not been read yet: ask a question first, then save.")
        try:
            return kv_files.save(held, prompt.frozen, self._binding(documents), path)
        finally:
            self.pool.give_back(held)

    def load_cache(self, session: str, documents: Sequence[Document], path: str | Path) -> int:
        """Tokens that need not be read again. Raises ChatError for a file of another model or documents."""
        prompt = self.write(Question(session, tuple(documents), ""))
        ids = prompt.ids[: prompt.frozen]
        reader = kv_files.open_checked(path, self._binding(documents), ids)
        held = self.pool.add(session, prompt.frozen)
        try:
            kv_files.fill(reader, held, self.model)
            held.ids, held.frozen = ids, prompt.frozen
            held.documents = documents_of([document.name for document in documents], prompt.spans)
        except BaseException:
            held.session = ""  # nothing half loaded is left
            raise
        finally:
            self.pool.give_back(held)
        return prompt.frozen

    def _binding(self, documents: Sequence[Document]) -> dict[str, str]:
        """What a saved cache belongs to."""
        tokenizer = self.tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        made_by = (
            backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
        )
        return {
            "model": _digest(json.dumps(self._base.identity(), sort_keys=True, default=str)),
            "dtype": str(self.model.dtype),
            "tokenizer": _digest(made_by),
            "template": _digest(f"{self.writer.style}\0{tokenizer.chat_template}"),
            "documents": ",".join(document.digest for document in documents),
        }

    def _check_window(self, prompt: EncodedPrompt, options: Options) -> None:
        if self.window is not None and len(prompt.ids) + options.max_new_tokens > self.window:
            raise DoesNotFit(
                f"Documents, conversation and question are {len(prompt.ids):,} tokens; with "
                f"{options.max_new_tokens:,} for the answer that is "
                f"{len(prompt.ids) + options.max_new_tokens - self.window:,} more than the model's window of "
                f"{self.window:,}."
            )

    def _answer(
        self,
        held: Held,
        prompt: EncodedPrompt,
        reused: int,
        question: Question,
        options: Options,
        stop: threading.Event,
    ) -> Iterator[Event]:
        started = time.monotonic()
        logits = None
        for latest, progress in self._read(held, prompt, reused, stop):
            logits = latest
            yield progress
        if stop.is_set() or logits is None:
            spent = time.monotonic() - started
            yield Reply("", "stopped", len(prompt.ids), reused, 0, None, spent, ids=())
            return
        ids: list[int] = list(self.writer.answer_start)
        text, first = TokenText(self.tokenizer), None
        pieces = [text.add(token) for token in ids]
        if pieces:
            yield Piece("".join(pieces))
        finish: FinishReason = "length"
        for token, reason in self._write(held, logits, options, stop):
            first, finish = first or time.monotonic() - started, reason
            if token is not None:
                ids.append(token)
                if piece := text.add(token):
                    pieces.append(piece)
                    yield Piece(piece)
        if piece := text.rest():
            pieces.append(piece)
            yield Piece(piece)
        spent = time.monotonic() - started
        written = ids[len(self.writer.answer_start) :]
        passages = self._passages(held, prompt, written, question, options)
        yield Reply(
            "".join(pieces),
            finish,
            len(prompt.ids),
            reused,
            len(written),
            first,
            spent,
            tuple(ids),
            passages,
        )

    def _read(
        self, held: Held, prompt: EncodedPrompt, reused: int, stop: threading.Event
    ) -> Iterator[tuple[torch.Tensor | None, Prefill]]:
        """The logits after each pass; each pass leaves the cache whole, so that a stopped reading goes on."""
        ids, total, at = prompt.ids, len(prompt.ids), reused
        remaining = Remaining(total)
        yield None, Prefill(at, total, reused, None)
        while at < total and not stop.is_set():
            end = min(total, at + self._chunk_size(at, total))
            if at < prompt.frozen < end:
                end = prompt.frozen  # the state here is what every question begins from
            began = time.monotonic()
            logits = self._next(held, ids[at:end])
            remaining.add(at, end - at, time.monotonic() - began)
            held.ids = ids[:end]
            if end == prompt.frozen:
                held.keep_state()
            at = end
            yield logits, Prefill(at, total, reused, remaining.seconds())

    def _write(
        self, held: Held, logits: torch.Tensor, options: Options, stop: threading.Event
    ) -> Iterator[tuple[int | None, FinishReason]]:
        choose = _chooser(options, self.model.device)
        for written in range(options.max_new_tokens):
            if stop.is_set():
                yield None, "stopped"
                return
            token = choose(logits)
            if token in self._base.stop_ids:
                yield None, "stop"
                return
            yield token, "length"
            if written + 1 < options.max_new_tokens:
                logits = self._next(held, np.array([token]))
                held.ids = np.append(held.ids, np.int32(token))

    def _next(self, held: Held, ids: np.ndarray) -> torch.Tensor:
        """[1, V] logits behind these tokens."""
        input_ids = torch.from_numpy(ids.astype(np.int64))[None].to(self.model.device)
        with self._pass, torch.inference_mode():
            return self._base.next_logits(input_ids, held.cache)

    def _chunk_size(self, start: int, total: int) -> int:
        if self._chunk is not None:
            return self._chunk
        if self.model.device.type == "cpu":
            return CPU_CHUNK
        return memory.prefill_chunk(total, self.model.config._attn_implementation or "", start=start)

    def _passages(
        self, held: Held, prompt: EncodedPrompt, ids: Sequence[int], question: Question, options: Options
    ) -> tuple[Any, ...]:
        if not options.passages or not ids or not prompt.spans:
            return ()
        encoded = [self.encode(question.session, document) for document in question.documents]
        with self._pass:
            return passages_by_attention(
                self.model, self.writer.plain, held, prompt, encoded, ids, count=options.passages
            )


def _chooser(options: Options, device: torch.device) -> Callable[[torch.Tensor], int]:
    if options.temperature <= 0:
        return lambda logits: int(logits.argmax(dim=-1))
    generator = torch.Generator(device=device)
    generator.manual_seed(options.seed if options.seed is not None else generator.seed() % 2**63)
    warpers: Any = [TemperatureLogitsWarper(options.temperature)]
    if options.top_p < 1:
        warpers.append(TopPLogitsWarper(options.top_p))
    warp = LogitsProcessorList(warpers)

    def draw(logits: torch.Tensor) -> int:
        before: Any = torch.empty(1, 0, dtype=torch.long, device=logits.device)
        scores = warp(before, logits.float())
        return int(torch.multinomial(scores.softmax(dim=-1), 1, generator=generator))

    return draw


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
