"""`ServerEngine`: any OpenAI-compatible server, such as vLLM, SGLang, TGI or `transformers serve`."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import httpx2

from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.engines.base import Answer, Prompt, check_window
from ultralong_hf.evaluation.engines.forms import PATHS, Form, make_request, read_answer
from ultralong_hf.evaluation.engines.requests import UNREACHABLE, JsonClient, Reply
from ultralong_hf.evaluation.tasks import Sample, nearest

T = TypeVar("T")

KEY_VARIABLES = ("ULTRALONG_ENGINE_KEY", "OPENAI_API_KEY")
DEFAULT_CONCURRENCY = 8
# Reading 1M tokens takes an 8B model about a minute on 8 GPUs, and a queue stands before it.
DEFAULT_TIMEOUT = 1_800.0
ATTEMPTS = 6
TRIAL = "one two three four"


class ServerEngine:
    """Asks a server, `concurrency` prompts at a time; retries what may pass, counts what does not.

    base_url: such as "http://127.0.0.1:8000/v1". model: its name there; None: the only one it serves.
    Prompts go as token ids where the server takes them, else as text, else as chat messages: `form` says
    which. The API key is read from ULTRALONG_ENGINE_KEY or OPENAI_API_KEY. timeout: seconds a prompt.
    Raises EvaluationError for a server that is not there, refuses the key, or does not serve the model.
    """

    def __init__(
        self,
        base_url: str,
        model: str | None = None,
        *,
        tokenizer: Any,
        concurrency: int | None = None,
        timeout: float | None = None,
        attempts: int = ATTEMPTS,
        beyond_window: bool = False,
    ) -> None:
        if concurrency is not None and concurrency < 1:
            raise EvaluationError(f"concurrency={concurrency} must be at least 1.")
        if timeout is not None and timeout <= 0:
            raise EvaluationError(f"timeout={timeout:g} must be more than 0 seconds.")
        self.url = base_url.rstrip("/")
        if not self.url.endswith("/v1"):
            self.url += "/v1"
        self.tokenizer = tokenizer
        self.beyond_window = beyond_window
        self.concurrency = concurrency or DEFAULT_CONCURRENCY
        key = next((os.environ[name] for name in KEY_VARIABLES if os.environ.get(name)), None)
        self._client = JsonClient(
            self.url, key=key, attempts=attempts, timeout=DEFAULT_TIMEOUT if timeout is None else timeout
        )
        served = self._run(self._served)
        self.model, entry = _choose(served, model, self.url)
        self.root = str(entry.get("root") or self.model)
        limit = entry.get("max_model_len")
        self.window: int | None = int(limit) if isinstance(limit, int) else None
        self.form: Form = self._run(self._find_form)

    @property
    def notes(self) -> list[str]:
        """For the report: who answered, and how it was asked."""
        return [f"Answers are of the model {self.model!r} at {self.url}; prompts were sent as {self.form}."]

    def batch_size(self, prompt_tokens: int, max_new_tokens: int) -> int:
        """Twice what runs at a time, so that no slot waits long for the slowest of a batch."""
        return 2 * self.concurrency

    def identity(self) -> dict[str, Any]:
        """What the server says of itself: not its weights."""
        return {"engine": self.url, "model": self.model, "root": self.root, "prompts": self.form}

    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[Answer]:
        return self.answer(
            [
                Sample(
                    task="",
                    length=len(prompt),
                    sample=index,
                    ids=prompt,
                    references=(),
                    max_new_tokens=max_new_tokens,
                )
                for index, prompt in enumerate(prompts)
            ]
        )

    def answer(self, samples: Sequence[Sample]) -> list[Answer]:
        """One Answer a sample, in their order; one that could not be had names its failure."""
        for sample in samples:
            check_window(
                len(sample.ids) + sample.max_new_tokens, self.window, beyond_window=self.beyond_window
            )

        async def ask_all(client: httpx2.AsyncClient) -> list[Answer]:
            free = asyncio.Semaphore(self.concurrency)

            async def ask(sample: Sample) -> Answer:
                async with free:
                    return await self._ask(client, sample)

            return await asyncio.gather(*map(ask, samples))

        return self._run(ask_all)

    async def _ask(self, client: httpx2.AsyncClient, sample: Sample) -> Answer:
        request = await asyncio.to_thread(make_request, sample, self.form, self.tokenizer, self.model)
        if request is None:
            return Answer(failure="the server takes chat messages only, and the prompt has no such form")
        reply = await self._client.send(client, "POST", PATHS[self.form], request.body)
        if reply.content is None:
            return Answer(failure=reply.fault, fatal=_is_gone(reply))
        answer = read_answer(reply.content, self.form, sample.max_new_tokens, self.tokenizer)
        return Answer(answer.text, answer.failure, (*request.notes, *answer.notes))

    async def _served(self, client: httpx2.AsyncClient) -> list[Mapping[str, Any]]:
        reply = await self._client.send(client, "GET", "/models", attempts=2)
        if reply.status in (401, 403):
            raise EvaluationError(
                f"{self.url} refuses the key ({reply.fault}): set {' or '.join(KEY_VARIABLES)}."
            )
        if reply.content is None and reply.status is None:
            raise EvaluationError(f"{self.url}: {reply.fault}. Is the server running there?")
        listed = (reply.content or {}).get("data") or []
        return [entry for entry in listed if isinstance(entry, dict) and "id" in entry]

    async def _find_form(self, client: httpx2.AsyncClient) -> Form:
        """The first form that the server takes, tried on a few tokens: it must count what was sent."""
        ids = list(self.tokenizer(TRIAL, add_special_tokens=False)["input_ids"])
        small = {"model": self.model, "max_tokens": 1, "temperature": 0.0, "stream": False}
        bodies: dict[Form, dict[str, Any]] = {
            "token ids": small | {"prompt": ids},
            "text": small | {"prompt": TRIAL},
            "chat messages": small | {"messages": [{"role": "user", "content": TRIAL}]},
        }
        faults = []
        for form, body in bodies.items():
            reply = await self._client.send(client, "POST", PATHS[form], body)
            fault = reply.fault or read_answer(reply.content or {}, form, 1, self.tokenizer).failure
            counted = ((reply.content or {}).get("usage") or {}).get("prompt_tokens")
            if not fault and form == "token ids" and counted not in (None, len(ids)):
                fault = f"the server counts {counted} tokens where {len(ids)} were sent"
            if not fault:
                return form
            faults.append(f"{form}: {fault}")
        raise EvaluationError(f"{self.url} answers no prompt of the model {self.model!r}.", *faults)

    def _run(self, job: Callable[[httpx2.AsyncClient], Coroutine[Any, Any, T]]) -> T:
        async def with_client() -> T:
            async with self._client.open() as client:
                return await job(client)

        return _run_async(with_client)


def _is_gone(reply: Reply) -> bool:
    """Whether asking anything more is useless, rather than this prompt."""
    return reply.status in (401, 403, 404) or reply.fault.startswith(UNREACHABLE)


def _choose(
    served: Sequence[Mapping[str, Any]], model: str | None, url: str
) -> tuple[str, Mapping[str, Any]]:
    entries = {str(entry["id"]): entry for entry in served}
    if model is not None:
        return model, entries.get(model, {})  # servers load what they do not list: the first prompt will tell
    if len(entries) == 1:
        return next(iter(entries.items()))
    if not entries:
        raise EvaluationError(f"{url} lists no model: name one with engine_model= (--engine-model).")
    raise EvaluationError(
        f"{url} serves several models: name one with engine_model= (--engine-model). {nearest('', entries)}"
    )


def _run_async(job: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """asyncio.run, in a thread of its own where a loop runs already, as it does in notebooks."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(job())
    outcome: list[T] = []
    faults: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(asyncio.run(job()))
        except BaseException as error:  # handed over to the caller's thread
            faults.append(error)

    thread = threading.Thread(target=run, name="ultralong-server-engine")
    thread.start()
    thread.join()
    if faults:
        raise faults[0]
    return outcome[0]
