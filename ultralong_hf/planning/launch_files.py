"""The files that start a stage on GPUs: accelerate's YAML, and a batch script of SLURM, from a plan."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ultralong_hf.errors import PlanError
from ultralong_hf.lengths import format_length
from ultralong_hf.planning.plan import Plan
from ultralong_hf.planning.text import gigabytes

PORT = 29500
"""Of the rendezvous; a batch script takes one by its job's number."""

_HEADER = "# Written by: {command}\n"


@dataclass(frozen=True, kw_only=True)
class SlurmSettings:
    """What a batch script says of its job beside the plan."""

    time: str = "24:00:00"
    partition: str | None = None
    account: str | None = None
    cpus_per_gpu: int = 8
    environment: str | None = None
    """A line that makes accelerate and this package found, such as "source .venv/bin/activate"."""


def accelerate_config(plan: Plan) -> dict[str, Any]:
    """The keys of accelerate's YAML (accelerate 1.15, commands/config/config_args.py).

    Devices that share rows are not in it: the recipe's section `parallel` stands for them, and accelerate's
    own `parallelism_config` would have to agree. FSDP2 is as `SequenceParallelPlugin.fsdp_settings` has it.
    """
    nodes = count_nodes(plan)
    keys: dict[str, Any] = {
        "compute_environment": "LOCAL_MACHINE",
        "debug": False,
        "distributed_type": _distributed_type(plan),
        "downcast_bf16": "no",
        "enable_cpu_affinity": False,
        "machine_rank": 0,
        "main_training_function": "main",
        "mixed_precision": "bf16" if plan.setup.value_bytes == 2 else "no",
        "num_machines": nodes,
        "num_processes": plan.gpus,
        "rdzv_backend": "static",
        "use_cpu": False,
    }
    if nodes > 1:
        keys |= {"main_process_ip": "127.0.0.1", "main_process_port": PORT}
    if keys["distributed_type"] == "FSDP":
        keys["fsdp_config"] = {
            "fsdp_version": 2,
            "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "fsdp_reshard_after_forward": True,
            "fsdp_state_dict_type": "FULL_STATE_DICT",
            "fsdp_offload_params": plan.setup.offload_parameters,
            "fsdp_cpu_ram_efficient_loading": False,
            "fsdp_activation_checkpointing": False,
        }
    elif keys["distributed_type"] == "DEEPSPEED":
        keys["deepspeed_config"] = {
            "zero_stage": 3,
            "zero3_init_flag": False,
            "zero3_save_16bit_model": True,
            "gradient_accumulation_steps": "auto",
            "offload_optimizer_device": "cpu" if plan.setup.offload_optimizer else "none",
            "offload_param_device": "cpu" if plan.setup.offload_parameters else "none",
        }
    return keys


def count_nodes(plan: Plan) -> int:
    """Machines; raises PlanError where GPUs do not fill them."""
    nodes = -(-plan.gpus // plan.gpus_per_node)
    if nodes > 1 and plan.gpus % plan.gpus_per_node:
        raise PlanError(
            f"{plan.gpus} GPUs do not fill nodes of {plan.gpus_per_node}, and accelerate starts as many "
            f"processes on each. Use {plan.gpus // plan.gpus_per_node * plan.gpus_per_node} or "
            f"{nodes * plan.gpus_per_node} GPUs, or say --gpus-per-node."
        )
    return nodes


def yaml_text(plan: Plan, *, recipe: str, command: str, file: str) -> str:
    """The YAML with its use on top."""
    if count_nodes(plan) == 1:
        how = f"# accelerate launch --config_file {file} {script(plan)} --recipe {recipe}\n"
    else:
        how = (
            f"# On each of {count_nodes(plan)} nodes, N from 0, HOST being node 0 (the .sbatch does it):\n"
            f"# accelerate launch --config_file {file} --machine_rank N --main_process_ip HOST \\\n"
            f"#   {script(plan)} --recipe {recipe}\n"
        )
    body = yaml.safe_dump(accelerate_config(plan), sort_keys=True)
    return _HEADER.format(command=command) + how + "".join(f"# {line}\n" for line in plan_lines(plan)) + body


def plan_lines(plan: Plan) -> list[str]:
    """The plan in two or three lines."""
    sizes = plan.sizes
    shared = "each holds whole rows" if sizes.degree == 1 else f"{sizes.degree} share a row ({sizes.backend})"
    lines = [
        f"{format_length(plan.length)} tokens a row, {plan.gpus} x {plan.gpu.name}, {shared}: planned "
        f"{gigabytes(plan.footprint.total)} a device"
        + ("" if plan.fits else f", which does not fit in {gigabytes(plan.usable)}")
    ]
    if plan.host_bytes:
        lines.append(f"host memory of a node: {gigabytes(plan.host_bytes)}")
    if plan.hours is not None:
        lines.append(f"{plan.steps:,} steps in about {plan.hours:,.0f} h, assuming {plan.timing.assumed}")
    return lines


def sbatch_text(plan: Plan, *, recipe: str, command: str, config: str, slurm: SlurmSettings) -> str:
    """A batch script: a launcher a node, the rendezvous at the first, a requeue when time is up.

    The stage goes on from its last whole checkpoint by itself, so that the same script is run again.
    """
    head = batch_head(
        f"{Path(recipe.split()[0]).stem}-{plan.stage}",
        command=command,
        notes=plan_lines(plan),
        nodes=count_nodes(plan),
        gpus=min(plan.gpus, plan.gpus_per_node),
        is_whole_node=plan.gpus >= plan.gpus_per_node,
        slurm=slurm,
    )
    launch = _LAUNCH.format(config=config, script=script(plan), recipe=recipe)
    return f"{head}{RENDEZVOUS}\n{launch}"


def batch_head(
    name: str,
    *,
    command: str,
    nodes: int,
    gpus: int,
    slurm: SlurmSettings,
    notes: Sequence[str] = (),
    is_whole_node: bool = False,
    cpus: int | None = None,
    log: str = "%x-%j.log",
) -> str:
    """The begin of a batch script: its comments and #SBATCH lines, the environment, and the requeue.

    `gpus`, `cpus`: of a node; with GPUs and no `cpus`, as many for each as `slurm` says.
    """
    head = [
        "#!/bin/bash",
        _HEADER.format(command=command).rstrip(),
        *(f"# {line}" for line in notes),
        f"#SBATCH --job-name={name}",
        f"#SBATCH --nodes={nodes}",
        "#SBATCH --ntasks-per-node=1",
        *([f"#SBATCH --gpus-per-node={gpus}"] if gpus else []),
        f"#SBATCH --cpus-per-task={cpus or gpus * slurm.cpus_per_gpu}",
        f"#SBATCH --time={slurm.time}",
        *([f"#SBATCH --partition={slurm.partition}"] if slurm.partition else []),
        *([f"#SBATCH --account={slurm.account}"] if slurm.account else []),
        *(["#SBATCH --exclusive"] if is_whole_node else []),
        "#SBATCH --requeue",
        "#SBATCH --open-mode=append",
        f"#SBATCH --output={log}",
        "#SBATCH --signal=B:USR1@120",
    ]
    environment = slurm.environment or "# here: load modules, activate the virtual environment"
    return "\n".join(head) + "\n" + _BEGIN.format(environment=environment)


def script(plan: Plan) -> str:
    """The example script of the plan's stage."""
    return f"examples/{'dpo' if plan.stage == 'preference' else plan.stage}.py"


_BEGIN = """set -euo pipefail
{environment}

# Two minutes before time is up the job is queued again; it goes on from the last whole checkpoint.
requeue() {{
    echo "time is nearly up: job $SLURM_JOB_ID is queued again"
    scontrol requeue "$SLURM_JOB_ID"
}}
trap requeue USR1
"""

RENDEZVOUS = """
# Every node meets at the first one, at a port of this job's own.
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))
export MASTER_ADDR MASTER_PORT
export PYTORCH_ALLOC_CONF=expandable_segments:True # fewer fragments, so that what is planned fits
"""
"""Of a batch script whose nodes train together."""

NODE_LAUNCH = """exec accelerate launch \\
    --machine_rank "$SLURM_NODEID" \\
    --main_process_ip "$MASTER_ADDR" \\
    --main_process_port "$MASTER_PORT" \\
"""
"""What each node of it runs, with the rest of accelerate's options after it."""

_LAUNCH = (
    "srun --kill-on-bad-exit=1 bash -c '"
    + NODE_LAUNCH
    + """    "$@"' launch \\
    --config_file {config} \\
    {script} --recipe {recipe} "$@" &
wait $!
"""
)


def write_files(files: dict[Path, str]) -> None:
    """Writes all, each whole or not at all. Raises PlanError for a folder that cannot be written."""
    for path, text in files.items():
        partial = path.with_name(f".{path.name}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(text, encoding="utf-8")
            os.replace(partial, path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise PlanError(f"{path} cannot be written: {error.strerror or error}.") from error


def _distributed_type(plan: Plan) -> str:
    if plan.sizes.backend == "deepspeed":
        return "DEEPSPEED"
    if plan.gpus == 1:
        return "NO"
    # accelerate starts CPU processes as GPUs' are started, and the recipe's use_cpu does the rest
    return "FSDP" if plan.setup.sharding == "fsdp" else "MULTI_GPU"
