"""`evaluate`: a model, tasks and lengths in, a Report out."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.answer_cache import AnswerCache, cache_root
from ultralong_hf.evaluation.arguments import (
    DEFAULT_DEPTHS,
    known_depths,
    known_lengths,
    known_samples,
    make_context,
)
from ultralong_hf.evaluation.asking import Asker
from ultralong_hf.evaluation.engines.base import Engine, check_window
from ultralong_hf.evaluation.engines.local import TransformersEngine
from ultralong_hf.evaluation.engines.opening import open_engine
from ultralong_hf.evaluation.ledger import PROMPTS_FILE, Ledger, is_failed, settings_digest
from ultralong_hf.evaluation.remarks import remarks
from ultralong_hf.evaluation.report import Report, count_cells, count_scores
from ultralong_hf.evaluation.tasks import (
    Measure,
    Record,
    Task,
    TaskContext,
    check_names,
    fill_lengths,
    make_tasks,
)

if TYPE_CHECKING:
    from ultralong_hf.evaluation.standard.baseline import Baseline


def evaluate(
    model: Any,
    tasks: str | Sequence[str],
    *,
    lengths: int | str | Sequence[int | str] | None = None,
    engine: str | Engine = "transformers",
    engine_model: str | None = None,
    samples: int | None = None,
    output_dir: str | Path | None = None,
    depths: Sequence[float] = DEFAULT_DEPTHS,
    seed: int = 0,
    haystack: str | Path | Iterable[str] | None = None,
    data_dir: str | Path | None = None,
    include_path: str | Path | None = None,
    allow_code_execution: bool = False,
    baseline: Any = None,
    cache: bool | str | Path = True,
    prompt: str = "auto",
    tokenizer: Any = None,
    beyond_window: bool = False,
    clamp_short: bool = False,
    batch_size: int | str = "auto",
    prefill_chunk_size: int | None = None,
    kv_cache: str = "model",
    device: Any = None,
    dtype: Any = "auto",
    concurrency: int | None = None,
    timeout: float | None = None,
    progress: bool | None = None,
) -> Report:
    """Measures a model on `tasks` at `lengths` (tokens, or "4K", "1M").

    model: a path, a hub id, a (model, tokenizer) pair, or a loaded model with `tokenizer=`; beside a server
    the folder or hub id whose tokenizer makes the prompts.
    tasks: "needle", "passkey", "ruler", "lveval", "infinitebench", "perplexity", "standard", or one task of
    a family, such as "ruler/vt". lengths: needed by those whose prompts are made to a length.
    engine: "transformers"; the URL of an OpenAI-compatible server, such as "http://127.0.0.1:8000/v1", with
    `engine_model`, its name there, `concurrency` requests at a time and `timeout` seconds for each; or an
    object with the methods of `engines.Engine`, and then `model` is its name.
    samples: prompts a cell, rows of the task "perplexity"; None: as many as each task has by itself (needle
    grids and perplexity 20). depths: of the needle grids, percent of the text before the needle.
    haystack: a text file, a folder of them, or texts (default: real documents of the lab, held out from its
    training); the passkey task has its own filler. data_dir: where benchmarks' official files lie.
    include_path, allow_code_execution, baseline: of the standard side: task files of lm-eval, leave to run
    the model's code (HumanEval), and the original model, or the folder of a run of it, for the retention.
    cache: where answers and made samples are kept by their content, for later runs of the same model. True:
    the user's cache folder, and answers of models in this process only (a server's name does not prove which
    weights answer); a folder: answers of any engine; False: nowhere.
    prompt: "chat" through the tokenizer's own template, "plain", or "auto". clamp_short: lengths too short
    for any prompt are measured with the shortest one, and noted; else they are an error, 0 excepted.
    beyond_window: measure lengths beyond the model's window too; the report marks them.
    batch_size, prefill_chunk_size, kv_cache ("model", "offloaded", "fp8", "int4"), device ("cuda:0", "cpu",
    "auto": all GPUs) and dtype are of the engine "transformers".
    output_dir: results are written there, each prompt as it is finished, and a second call with the same
    arguments goes on at the next one. Raises EvaluationError and ModelError on bad input.
    """
    started = time.monotonic()
    names = check_names(tasks)
    tokens = known_lengths(lengths, needed=fill_lengths(names))
    percents, count = known_depths(depths), known_samples(samples)
    runner = open_engine(
        model,
        engine,
        tokenizer=tokenizer,
        engine_model=engine_model,
        batch_size=batch_size,
        prefill_chunk_size=prefill_chunk_size,
        kv_cache=kv_cache,
        beyond_window=beyond_window,
        device=device,
        dtype=dtype,
        concurrency=concurrency,
        timeout=timeout,
    )
    if fill_lengths(names):
        check_window(max(tokens), runner.window, beyond_window=beyond_window)
    root = None if cache is False else cache_root() if cache is True else Path(cache)
    context = make_context(
        _tokenizer_of(runner, tokenizer),
        lengths=tokens,
        depths=percents,
        samples=count,
        prompt=prompt,
        seed=seed,
        window=None if beyond_window else runner.window,
        clamp_short=clamp_short,
        haystack=haystack,
        data_dir=data_dir,
        cache_dir=root,
        include_path=include_path,
        allow_code_execution=allow_code_execution,
        baseline=None if baseline is None else _baseline(baseline, device, dtype),
    )
    made = make_tasks(names, context)
    settings = {
        "model": _model_name(model),
        "identity": settings_digest(runner.identity()),
        "tasks": names,
        "lengths": tokens,
        "depths": percents,
        "samples": count,
        "seed": seed,
        "prompt": context.style,
        "beyond_window": beyond_window,
        **_settings_by_name(made),
    }
    answers = _answers_of(runner, root, chosen=cache is not True)
    report = _measure(made, context, runner, Ledger(output_dir, settings), answers, progress)
    report.model, report.settings = _model_name(model), settings
    report.seconds = time.monotonic() - started
    if output_dir is not None:
        report.save(output_dir)
    return report


def _measure(
    made: Sequence[Task | Measure],
    context: TaskContext,
    engine: Engine,
    ledger: Ledger,
    answers: AnswerCache,
    progress: bool | None,
) -> Report:
    tasks = [task for task in made if isinstance(task, Task)]
    keys = {task.name: list(task.keys(context.lengths, context.samples)) for task in tasks}
    asker = Asker(engine, context.tokenizer, ledger, answers)
    try:
        asker.answer_all(tasks, keys, progress=progress)
    finally:
        if isinstance(engine, TransformersEngine):
            engine.release()
    records = {
        name: sorted((ledger.records[key] for key in places), key=_by_place) for name, places in keys.items()
    }
    cells, scores = _cells_and_scores(chain.from_iterable(records.values()), engine.window)
    report = Report(
        model="",
        settings={},
        cells=cells,
        scores=scores,
        window=engine.window,
        prompts=ledger.folder / PROMPTS_FILE if ledger.folder else list(ledger.records.values()),
    )
    for measure in made:
        if isinstance(measure, Measure):
            for name, value in measure.measure(engine, ledger.folder).items():
                old = getattr(report, name)
                setattr(report, name, [*old, *value] if isinstance(old, list) else value)
    report.notes = [*remarks(report, records, tasks), *_ways(engine, asker)]
    return report


def _by_place(record: Record) -> tuple[int, float, int]:
    return record["length"], -1.0 if record["depth"] is None else record["depth"], record["sample"]


def _cells_and_scores(
    records: Iterable[Record], window: int | None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Grids are counted by depth too, other tasks by length; prompts without an answer are in neither."""
    in_grids: list[Record] = []
    others: list[Record] = []
    for record in records:
        if not is_failed(record):
            (others if record["depth"] is None else in_grids).append(record)
    return count_cells(in_grids, window), count_scores(others, window)


def _settings_by_name(made: Iterable[Task | Measure]) -> dict[str, dict[str, Any]]:
    """{setting: {task: value}}."""
    settings: dict[str, dict[str, Any]] = {}
    for task in made:
        for name, value in task.settings().items():
            settings.setdefault(name, {})[task.name] = value
    return settings


def _ways(engine: Engine, asker: Asker) -> list[str]:
    """How the prompts went to the engine, where that is not plain, and how many were not asked at all."""
    notes: list[str] = list(getattr(engine, "notes", ()))
    if known := asker.counts["from the cache"]:
        notes.append(f"{known:,} prompts were answered from the cache of earlier runs of the same model.")
    return notes


def _answers_of(engine: Engine, root: Path | None, *, chosen: bool) -> AnswerCache:
    if isinstance(engine, TransformersEngine):
        return AnswerCache(root, engine.identity() | engine.numerics())
    return AnswerCache(root if chosen else None, engine.identity())


def _baseline(source: Any, device: Any, dtype: Any) -> Baseline:
    from ultralong_hf.evaluation.standard.baseline import Baseline

    return Baseline(source, device, dtype)


def _tokenizer_of(engine: Engine, tokenizer: Any) -> Any:
    tokenizer = tokenizer or getattr(engine, "tokenizer", None)
    if tokenizer is None:
        raise EvaluationError("This engine has no tokenizer of its own: pass tokenizer=.")
    return tokenizer


def _model_name(model: Any) -> str:
    if isinstance(model, str | Path):
        return str(model)
    loaded = model[0] if isinstance(model, tuple) else model
    return str(getattr(loaded, "name_or_path", "") or type(loaded).__name__)
