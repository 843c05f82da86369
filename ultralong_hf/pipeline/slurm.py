"""The stages of a run as a chain of SLURM jobs: a batch script each, and one that submits them in order."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from ultralong_hf.errors import PlanError
from ultralong_hf.pipeline.run import Run
from ultralong_hf.pipeline.stages import Stage
from ultralong_hf.planning.launch_files import (
    NODE_LAUNCH,
    RENDEZVOUS,
    SlurmSettings,
    batch_head,
    count_nodes,
    plan_lines,
    write_files,
    yaml_text,
)
from ultralong_hf.planning.plan import Plan

SUBMIT = "submit.sh"


def write_chain(
    run: Run, folder: str | Path, plans: Mapping[str, Plan], *, slurm: SlurmSettings, command: str
) -> list[Path]:
    """Writes the scripts to `folder`; gives their paths, the one to start first.

    `plans`: of the stages that train, as of `plan_stages`; theirs say how many nodes a job takes. Every job
    runs `ultralong run DIR --only STAGE`, so one that is queued again, or submitted again, does what is left.
    `command`: what a script says that it was written by. Raises PlanError for a stage without a plan.
    """
    place = Path(folder)
    files: dict[Path, str] = {}
    scripts = []
    for number, stage in enumerate(run.stages, start=1):
        script = place / f"{number}-{stage.name}.sbatch"
        scripts.append(script)
        if stage.kind == "training" and _gpus(_plan_of(stage, plans)):
            files |= _training_files(run, stage, plans[stage.name], script, slurm, command)
        else:
            files[script] = _plain_script(run, stage, plans, slurm, command)
    submit = place / SUBMIT
    files[submit] = _submit_text(run, scripts, command)
    write_files(files)
    return [submit, *(path for path in files if path != submit)]


def _plan_of(stage: Stage, plans: Mapping[str, Plan]) -> Plan:
    if stage.name not in plans:
        raise PlanError(
            f"{stage.name} has no plan, so nobody knows how many GPUs its job takes: give --gpus."
        )
    return plans[stage.name]


def _gpus(plan: Plan) -> int:
    """Of a node; 0 where the stage trains on the CPU."""
    return 0 if plan.gpu.name == "cpu" else min(plan.gpus, plan.gpus_per_node)


def _training_files(
    run: Run, stage: Stage, plan: Plan, script: Path, slurm: SlurmSettings, command: str
) -> dict[Path, str]:
    """accelerate's YAML, what each node starts, and the batch script."""
    config, node = script.with_suffix(".yaml"), script.with_suffix(".node.sh")
    recipe = shlex.quote(str(run.recipe_file))
    head = batch_head(
        _job_name(run, stage),
        command=command,
        notes=plan_lines(plan),
        nodes=count_nodes(plan),
        gpus=_gpus(plan),
        is_whole_node=plan.gpus >= plan.gpus_per_node,
        slurm=slurm,
        log=_log(run, stage),
    )
    launch = f"srun --kill-on-bad-exit=1 bash {shlex.quote(str(node))}"
    start = f"{_stage_command(run, stage)} --launch {shlex.quote(launch)}"
    return {
        script: f"{head}{RENDEZVOUS}\n{start} &\nwait $!\n",
        node: f'#!/bin/bash\n{NODE_LAUNCH}    --config_file {shlex.quote(str(config))} "$@"\n',
        config: yaml_text(plan, recipe=recipe, command=command, file=str(config)),
    }


def _plain_script(
    run: Run, stage: Stage, plans: Mapping[str, Plan], slurm: SlurmSettings, command: str
) -> str:
    """One node: with the GPUs that training has there for an evaluation, with none for the rest."""
    gpus = max((_gpus(plan) for plan in plans.values()), default=0) if stage.kind == "evaluation" else 0
    head = batch_head(
        _job_name(run, stage),
        command=command,
        nodes=1,
        gpus=gpus,
        cpus=None if gpus else slurm.cpus_per_gpu,
        slurm=slurm,
        log=_log(run, stage),
    )
    return f"{head}\n{_stage_command(run, stage)} &\nwait $!\n"


def _submit_text(run: Run, scripts: list[Path], command: str) -> str:
    lines = "\n".join(f"submit {shlex.quote(str(script))}" for script in scripts)
    return _SUBMIT.format(
        command=command, run=run.folder, logs=shlex.quote(str(run.folder / "logs")), lines=lines
    )


def _stage_command(run: Run, stage: Stage) -> str:
    return shlex.join(["ultralong", "run", str(run.folder), "--only", stage.name])


def _job_name(run: Run, stage: Stage) -> str:
    return f"{run.folder.name}-{stage.name}"


def _log(run: Run, stage: Stage) -> str:
    return f"{run.folder}/logs/{stage.name}-job-%j.log"


_SUBMIT = """#!/bin/bash
# Written by: {command}
# Submits the stages of {run}, each to begin when the one before has ended well.
# A job that fails takes those after it from the queue; run this again then: what is done is found so.
# Run it from the folder that the command above was given in.
set -euo pipefail
mkdir -p {logs}
before=()
submit() {{
    local job
    job=$(sbatch --parsable ${{before[@]+"${{before[@]}}"}} "$1")
    job=${{job%%;*}} # without the cluster's name
    before=(--dependency="afterok:$job" --kill-on-invalid-dep=yes)
    echo "$job $1"
}}
{lines}
"""
