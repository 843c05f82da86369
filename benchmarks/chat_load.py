"""Many users of the chat's page at once: no error, no answer of another's document, memory bounded.

python benchmarks/chat_load.py [--quick] [--users 20] [--seconds 120] [--lab outputs/quickstart]

The page is served by a process of its own over the lab's model. Each user speaks to it as a browser does
(events and their streams over HTTP), uploads a document of their own whose facts no other has, asks for them
in turn, edits a question now and then, and leaves and comes back once on the way. An answer that holds a
value of another user's document is mixed. What the model itself gets wrong is counted apart. Memory is the
server's resident set; its growth is the highest of the second half against that of the first.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import secrets
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch loads

import httpx2
from gradio_client.utils import apply_diff

from ultralong_hf.lab.facts import Fact, draw_facts

FACTS = 12
WORDS = ("salt", "rope", "lamp", "stone", "tide", "bell", "wind", "bread", "chart", "glass", "boat", "wool")
MOST_GROWTH = 1.1
CACHE_BYTES = 256 * 1024**2
_VALUE = re.compile(r"\b\d{5}\b")


@dataclass
class Findings:
    """What all users met; threads add to it under the lock."""

    seconds: list[float] = field(default_factory=list)
    right: int = 0
    wrong: int = 0
    mixed: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    lock: Any = field(default_factory=threading.Lock)


class Browser:
    """A tab: Gradio's events by the names of the components that they belong to."""

    def __init__(self, url: str) -> None:
        self.http = httpx2.Client(base_url=url, timeout=120.0)
        self.config = self.http.get("/config").json()
        self.ids = {
            part["props"].get("elem_id") or part["props"].get("value"): part["id"]
            for part in self.config["components"]
            if isinstance(part["props"].get("elem_id") or part["props"].get("value"), str)
        }
        self.tab = secrets.token_hex(8)
        self._alive = threading.Event()
        self._beat = threading.Thread(target=self._stay, daemon=True)
        self._beat.start()

    def upload(self, name: str, text: str, max_tokens: int) -> dict[str, Any]:
        files = {"files": (name, text.encode(), "text/plain")}
        (path,) = self.http.post("/gradio_api/upload", files=files).raise_for_status().json()
        file = {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}
        return self.event("ul-uploads", "upload", [[file], max_tokens])

    def ask(self, question: str, max_tokens: int) -> dict[str, Any]:
        return self.event("ul-question", "submit", [question, max_tokens, 0])

    def edit(self, index: int, question: str, max_tokens: int) -> dict[str, Any]:
        data = {"index": index, "previous_value": "", "value": question}
        return self.event("ul-chat", "edit", [max_tokens, 0], data)

    def event(self, part: str, name: str, data: list[Any], event_data: Any = None) -> dict[str, Any]:
        """What the event's components hold at its end, by elem_id. Raises RuntimeError for a failure."""
        number, outputs = self._dependency(part, name)
        joined = {
            "fn_index": number,
            "data": data,
            "event_data": event_data,
            "session_hash": self.tab,
            "trigger_id": self.ids[part],
        }
        self.http.post("/gradio_api/queue/join", json=joined).raise_for_status()
        shown: list[Any] = []
        found: dict[int, Any] = {}
        for message in self._messages():
            if message["msg"] not in ("process_generating", "process_completed"):
                continue
            if not message["success"]:
                raise RuntimeError(f"{part} {name}: {message['output']}")
            now = message["output"].get("data") or []
            if message["msg"] == "process_generating" and shown:
                now = [apply_diff(old, edits) for old, edits in zip(shown, now, strict=True)]
            shown = now or shown
            for output, value in zip(outputs, shown, strict=True):
                value = value.get("value", found.get(output)) if _is_update(value) else value
                found[output] = value
            if message["msg"] == "process_completed":
                break
        names = {number: name for name, number in self.ids.items()}
        return {names.get(number, str(number)): value for number, value in found.items()}

    def close(self) -> None:
        self._alive.set()
        self._beat.join()
        self.http.close()

    def _messages(self) -> Iterator[dict[str, Any]]:
        with self.http.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.tab}) as stream:
            for line in stream.iter_lines():
                if line.startswith("data: "):
                    yield json.loads(line[6:])

    def _dependency(self, part: str, name: str) -> tuple[int, list[int]]:
        for number, one in enumerate(self.config["dependencies"]):
            if [self.ids[part], name] in [list(target) for target in one["targets"]]:
                return one.get("id", number), one["outputs"]
        raise RuntimeError(f"{part} has no event {name}")

    def _stay(self) -> None:
        """The connection whose end tells the server that the tab is closed."""
        with (
            httpx2.Client(base_url=self.http.base_url, timeout=None) as http,
            http.stream("GET", f"/gradio_api/heartbeat/{self.tab}"),
        ):
            self._alive.wait()


def _is_update(value: Any) -> bool:
    return isinstance(value, dict) and value.get("__type__") == "update"


def make_document(facts: list[Fact], rng: random.Random) -> str:
    lines = []
    for fact in facts:
        lines += [f"{' '.join(rng.choices(WORDS, k=12)).capitalize()}." for _ in range(4)]
        lines.append(fact.statement)
    return "\n".join(lines) + "\n"


def use(
    number: int, url: str, facts: list[Fact], others: set[str], end: float, leave: float, met: Findings
) -> None:
    """One user until `end`; comes back in a new tab at `leave`."""
    rng = random.Random(number)
    try:
        while time.monotonic() < end:
            browser = Browser(url)
            try:
                shown = browser.upload(f"user-{number}.txt", make_document(facts, rng), 32)
                if "Added" not in str(shown.get("ul-status")):
                    raise RuntimeError(f"upload: {shown.get('ul-status')}")
                until = leave if time.monotonic() < leave else end
                ask_until(browser, facts, others, rng, until, met)
            finally:
                browser.close()
    except Exception as error:
        with met.lock:
            met.errors.append(f"user {number}: {type(error).__name__}: {error}")


def ask_until(
    browser: Browser, facts: list[Fact], others: set[str], rng: random.Random, until: float, met: Findings
) -> None:
    turns = 0
    while time.monotonic() < until:
        fact = rng.choice(facts)
        began = time.monotonic()
        if turns and rng.random() < 0.2:
            shown = browser.edit(2 * turns - 2, fact.question, 32)
        else:
            shown = browser.ask(fact.question, 32)
            turns += 1
        seconds = time.monotonic() - began
        text = _text(shown["ul-chat"][-1])
        values = set(_VALUE.findall(text))
        with met.lock:
            met.seconds.append(seconds)
            if "ul-problem" in str(shown.get("ul-status")):
                met.errors.append(str(shown["ul-status"]))
            elif values & others:
                met.mixed.append(text)
            elif fact.value in values:
                met.right += 1
            else:
                met.wrong += 1
        if turns == 12:  # the window is 4,096 tokens: a new chat over the same document
            browser.event("ul-new-chat", "click", [32])
            turns = 0


def _text(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)


def serve_lab(folder: Path) -> None:
    """The server's process: prints its address, and serves until its input is closed."""
    from ultralong_hf.chat.engine import Options
    from ultralong_hf.chat.opening import LAB_ANSWER_START, open_chat_engine
    from ultralong_hf.chat.page.serving import serve
    from ultralong_hf.chat.session import ChatService

    engine, recall = open_chat_engine(
        folder / "model", style="bare", answer_start=LAB_ANSWER_START, cache_bytes=CACHE_BYTES
    )
    service = ChatService(engine, recall=recall, options=Options(max_new_tokens=32))
    served = serve(service, say=lambda text: None)
    print(served.url, flush=True)
    sys.stdin.read()
    print(json.dumps({"rooms": len(served.rooms), "sessions": service.sessions}), flush=True)
    served.close()


def resident_bytes(process: int) -> int:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def measure(users: int, seconds: float, lab: Path) -> tuple[Findings, list[int], dict[str, int]]:
    """(findings, the server's resident set each second, rooms and sessions left when all users are gone)."""
    command = [sys.executable, __file__, "--serve", "--lab", str(lab)]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    assert server.stdin is not None
    try:
        url = server.stdout.readline().strip()
        facts = draw_facts(random.Random(0), users * FACTS)
        assert len({fact.value for fact in facts}) == len(facts), "two users would share a value"
        shares = [facts[number * FACTS : (number + 1) * FACTS] for number in range(users)]
        values = {fact.value for fact in facts}
        met, memory, began = Findings(), [], time.monotonic()
        threads = [
            threading.Thread(
                target=use,
                args=(
                    number,
                    url,
                    share,
                    values - {fact.value for fact in share},
                    began + seconds,
                    began + seconds * (0.3 + 0.4 * number / users),
                    met,
                ),
            )
            for number, share in enumerate(shares)
        ]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            memory.append(resident_bytes(server.pid))
            time.sleep(1.0)
        time.sleep(2.0)  # the server hears that the tabs are closed
        left, _ = server.communicate(timeout=60)
        return met, memory, json.loads(left)
    finally:
        server.kill()
        server.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="5 users for 15 seconds")
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--lab", type=Path, help="a quickstart's folder (default: the lab's own)")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.lab is None:
        from ultralong_hf.chat.default_model import lab_model

        args.lab = lab_model()
    if args.serve:
        serve_lab(args.lab)
        return
    users, seconds = (5, 15.0) if args.quick else (args.users, args.seconds)
    print(f"{users} users, {seconds:.0f} s, {os.cpu_count()} cores; load {os.getloadavg()[0]:.1f} before")
    met, memory, left = measure(users, seconds, args.lab)
    half = len(memory) // 2
    growth = max(memory[half:]) / max(memory[:half])
    middle = statistics.median(met.seconds) if met.seconds else float("nan")
    print(
        f"{len(met.seconds)} answers: {met.right} right, {met.wrong} wrong, {len(met.mixed)} mixed, "
        f"{len(met.errors)} errors; {middle:.2f} s (median), {max(met.seconds, default=0):.2f} s at most"
    )
    print(
        f"memory: {max(memory[:half]) / 1024**2:.0f} MiB at most in the first half, "
        f"{max(memory[half:]) / 1024**2:.0f} in the second; left: {left}"
    )
    for text in [*met.errors[:5], *met.mixed[:5]]:
        print(f"  {text}")
    ratios = {
        "errors": len(met.errors),
        "mixed": len(met.mixed),
        "memory_growth": round(growth, 3),
        "sessions_left": left["sessions"],
    }
    targets = {"errors": 0, "mixed": 0, "memory_growth": MOST_GROWTH, "sessions_left": 0}  # at most
    met_all = bool(met.seconds) and all(ratios[name] <= targets[name] for name in targets)
    print(json.dumps({"benchmark": "chat_load", "ratios": ratios, "targets": targets, "met": met_all}))


if __name__ == "__main__":
    main()
