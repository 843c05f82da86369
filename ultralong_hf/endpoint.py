"""A client of OpenAI-compatible servers (OpenAI, vLLM, SGLang, llama.cpp, ...), safe to share among threads.

A key is read from the environment alone, sent in the header alone, and cut out of every message.
"""

from __future__ import annotations

import email.utils
import json
import logging
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ultralong_hf.errors import EndpointError

if TYPE_CHECKING:
    import httpx2

logger = logging.getLogger(__name__)

RETRIED = {408, 409, 425, 429, 500, 502, 503, 504, 529}
"""HTTP statuses of a server that is busy or restarting; others are final."""
LONGEST_WAIT = 120.0
"""Seconds between two attempts, whatever the server asks for."""
_LOCAL = {"localhost", "127.0.0.1", "::1"}
_SHOWN = 300


@dataclass(frozen=True)
class ChatReply:
    """What a server answered to a conversation."""

    text: str
    finish_reason: str
    """stop, length (cut at max_tokens), content_filter, or what else the server says."""
    prompt_tokens: int | None
    completion_tokens: int | None
    """As the server counts; None where it does not."""


class EndpointClient:
    """Requests to one server.

    - `base_url`: with its version, "https://api.openai.com/v1" or "http://127.0.0.1:8000/v1".
    - `api_key_env`: the variable with the key; none, or one that is not set: no key is sent.
    - `timeout`: seconds a request may take. `retries`: further attempts where the server is busy, gone or
      late.
    - `connections`: how many requests may be under way at once; match it to the threads that ask.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key_env: str | None = None,
        timeout: float = 600.0,
        retries: int = 5,
        connections: int = 16,
        transport: httpx2.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        import httpx2

        self.base_url = base_url.rstrip("/")
        url = httpx2.URL(self.base_url)
        if url.scheme not in ("http", "https") or not url.host:
            raise EndpointError(
                f"base_url {base_url!r} is no address of a server: give one such as "
                "https://api.openai.com/v1 or http://127.0.0.1:8000/v1."
            )
        self._key = os.environ.get(api_key_env, "") if api_key_env else ""
        if self._key and url.scheme == "http" and url.host not in _LOCAL:
            logger.warning("the key of %s goes to %s unencrypted (http).", api_key_env, url.host)
        self._key_name = api_key_env
        self._retries = retries
        self._sleep = sleep
        self._client = httpx2.Client(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx2.Timeout(timeout, connect=min(timeout, 30.0)),
            limits=httpx2.Limits(max_connections=connections, max_keepalive_connections=connections),
            transport=transport,
        )

    def __enter__(self) -> EndpointClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    def get(self, path: str) -> dict[str, Any]:
        """The JSON object at `path` under the base URL. Raises EndpointError."""
        return self._request("GET", path, None)

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON object that answers `body`. Raises EndpointError."""
        return self._request("POST", path, body)

    def chat(self, model: str, messages: Sequence[Mapping[str, str]], **options: Any) -> ChatReply:
        """The answer to a conversation; `options`: further keys of the request. Raises EndpointError."""
        answer = self.post("chat/completions", {"model": model, "messages": list(messages), **options})
        try:
            choice, usage = answer["choices"][0], answer.get("usage") or {}
            text = choice["message"].get("content") or ""
            finish = choice.get("finish_reason") or "stop"
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise EndpointError(
                f"{self.base_url}: this is no chat completion: {self._show(answer)}"
            ) from error
        return ChatReply(text, finish, usage.get("prompt_tokens"), usage.get("completion_tokens"))

    def stream(
        self, path: str, body: Mapping[str, Any], *, stopped: Callable[[], bool] = lambda: False
    ) -> Iterator[dict[str, Any]]:
        """The JSON objects of a server-sent event stream, as they come, until "[DONE]".

        Retried as `post` is, but only before the first object: an answer that breaks off is an error.
        `stopped` ends it between two of them; the connection is then closed, which servers take as a stop.
        Raises EndpointError.
        """
        import httpx2

        url = f"{self.base_url}/{path.lstrip('/')}"
        for attempt in range(self._retries + 1):
            begun, wait = False, None
            try:
                with self._client.stream("POST", url, json=body) as response:
                    if response.is_success:
                        for event in self._events(response, url, stopped):
                            begun = True
                            yield event
                        return
                    response.read()
                    fault, wait = (
                        f"HTTP {response.status_code}: {self._show(response.text)}",
                        _asked_wait(response),
                    )
                    if response.status_code not in RETRIED:
                        raise EndpointError(f"{url}: {fault} {self._advice(response.status_code)}".rstrip())
            except httpx2.TransportError as error:
                fault = f"{type(error).__name__}: {error}"
                if begun:
                    raise EndpointError(f"{url}: the answer broke off. {self._show(fault)}") from error
            if stopped():
                return
            if attempt < self._retries:
                self._wait(attempt, wait)
        raise self._gave_up(url, fault)

    def _events(
        self, response: httpx2.Response, url: str, stopped: Callable[[], bool]
    ) -> Iterator[dict[str, Any]]:
        """Each event is one line, `data: {...}`, as all OpenAI-compatible servers write them."""
        for line in response.iter_lines():
            if stopped():
                return
            field, _, data = line.partition(":")
            if field.strip() != "data" or not data.strip():
                continue
            if data.strip() == "[DONE]":
                return
            try:
                event = json.loads(data)
            except ValueError:
                event = None
            if not isinstance(event, dict):
                raise EndpointError(f"{url}: the stream holds no JSON object: {self._show(data)}")
            if event.get("error"):
                raise EndpointError(f"{url}: the server broke off: {self._show(event['error'])}")
            yield event

    def _request(self, method: str, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        import httpx2

        url = f"{self.base_url}/{path.lstrip('/')}"
        for attempt in range(self._retries + 1):
            try:
                response = self._client.request(method, url, json=body)
            except httpx2.TransportError as error:
                fault, wait = f"{type(error).__name__}: {error}", None
            else:
                if response.is_success:
                    return self._parse(response, url)
                fault, wait = (
                    f"HTTP {response.status_code}: {self._show(response.text)}",
                    _asked_wait(response),
                )
                if response.status_code not in RETRIED:
                    raise EndpointError(f"{url}: {fault} {self._advice(response.status_code)}".rstrip())
            if attempt < self._retries:
                self._wait(attempt, wait)
        raise self._gave_up(url, fault)

    def _wait(self, attempt: int, asked: float | None) -> None:
        backoff = min(60.0, 2.0**attempt) * random.uniform(0.5, 1.0)
        self._sleep(min(LONGEST_WAIT, backoff if asked is None else asked))

    def _gave_up(self, url: str, fault: str) -> EndpointError:
        attempts = "1 attempt" if self._retries == 0 else f"{self._retries + 1} attempts"
        return EndpointError(f"{url}: no answer after {attempts}. The last: {self._show(fault)}")

    def _parse(self, response: httpx2.Response, url: str) -> dict[str, Any]:
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise EndpointError(f"{url}: the answer is no JSON object: {self._show(response.text)}")
        return answer

    def _advice(self, status: int) -> str:
        if status in (401, 403):
            name = self._key_name or "an environment variable, and name it as api_key_env"
            return (
                f"Put a valid key into {name}." if not self._key else f"Look at the key in {self._key_name}."
            )
        if status == 404:
            return "Look at the base URL (it ends with /v1 as a rule) and the model's name."
        return ""

    def _show(self, value: Any) -> str:
        """The beginning of what a server said, on one line and without the key."""
        text = " ".join(str(value).split())
        text = text.replace(self._key, "[key]") if self._key else text
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _asked_wait(response: httpx2.Response) -> float | None:
    """Seconds of a Retry-After header: a number, or a date."""
    asked = response.headers.get("retry-after")
    if not asked:
        return None
    try:
        return max(0.0, float(asked))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(asked).timestamp() - time.time())
    except ValueError:
        return None
