"""The rows of an optimizer step over all devices, and the gradient accumulation that follows from them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class GlobalBatch:
    """How many rows make a step, whatever the number of devices."""

    stage: str
    rows: int
    """Of a step; of preferences, pairs."""
    at_once: int
    """Of a group of devices in one pass: per_device_train_batch_size."""

    def divides_over(self, groups: int) -> bool:
        """Whether whole passes of so many groups of devices make the step."""
        return self.rows % (groups * self.at_once) == 0

    def accumulation(self, groups: int) -> int:
        """gradient_accumulation_steps: passes of `groups` groups of devices that make a step."""
        return self.rows // (groups * self.at_once)

    def fault(self, groups: int, degree: int) -> str:
        """Why `groups` groups of `degree` devices do not make the step, and what to change."""
        a_pass = groups * self.at_once
        sharers = "devices" if degree == 1 else f"groups of {degree} devices"
        return (
            f"parallel.global_batch.{self.stage} is {self.rows} rows a step, but {groups} {sharers} take "
            f"{a_pass} at once ({self.at_once} each, {self.stage}.per_device_train_batch_size), which does "
            "not divide it. Let more devices share a row (parallel.size), use another number of devices, or "
            "another batch."
        )
