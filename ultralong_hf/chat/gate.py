"""Who is answered next: first come, first served, a bounded number at a time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator

from ultralong_hf.errors import ChatError


class Gate:
    """Lets `running` in at a time and `waiting` queue."""

    def __init__(self, running: int = 1, waiting: int = 32) -> None:
        if running < 1 or waiting < 0:
            raise ChatError(f"running={running} must be at least 1, and waiting={waiting} at least 0.")
        self.running, self.waiting = running, waiting
        self._inside = 0
        self._queue: deque[object] = deque()
        self._changed = threading.Condition()

    def enter(self, stop: threading.Event) -> Iterator[int]:
        """How many are ahead, whenever that changes; ends once one is let in, or `stop` is set.

        Raises ChatError where the queue is full. Who was let in (`stop` or not) calls `leave`.
        """
        ticket = object()
        with self._changed:
            if self._inside + len(self._queue) >= self.running + self.waiting:
                raise ChatError(
                    f"{self.waiting} questions are waiting, which is the limit: try again in a moment."
                )
            self._queue.append(ticket)
        told = 0
        try:
            while True:
                with self._changed:
                    ahead = self._queue.index(ticket) + max(0, self._inside - self.running + 1)
                    if ahead == 0 or stop.is_set():
                        break
                    if ahead == told:
                        self._changed.wait(0.1)
                        continue
                told = ahead
                yield ahead
        except GeneratorExit:
            with self._changed:
                self._queue.remove(ticket)
                self._changed.notify_all()
            raise
        with self._changed:
            self._queue.remove(ticket)
            self._inside += 1
            self._changed.notify_all()

    def leave(self) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()
