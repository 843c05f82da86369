"""lm-eval called as a library: tasks found, data read from local copies, errors told as ours."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ultralong_hf.errors import EvaluationError, MachineError, UltraLongError
from ultralong_hf.evaluation.tasks import nearest

_CODE_SWITCH = "HF_ALLOW_CODE_EVAL"


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

    with quiet() as told, _code_switch(call.allow_code_execution), _no_environment_report():
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
    """Own task files alone where they have the task, then the folders named, then everything."""
    built_in = Path(lm_eval_tasks.__file__).parent
    own = [call.include_path] if call.include_path else []
    if call.include_path and not call.include_path.is_dir():
        raise EvaluationError(
            f"{call.include_path} is no folder: --include-path holds task files of lm-eval."
        )
    manager = None
    for paths in (own, [*(built_in / folder for folder in call.folders), *own] if call.folders else []):
        if paths:
            manager = lm_eval_tasks.TaskManager(include_path=paths, include_defaults=False)
            if call.task in manager.task_index:
                return manager
    return lm_eval_tasks.TaskManager(include_path=own or None)


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


@contextmanager
def our_errors(what: str, advice: str = "") -> Iterator[None]:
    """Errors of lm-eval and of what it calls, as one of ours with the first line of theirs."""
    try:
        yield
    except (UltraLongError, KeyboardInterrupt):
        raise
    except ImportError as error:
        raise MachineError(
            f"{what}: {_first_line(error)} Install it: pip install 'ultralong-hf[eval]'."
        ) from error
    except Exception as error:  # lm-eval raises errors of six libraries, and bare ones
        text = f"{what}: {type(error).__name__}: {_first_line(error)}"
        if "code_eval" in text:
            advice = (
                "HumanEval's metric is a script that the library evaluate loads from the hub, or from a copy "
                "here: `hf download evaluate-metric/code_eval --repo-type space --local-dir code_eval`."
            )
        elif not isinstance(error, OSError):  # data that are not there
            advice = ""
        raise EvaluationError(f"{text} {advice}".rstrip()) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or ["no more is told"]
    line = lines[0].strip()
    return line if line.endswith((".", "!", "?")) else f"{line}."


@contextmanager
def _no_environment_report() -> Iterator[None]:
    """lm-eval asks git and pip about this machine after each run, which takes seconds and prints errors."""
    from lm_eval import evaluator

    unwanted = {"add_env_info": lambda results: None, "get_git_commit_hash": lambda: None}
    before = {name: getattr(evaluator, name) for name in unwanted if hasattr(evaluator, name)}
    for name in before:
        setattr(evaluator, name, unwanted[name])
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(evaluator, name, function)


@contextmanager
def _code_switch(allowed: bool) -> Iterator[None]:
    """The switch of the metric code_eval, on for the run alone."""
    before = os.environ.get(_CODE_SWITCH)
    if allowed:
        os.environ[_CODE_SWITCH] = "1"
    try:
        yield
    finally:
        if allowed:
            os.environ.pop(_CODE_SWITCH, None)
            if before is not None:
                os.environ[_CODE_SWITCH] = before


@contextmanager
def quiet() -> Iterator[list[str]]:
    """Keeps lm-eval's warnings from the screen: hundreds on defaults, and a few that are told in notes."""
    told: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("lm_eval")
    propagates = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield told
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagates


def primary_metrics(names: Sequence[str]) -> list[str]:
    """lm-eval's "metric,filter" names without the errors, best known first."""
    known = ("acc_norm", "acc", "exact_match", "math_verify", "pass@1", "f1")
    plain = [name for name in names if "," in name and not name.partition(",")[0].endswith("_stderr")]
    rank = {metric: number for number, metric in enumerate(known)}
    return sorted(plain, key=lambda name: rank.get(name.partition(",")[0], len(known)))
