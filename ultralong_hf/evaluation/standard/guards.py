"""What stands around a call of lm-eval: its errors told as ours, its noise kept away, its switches."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from ultralong_hf.errors import EvaluationError, MachineError, UltraLongError

_CODE_SWITCH = "HF_ALLOW_CODE_EVAL"


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
def no_environment_report() -> Iterator[None]:
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
def code_switch(allowed: bool) -> Iterator[None]:
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
