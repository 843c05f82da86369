"""JSON over HTTP that may fail: retried with back-off, bounded in time, and never half an answer."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx2

RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
LONGEST_RETRY_AFTER = 120.0
MESSAGE_CHARACTERS = 300
UNREACHABLE = "the server cannot be reached"


@dataclass(frozen=True)
class Reply:
    """What a request came to: the JSON object of a 200, or why there is none."""

    content: Mapping[str, Any] | None = None
    status: int | None = None
    """Of the last response; None where the server could not be reached."""
    fault: str = ""


class JsonClient:
    """Posts JSON to one server. attempts: of each request; timeout: seconds an attempt, all of it."""

    def __init__(self, base_url: str, *, key: str | None, attempts: int, timeout: float) -> None:
        self.base_url, self.attempts, self.timeout = base_url.rstrip("/"), attempts, timeout
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def open(self) -> httpx2.AsyncClient:
        """The connections of one event loop."""
        loopback = httpx2.URL(self.base_url).host in ("localhost", "127.0.0.1", "::1")
        return httpx2.AsyncClient(
            headers=self._headers,
            timeout=httpx2.Timeout(self.timeout, connect=min(10.0, self.timeout)),
            limits=httpx2.Limits(max_connections=None),
            trust_env=not loopback,  # no proxy stands between this machine and itself
        )

    async def send(
        self,
        client: httpx2.AsyncClient,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        attempts: int | None = None,
    ) -> Reply:
        """The reply, after as many attempts as it takes; a timeout is tried once more only."""
        wait, timeouts, last = FIRST_WAIT, 0, attempts or self.attempts
        for attempt in range(1, last + 1):
            reply, asked_wait, retried = await self._try(client, method, path, body)
            timeouts += reply.fault.startswith("no answer within")
            if not retried or timeouts > 1 or attempt == last:
                break
            await asyncio.sleep(asked_wait if asked_wait is not None else wait * random.uniform(0.5, 1.0))
            wait = min(2 * wait, LONGEST_WAIT)
        if attempt > 1 and reply.content is None:
            return Reply(None, reply.status, f"{reply.fault} ({attempt} attempts)")
        return reply

    async def _try(
        self, client: httpx2.AsyncClient, method: str, path: str, body: Mapping[str, Any] | None
    ) -> tuple[Reply, float | None, bool]:
        """(reply, seconds that the server asks to wait, whether another attempt may help)."""
        try:
            # Bounded as a whole: a server that drips bytes keeps no attempt alive.
            sent = client.request(method, self.base_url + path, json=body)
            response = await asyncio.wait_for(sent, self.timeout)
        except (asyncio.TimeoutError, httpx2.ReadTimeout, httpx2.WriteTimeout):
            return Reply(fault=f"no answer within {self.timeout:g} s"), None, True
        except httpx2.ConnectError as error:
            return Reply(fault=f"{UNREACHABLE}: {_first_line(error)}"), None, True
        except httpx2.HTTPError as error:
            return Reply(fault=f"the connection was lost: {_first_line(error)}"), None, True
        status = response.status_code
        if status != 200:
            fault = f"{status}: {_error_message(response.text)}"
            return Reply(None, status, fault), _retry_after(response), status in RETRIED
        try:
            content = json.loads(response.content)
        except ValueError:
            content = None
        if not isinstance(content, dict):
            return Reply(None, status, "the reply is no JSON object"), None, True
        return Reply(content, status), None, False


def _retry_after(response: httpx2.Response) -> float | None:
    try:
        return min(LONGEST_RETRY_AFTER, max(0.0, float(response.headers["retry-after"])))
    except (KeyError, ValueError):
        return None


def _error_message(text: str) -> str:
    """The message in the JSON of OpenAI's, FastAPI's or TGI's errors; else the text itself."""
    try:
        content = json.loads(text)
        for name in ("error", "detail", "message"):
            if isinstance(content, dict) and name in content:
                content = content[name]
        if isinstance(content, dict) and "message" in content:
            content = content["message"]
        text = content if isinstance(content, str) else json.dumps(content)
    except ValueError:
        pass
    return " ".join(text.split())[:MESSAGE_CHARACTERS] or "no message"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
