"""What training does beside what was planned: tokens a second, MFU, peak memory, in the trainer's logs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import Trainer, TrainerCallback

from ultralong_hf.planning.launched import this_gpu
from ultralong_hf.planning.plan import Plan
from ultralong_hf.planning.planner import plan_as_launched
from ultralong_hf.planning.wish import of_recipe

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from ultralong_hf.parallel.plugin import SequenceParallelPlugin
    from ultralong_hf.recipes import Recipe

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def watch(trainer: Any, recipe: Recipe, stage: str, plugin: SequenceParallelPlugin) -> None:
    """Gives the trainer the plan of its launch, which is printed when it trains, and logs beside it.

    The values go into each log of a step, before any tracker of `report_to` sees it: `tokens_per_second`,
    `mfu` (where the GPU's peak is known), `peak_memory_gib` of the first device since the log before, and the
    same with `planned_` before their names. On a CPU memory is what the process has more than when it began,
    the model's weights included: near what tensors take, which is planned.
    """
    wish = of_recipe(recipe, stage=stage, config=trainer.model.config)
    trainer.plan = plan_as_launched(
        wish,
        plugin.resolved.sizes,
        gpus=trainer.accelerator.num_processes,
        gpu=this_gpu(trainer.accelerator.device.type),
        gpus_per_node=plugin.gpus_per_node or torch.cuda.device_count() or trainer.accelerator.num_processes,
    )
    callback = PlanCallback(trainer.plan, fixed_length=stage == "cpt")
    trainer.callback_handler.callbacks.insert(0, callback)  # before the trackers


class PlanCallback(TrainerCallback):
    """Prints a plan when training begins, and adds what is measured to the logs.

    `fixed_length`: every row has the plan's length; else tokens are those that TRL has counted.
    """

    def __init__(self, plan: Plan, *, fixed_length: bool) -> None:
        self.plan = plan
        self.fixed_length = fixed_length
        self._seconds = 0.0
        self._steps = 0
        self._tokens_before = 0.0
        self._begun: float | None = None
        self._libraries = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            print(self.plan.table(changes=not self.plan.fits), flush=True)
        reset_peak(args.device)
        if args.device.type != "cuda":
            tensors = sum(weight.nbytes for weight in kwargs["model"].parameters())
            self._libraries = max(0, peak_bytes(args.device) - tensors)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        _wait(args.device)
        self._begun = time.perf_counter()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        assert self._begun is not None
        _wait(args.device)
        self._seconds += time.perf_counter() - self._begun
        self._steps += 1

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs is None or "loss" not in logs or not self._steps:
            return
        values = self._values(args.device, logs)
        logs.update(values)
        if state.log_history and "loss" in state.log_history[-1]:
            state.log_history[-1].update(values)
        self._seconds, self._steps = 0.0, 0
        reset_peak(args.device)

    def _values(self, device: torch.device, logs: dict[str, Any]) -> dict[str, float]:
        plan = self.plan
        counted = float(logs.get("num_tokens", 0.0))
        tokens = self._steps * plan.timing.tokens if self.fixed_length else counted - self._tokens_before
        self._tokens_before = counted
        values = {}
        if self.fixed_length or "num_tokens" in logs:  # ORPOTrainer does not count them
            values["tokens_per_second"] = tokens / self._seconds
        if plan.tokens_per_second is not None:
            values["planned_tokens_per_second"] = plan.tokens_per_second
        if plan.gpu.flops is not None and self.fixed_length:
            work = plan.timing.work.model / plan.timing.tokens * tokens
            values["mfu"] = work / (self._seconds * plan.gpu.flops * plan.gpus)
            if plan.timing.mfu is not None:
                values["planned_mfu"] = plan.timing.mfu
        values["peak_memory_gib"] = max(0, peak_bytes(device) - self._libraries) / 2**30
        values["planned_peak_memory_gib"] = plan.footprint.total / 2**30
        return {name: float(f"{value:.5g}") for name, value in values.items()}


def peak_bytes(device: torch.device) -> int:
    """At most since the last reset: a GPU's allocations; on a CPU the process's resident memory, libraries
    and all, of which a plan counts tensors alone."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    for line in _STATUS.read_text(encoding="ascii").splitlines() if _STATUS.exists() else []:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def reset_peak(device: torch.device) -> None:
    """Begins a new peak, where the system lets one."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        _RESET.write_text("5", encoding="ascii")  # the peak of the resident memory (man 5 proc)
    except OSError:
        return


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def plan_of(trainer: Trainer) -> Plan | None:
    """The plan that `watch` gave it."""
    return getattr(trainer, "plan", None)
