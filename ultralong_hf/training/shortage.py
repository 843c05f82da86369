"""Out of memory: the plan, and the next option with its price, in place of an allocator's traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ultralong_hf.errors import OutOfMemory
from ultralong_hf.planning.plan import Plan
from ultralong_hf.planning.text import gigabytes, summary_lines

_OF_THE_CPU = "DefaultCPUAllocator"
"""In the RuntimeError of torch's allocator for host memory."""


class ExplainsShortage:
    """Mixin of the trainers: `train` ends with OutOfMemory where memory does not suffice."""

    plan: Plan | None = None
    """Set when the trainer is made by a recipe."""

    def train(self, *args: Any, **kwargs: Any) -> Any:
        with explain_shortage(self.plan):
            return super().train(*args, **kwargs)  # type: ignore[misc]


@contextmanager
def explain_shortage(plan: Plan | None) -> Iterator[None]:
    """Turns what torch raises for lack of memory into OutOfMemory, with `plan` where there is one."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not _is_shortage(error):
            raise
        raise OutOfMemory(*shortage_lines(error, plan)) from error


def shortage_lines(error: BaseException, plan: Plan | None) -> list[str]:
    """What ran out, the plan, and what to turn next."""
    first = (str(error).strip() or "no more host memory").splitlines()[0]
    lines = [f"out of memory: {first}"]
    if torch.cuda.is_available():
        lines.append(f"measured: {gigabytes(torch.cuda.max_memory_allocated())} at most so far")
    if plan is None:
        lines.append("`ultralong plan RECIPE` says what each option saves.")
        return lines
    lines += summary_lines(plan)
    following = plan.next_change()
    if following is None:
        lines.append("no option saves more: use shorter rows or more devices.")
    else:
        name = following.key if following.key == "gpus" else f"--{following.key}"
        lines.append(
            f"next: {name} {following.value}, planned {gigabytes(following.total)} a device. "
            f"Price: {following.price}."
        )
    return lines


def _is_shortage(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or _OF_THE_CPU in str(error)
