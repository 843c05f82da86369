"""lm-eval called as a library: tasks found, data read from local copies, errors told as ours."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ultralong_hf.errors import EvaluationError, MachineError
from ultralong_hf.evaluation.standard.guards import code_switch, no_environment_report, our_errors, quiet
from ultralong_hf.evaluation.tasks import nearest


@dataclass(frozen=True)
class TaskCall:
    """One lm-eval task or group, and how it is asked."""

    task: str
    title: str = ""
    """What we call it; empty: as lm-eval."""
    num_fewshot: int | None = None
    """None: as the task says."""
    limit: int | None = None
    """Rows of each of its tasks, from the first; None: all."""
    chat_template: bool = False
    include_path: Path | None = None
    """Folder of task files of the user's own."""
    folders: tuple[str, ...] = ()
    """Folders of lm_eval/tasks that hold it; empty: all are read."""
    data_dir: Path | None = None
    """Folder with copies of datasets, DIR/OWNER/NAME or DIR/NAME."""
    allow_code_execution: bool = False


def harness_version() -> str:
    """Such as "lm-eval 0.4.13". Raises MachineError where it is missing."""
    _import_harness()
    return f"lm-eval {version('lm_eval')}"


def find_task(call: TaskCall) -> Any:
    """lm-eval's task manager that knows the task. Raises EvaluationError, MachineError.

    A task that runs the model's code is refused here, before anything of it is loaded.
    """
    lm_eval_tasks = _import_harness()
    manager = _manager(lm_eval_tasks, call)
    if call.task not in manager.task_index:
        raise EvaluationError(
            f"standard/{call.task} is no task of {harness_version()}"
            f"{f' or of {call.include_path}' if call.include_path else ''}. "
            f"{nearest(call.task, manager.all_tasks).partition(';')[0]}."
        )
    if not call.allow_code_execution and any(
        cfg.get("unsafe_code") for cfg in leaf_configs(manager, call.task)
    ):
        raise EvaluationError(
            f"standard/{call.title or call.task} runs code that the model writes, on this machine, with your "
            "rights. Where that is safe (a container without network), give --allow-code-execution "
            "(allow_code_execution=True); else name the other tasks, such as standard/mmlu,standard/gsm8k."
        )
    return manager


def run_task(call: TaskCall, manager: Any, lm: Any, batch_size: int) -> Mapping[str, Any]:
    """lm-eval's results of the task, with "notes". Raises EvaluationError, MachineError."""
    from lm_eval import simple_evaluate

    with quiet() as told, code_switch(call.allow_code_execution), no_environment_report():
        loaded = _load(call, manager)
        with our_errors(f"standard/{call.task} ended"):
            results = simple_evaluate(
                model=lm,
                tasks=loaded,
                task_manager=manager,
                num_fewshot=call.num_fewshot,
                batch_size=batch_size,
                limit=call.limit,
                apply_chat_template=call.chat_template,
                fewshot_as_multiturn=call.chat_template,
                confirm_run_unsafe_code=call.allow_code_execution,
                log_samples=False,
            )
    return {**(results or {}), "notes": _notes(told)}


def _notes(told: Sequence[str]) -> list[str]:
    """What of lm-eval's warnings a reader of the score must know."""
    cut = sum("truncat" in message.lower() for message in told)
    empty = sum("null content" in message for message in told)
    notes = []
    if cut:
        notes.append(f"cut: lm-eval cut prompts on the left to the window, and said so {cut:,} times")
    if empty:
        notes.append(f"failed: the server gave no text {empty:,} times, which counts as wrong")
    return notes


def leaf_configs(manager: Any, name: str) -> list[Mapping[str, Any]]:
    """The configs, functions unresolved, of the tasks that a task, group or tag comes down to."""
    entry = manager.task_index[name]
    members = sorted(entry.tags) if entry.kind.name == "TAG" else entry.cfg["task"]
    if not isinstance(members, list):
        return [entry.cfg]
    found: list[Mapping[str, Any]] = []
    for member in members:
        changes = {} if isinstance(member, str) else member
        known = member if isinstance(member, str) else str(member.get("task") or member.get("group"))
        if known in manager.task_index:
            found += [{**cfg, **changes, "task": cfg["task"]} for cfg in leaf_configs(manager, known)]
        else:  # written out in its group
            found.append(changes)
    return found


def local_copy(dataset: str, data_dir: Path | None) -> Path | None:
    """The copy of a hub dataset in the data folder: DIR/OWNER/NAME, as `hf download` is told, or DIR/NAME."""
    if data_dir is None:
        return None
    candidates = (data_dir / dataset, data_dir / dataset.rpartition("/")[2])
    return next((folder for folder in candidates if folder.is_dir()), None)


def _load(call: TaskCall, manager: Any) -> list[Any]:
    """The task objects, their data read. Raises EvaluationError that tells how to get the data."""
    leaves = leaf_configs(manager, call.task)
    datasets = sorted({str(leaf.get("dataset_path")) for leaf in leaves})
    copies = {name: copy for name in datasets if (copy := local_copy(name, call.data_dir))}
    is_group = manager.task_index[call.task].kind.name == "GROUP"
    with our_errors(f"standard/{call.task} cannot be loaded", _advice(datasets)):
        if copies:  # its tasks alone: lm-eval builds no group of its own files with changes in it
            return list(manager.load([_from_copies(leaves, copies)])["tasks"].values())
        found = manager.load([call.task])
    return [found["groups"][call.task]] if is_group else list(found["tasks"].values())


def _advice(datasets: Sequence[str]) -> str:
    on_hub = [name for name in datasets if "/" in name and not Path(name).exists()]
    if not on_hub:
        return ""
    return (
        f"Its data are {', '.join(on_hub)}. Without network: `hf download {on_hub[0]} --repo-type dataset "
        f"--local-dir DIR/{on_hub[0]}` where there is one, then --data DIR; or a filled cache of the hub."
    )


def _from_copies(leaves: Sequence[Mapping[str, Any]], copies: Mapping[str, Path]) -> dict[str, Any]:
    """A group, which is how lm-eval takes changes of tasks that it knows, whose datasets are the copies."""
    members = []
    for leaf in leaves:
        copy = copies.get(str(leaf.get("dataset_path")))
        members.append({"task": leaf["task"], **({"dataset_path": str(copy)} if copy else {})})
    return {"group": "local_copies", "task": members}


def _manager(lm_eval_tasks: Any, call: TaskCall) -> Any:
    """One that knows the task with all its parts, of as few files as do: all 14,683 take half a minute."""
    if call.include_path and not call.include_path.is_dir():
        raise EvaluationError(
            f"{call.include_path} is no folder: --include-path holds task files of lm-eval."
        )
    built_in = Path(lm_eval_tasks.__file__).parent
    own = [call.include_path] if call.include_path else []
    named = [built_in / folder for folder in call.folders]
    for folders in (own, named, _folders_of(call.task, built_in)):
        if folders:
            manager = lm_eval_tasks.TaskManager(include_path=folders, include_defaults=False)
            # Of a group or tag, other folders may have more tasks: that would be another score.
            if _knows(manager, call.task, anything=folders in (own, named)):
                return manager
    return lm_eval_tasks.TaskManager(include_path=own or None)


def _knows(manager: Any, task: str, *, anything: bool) -> bool:
    """Whether it has the task with its parts; if not `anything`, of single tasks alone."""
    try:
        leaf_configs(manager, task)
    except KeyError:
        return False
    return anything or manager.task_index[task].kind.name == "TASK"


def _folders_of(task: str, built_in: Path) -> list[Path]:
    """Folders of lm-eval with a file or the name of the task."""
    names = (f"{task}.yaml", f"_{task}.yaml")
    found = {Path(folder) for folder, _, files in os.walk(built_in) if any(name in files for name in names)}
    return sorted(found | ({built_in / task} if (built_in / task).is_dir() else set()))


def _import_harness() -> Any:
    try:
        with quiet():
            import lm_eval.tasks
    except ImportError as error:
        raise MachineError(
            f"The standard side needs the library lm-eval ({error}). "
            "Install it: pip install 'ultralong-hf[eval]'."
        ) from error
    return lm_eval.tasks


def primary_metrics(names: Sequence[str]) -> list[str]:
    """lm-eval's "metric,filter" names without the errors, best known first."""
    known = ("acc_norm", "acc", "exact_match", "math_verify", "pass@1", "f1")
    plain = [name for name in names if "," in name and not name.partition(",")[0].endswith("_stderr")]
    rank = {metric: number for number, metric in enumerate(known)}
    return sorted(plain, key=lambda name: rank.get(name.partition(",")[0], len(known)))
