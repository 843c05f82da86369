"""Answers written anew by a stronger model: what it will cost, then many requests at once, each kept at once.

Answers received are lines of a ledger, found again by a digest of the request: a run that was stopped, or a
blend of other quotas, asks for none of them twice.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from ultralong_hf.data.instructions.encoding import ChatEncoder
from ultralong_hf.data.instructions.formats import Messages
from ultralong_hf.data.reading.records import digest
from ultralong_hf.endpoint import EndpointClient
from ultralong_hf.errors import ConversationError, EndpointError
from ultralong_hf.recipes.schema import RewriteSection

FAILED, CUT = "rewrite_failed", "rewrite_cut"
_CHECK_FROM = 20
"""Answers from which on the share of failures is looked at."""


@dataclass(frozen=True)
class Estimate:
    """What the answers will take, by the tokens of the original ones."""

    requests: int
    prompt_tokens: int
    completion_tokens: int
    most_completion_tokens: int
    """If each answer is as long as it may be."""
    usd: float | None
    most_usd: float | None
    """None where the recipe names no prices."""

    def lines(self, section: RewriteSection) -> list[str]:
        text = [
            f"to write anew by {section.model} at {section.base_url}: {self.requests:,} answers",
            f"prompts: about {self.prompt_tokens:,} tokens; answers: about {self.completion_tokens:,} if "
            f"they are as long as the original ones, {self.most_completion_tokens:,} at most",
        ]
        if self.usd is None:
            text.append("cost: unknown, the recipe names no prices (rewrite.usd_per_million_...)")
        else:
            text.append(f"cost: about {self.usd:,.2f} USD, {self.most_usd:,.2f} at most")
        return text


@dataclass
class Usage:
    """As the server counts, this run and earlier ones that the ledger holds."""

    requests: int = 0
    from_ledger: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def add(self, other: Usage) -> None:
        for f in fields(self):
            setattr(self, f.name, getattr(self, f.name) + getattr(other, f.name))


@dataclass
class Rewritten:
    """One conversation with new answers, or the reason why it has none."""

    messages: Messages | None = None
    reason: str = ""
    detail: str = ""
    usage: Usage = field(default_factory=Usage)


def estimate(
    conversations: Sequence[Messages], section: RewriteSection, encoder: ChatEncoder, ledger: Ledger
) -> Estimate:
    """What is left to ask for; tokens are those of this project's tokenizer, not of the other model's."""
    prompts = completions = requests = 0
    for messages in conversations:
        text, spans = encoder.render(messages)
        turns = spans if section.turns == "all" else spans[-1:]
        if ledger.has_all(messages, section):
            continue
        counts = encoder.count([text[:start] for start, _ in turns] + [text[s:e] for s, e in turns])
        prompts += sum(counts[: len(turns)])
        completions += sum(counts[len(turns) :])
        requests += len(turns)
    most = requests * section.max_tokens
    return Estimate(
        requests,
        prompts,
        completions,
        most,
        _usd(section, prompts, completions),
        _usd(section, prompts, most),
    )


def _usd(section: RewriteSection, prompts: int, completions: int) -> float | None:
    prices = (section.usd_per_million_prompt_tokens, section.usd_per_million_completion_tokens)
    if None in prices:
        return None
    return (prompts * float(prices[0] or 0) + completions * float(prices[1] or 0)) / 1e6


@dataclass
class Ledger:
    """Answers received, a line each. A last line that was cut off is left out, and asked for again."""

    path: Path
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _file: IO[bytes] | None = None

    def __post_init__(self) -> None:
        if not self.path.is_file():
            return
        whole = 0
        with self.path.open("rb") as lines:
            for line in lines:
                try:
                    entry = json.loads(line) if line.endswith(b"\n") else {}
                    self.answers[entry["key"]] = entry
                except (ValueError, KeyError, TypeError):
                    break
                whole += len(line)
            rest = self.path.stat().st_size - whole
        if rest:
            self._drop_tail(whole)

    def _drop_tail(self, whole: int) -> None:
        with self.path.open("rb") as lines:
            lines.seek(whole)
            if lines.read().count(b"\n") > 1:
                raise ConversationError(
                    f"{self.path} is damaged in the middle (after {whole:,} bytes). Repair that line, or "
                    "delete the file to ask for all answers again."
                )
        os.truncate(self.path, whole)

    def has_all(self, messages: Messages, section: RewriteSection) -> bool:
        """Whether every answer to this conversation is here."""
        return _replay(messages, section, self) is not None

    def add(self, key: str, entry: dict[str, Any]) -> None:
        line = json.dumps({"key": key, **entry}, ensure_ascii=False).encode("utf-8", "backslashreplace")
        with self._lock:
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self.path.open("ab")
            self._file.write(line + b"\n")
            self._file.flush()
            self.answers[key] = entry

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def rewrite(
    conversations: Sequence[Messages],
    section: RewriteSection,
    ledger: Ledger,
    *,
    client: EndpointClient | None = None,
) -> tuple[list[Rewritten], Usage]:
    """Each conversation with its answers written anew, in order, and what it took.

    A request that fails for good costs its conversation; more failures than `max_failed_share` raise
    EndpointError. What was received stays in the ledger whatever happens.
    """
    own = client is None
    client = client or EndpointClient(
        section.base_url,
        api_key_env=section.api_key_env,
        timeout=section.timeout,
        retries=section.retries,
        connections=section.concurrency,
    )
    usage = Usage()
    results: list[Rewritten | None] = [None] * len(conversations)
    failures = _Failures(section.max_failed_share, len(conversations))
    bar = tqdm(total=len(conversations), desc="answers", unit=" conversations", disable=None)
    try:
        with bar, ThreadPoolExecutor(section.concurrency) as pool:
            for number, result in _in_flight(pool, conversations, section, ledger, client):
                results[number] = result
                usage.add(result.usage)
                bar.update()
                failures.add(result)
    finally:
        ledger.close()
        if own:
            client.close()
    return [result for result in results if result is not None], usage


def _in_flight(
    pool: ThreadPoolExecutor,
    conversations: Sequence[Messages],
    section: RewriteSection,
    ledger: Ledger,
    client: EndpointClient,
) -> Iterator[tuple[int, Rewritten]]:
    """(number, result) as they come; no more are submitted than run at once, so that a stop loses few."""
    waiting = iter(enumerate(conversations))
    running: dict[Future[Rewritten], int] = {}
    try:
        while True:
            while len(running) < section.concurrency and (item := next(waiting, None)) is not None:
                task = pool.submit(_rewrite_one, item[1], section, ledger, client)
                running[task] = item[0]
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for task in done:
                yield running.pop(task), task.result()
    finally:
        for task in running:
            task.cancel()


def _rewrite_one(
    messages: Messages, section: RewriteSection, ledger: Ledger, client: EndpointClient
) -> Rewritten:
    result = Rewritten()
    new = list(messages)
    for turn in _turns(messages, section):
        request = _request(new[:turn], section)
        key = digest([section.model, request])
        entry = ledger.answers.get(key)
        result.usage.from_ledger += entry is not None
        if entry is None:
            try:
                entry = asdict(client.chat(section.model, **request))
            except EndpointError as error:
                result.reason, result.detail = FAILED, error.faults[0]
                return result
            ledger.add(key, entry)
            result.usage.requests += 1
        result.usage.prompt_tokens += entry["prompt_tokens"] or 0
        result.usage.completion_tokens += entry["completion_tokens"] or 0
        if entry["finish_reason"] == "length":
            result.reason, result.detail = CUT, f"the answer was cut at {section.max_tokens:,} tokens."
            return result
        if not entry["text"].strip():
            result.reason, result.detail = FAILED, f"the answer is blank ({entry['finish_reason']})."
            return result
        new[turn] = {"role": "assistant", "content": entry["text"]}
    result.messages = new
    return result


def _replay(messages: Messages, section: RewriteSection, ledger: Ledger) -> Messages | None:
    """The conversation by the ledger alone; None where it lacks an answer. One cut or blank ends it too."""
    new = list(messages)
    for turn in _turns(messages, section):
        entry = ledger.answers.get(digest([section.model, _request(new[:turn], section)]))
        if entry is None:
            return None
        if entry["finish_reason"] == "length" or not entry["text"].strip():
            return new
        new[turn] = {"role": "assistant", "content": entry["text"]}
    return new


def _turns(messages: Messages, section: RewriteSection) -> list[int]:
    answers = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
    return answers if section.turns == "all" else answers[-1:]


def _request(history: Messages, section: RewriteSection) -> dict[str, Any]:
    """The keys of a chat completion that decide the answer."""
    if section.system is not None:
        own = [message["content"] for message in history if message["role"] == "system"]
        history = [
            {"role": "system", "content": "\n\n".join([section.system, *own])},
            *(message for message in history if message["role"] != "system"),
        ]
    request: dict[str, Any] = {"messages": history, section.token_limit_key: section.max_tokens}
    if section.temperature is not None:
        request["temperature"] = section.temperature
    return request


@dataclass
class _Failures:
    """Ends the run where too many requests fail, or all of the first ones."""

    most: float
    total: int
    count: int = 0
    seen: int = 0
    first: str = ""

    def add(self, result: Rewritten) -> None:
        self.seen += 1
        if result.reason != FAILED:
            return
        self.count += 1
        self.first = self.first or result.detail
        none_came = self.most < 1 and self.count == self.seen >= min(_CHECK_FROM, self.total)
        if none_came or self.count > self.most * self.total:
            raise EndpointError(
                f"{self.count:,} of {self.seen:,} conversations got no answer; rewrite.max_failed_share "
                f"allows {self.most:g} of {self.total:,}. The first: {self.first} What was received is kept; "
                "run the same command again to go on."
            )
