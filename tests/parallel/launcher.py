"""Processes that stay: each imports torch once, and then runs many cases as one rank of a gloo group."""

import itertools
import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from typing import Any

_FIRST_PORT, _PORTS_PER_WORKER = 16_000, 2_000
"""Below the ports that systems give to outgoing connections."""
_PORTS = itertools.count(os.getpid() * 61)


class RankError(AssertionError):
    """A rank raised; the message holds its traceback."""


RUNS_PER_PROCESS = 24
"""gloo keeps some of the threads of each group until the process ends; thousands of them slow all down."""


class Workers:
    """As many processes as are asked for. They start when needed, and anew after a failure or 24 cases."""

    def __init__(self, timeout: float = 120.0) -> None:
        self.timeout = timeout
        self._context = multiprocessing.get_context("spawn")
        self._ranks: list[tuple[Any, Any]] = []
        self._runs = 0

    def run(self, size: int, function: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Any]:
        """What `function` returns on each of `size` ranks. It makes the process group, this destroys it.

        `function` must be importable. Raises RankError with the first rank's traceback. A rank that does not
        answer in `timeout` seconds ends all.
        """
        if self._runs >= RUNS_PER_PROCESS or not all(process.is_alive() for process, _ in self._ranks):
            self.stop()
        self._runs += 1
        while len(self._ranks) < size:
            self._ranks.append(self._start())
        port = _free_port()
        for rank, (_, pipe) in enumerate(self._ranks[:size]):
            pipe.send((function, args, kwargs, rank, size, port))
        answers = [self._answer(rank) for rank in range(size)]
        failed = [(rank, text) for rank, (ok, text) in enumerate(answers) if not ok]
        if failed:
            self.stop()  # the others may be out of step
            rank, text = failed[0]
            raise RankError(f"rank {rank} of {size}:\n{text}")
        return [value for _, value in answers]

    def stop(self) -> None:
        for process, pipe in self._ranks:
            pipe.close()
            process.terminate()
            process.join()
        self._ranks = []
        self._runs = 0

    def _start(self) -> tuple[Any, Any]:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs,), daemon=True)
        process.start()
        theirs.close()
        return process, ours

    def _answer(self, rank: int) -> tuple[bool, Any]:
        _, pipe = self._ranks[rank]
        try:
            if pipe.poll(self.timeout):
                return pipe.recv()
        except (EOFError, OSError):
            return False, "the process died."
        return False, f"no answer within {self.timeout:g} s."


def _serve(pipe: Any) -> None:
    """Runs cases until the pipe closes."""
    import torch

    torch.set_num_threads(1)
    while True:
        try:
            function, args, kwargs, rank, size, port = pipe.recv()
        except EOFError:
            return
        _become(rank, size, port)
        try:
            answer = True, function(*args, **kwargs)
        except BaseException:
            answer = False, traceback.format_exc()
        finally:
            _leave_group()
        pipe.send(answer)


def _become(rank: int, size: int, port: int) -> None:
    """The environment of a launcher; one process has none."""
    values = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in {**values, **address}.items():
        if size > 1:
            os.environ[name] = str(value)
        else:
            os.environ.pop(name, None)


def _leave_group() -> None:
    """A fresh start for the next case: no process group, and an accelerate that remembers none."""
    import torch.distributed as dist
    from accelerate.state import AcceleratorState

    if dist.is_initialized():
        dist.destroy_process_group()
    AcceleratorState._reset_state(reset_partial_state=True)


def _free_port() -> int:
    """A port of this test process's own: two that run at once must not find the same one free.

    Workers of one run have ranges of their own; other runs start elsewhere in them.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    for port in _PORTS:
        candidate = _FIRST_PORT + worker % 8 * _PORTS_PER_WORKER + port % _PORTS_PER_WORKER
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", candidate))
            except OSError:
                continue
            return candidate
    raise AssertionError("the ports never end")
