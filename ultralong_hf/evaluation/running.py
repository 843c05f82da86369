"""`evaluate`: a model, tasks and lengths in, a Report out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.engines import Engine, TransformersEngine, check_window
from ultralong_hf.evaluation.ledger import PROMPTS_FILE, Ledger, settings_digest
from ultralong_hf.evaluation.prompts import resolve_style
from ultralong_hf.evaluation.report import Report, count_cells, count_scores
from ultralong_hf.evaluation.tasks import (
    Key,
    Measure,
    Record,
    Sample,
    Task,
    TaskContext,
    check_names,
    fill_lengths,
    make_tasks,
    nearest,
)
from ultralong_hf.lengths import format_length, parse_length

if TYPE_CHECKING:
    from ultralong_hf.evaluation.standard.baseline import Baseline

ENGINES = ("transformers",)
DEFAULT_DEPTHS = (0, 25, 50, 75, 100)


def evaluate(
    model: Any,
    tasks: str | Sequence[str],
    *,
    lengths: int | str | Sequence[int | str] | None = None,
    engine: str | Engine = "transformers",
    samples: int | None = None,
    output_dir: str | Path | None = None,
    depths: Sequence[float] = DEFAULT_DEPTHS,
    seed: int = 0,
    haystack: str | Path | Iterable[str] | None = None,
    data_dir: str | Path | None = None,
    include_path: str | Path | None = None,
    allow_code_execution: bool = False,
    baseline: Any = None,
    prompt: str = "auto",
    tokenizer: Any = None,
    beyond_window: bool = False,
    clamp_short: bool = False,
    batch_size: int | str = "auto",
    prefill_chunk_size: int | None = None,
    device: Any = None,
    dtype: Any = "auto",
    progress: bool | None = None,
) -> Report:
    """Measures a model on `tasks` at `lengths` (tokens, or "4K", "1M").

    model: a path, a hub id, a (model, tokenizer) pair, or a loaded model with `tokenizer=`.
    tasks: "needle", "passkey", "ruler", "lveval", "infinitebench", "perplexity", "standard", or one task of
    a family, such as "ruler/vt". lengths: needed by those whose prompts are made to a length.
    engine: "transformers", or an object with the methods of `engines.Engine`; then `model` is its name.
    samples: prompts a cell, rows of the task "perplexity"; None: as many as each task has by itself (needle
    grids and perplexity 20). depths: of the needle grids, percent of the text before the needle.
    haystack: a text file, a folder of them, or texts (default: real documents of the lab, held out from its
    training); the passkey task has its own filler. data_dir: where benchmarks' official files lie.
    include_path, allow_code_execution, baseline: of the standard side: task files of lm-eval, leave to run
    the model's code (HumanEval), and the original model, or the folder of a run of it, for the retention.
    prompt: "chat" through the tokenizer's own template, "plain", or "auto". clamp_short: lengths too short
    for any prompt are measured with the shortest one, and noted; else they are an error, 0 excepted.
    beyond_window: measure lengths beyond the model's window too; the report marks them.
    output_dir: results are written there, each prompt as it is finished, and a second call with the same
    arguments goes on at the next one. Raises EvaluationError and ModelError on bad input.
    """
    started = time.monotonic()
    names = check_names(tasks)
    tokens = _known_lengths(lengths, needed=fill_lengths(names))
    percents, count = _known_depths(depths), _known_samples(samples)
    runner = _engine(
        model,
        engine,
        tokenizer,
        batch_size=batch_size,
        prefill_chunk_size=prefill_chunk_size,
        beyond_window=beyond_window,
        device=device,
        dtype=dtype,
    )
    tokenizer = _tokenizer_of(runner, tokenizer)
    if fill_lengths(names):
        check_window(max(tokens), runner.window, beyond_window=beyond_window)
    context = TaskContext(
        tokenizer=tokenizer,
        style=resolve_style(tokenizer, prompt),
        seed=seed,
        lengths=tokens,
        depths=percents,
        samples=count,
        window=None if beyond_window else runner.window,
        clamp_short=clamp_short,
        haystack=haystack if haystack is None or isinstance(haystack, str | Path) else list(haystack),
        data_dir=None if data_dir is None else Path(data_dir),
        include_path=None if include_path is None else Path(include_path),
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
    report = _measure(made, context, runner, Ledger(output_dir, settings), progress)
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
    progress: bool | None,
) -> Report:
    tasks = [task for task in made if isinstance(task, Task)]
    keys = {task.name: list(task.keys(context.lengths, context.samples)) for task in tasks}
    _answer_all(tasks, keys, engine, context.tokenizer, ledger, progress)
    records = {name: [ledger.records[key] for key in places] for name, places in keys.items()}
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
    report.notes = _notes(report, records, tasks)
    return report


def _cells_and_scores(
    records: Iterable[Record], window: int | None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Grids are counted by depth too, other tasks by length."""
    in_grids: list[Record] = []
    others: list[Record] = []
    for record in records:
        (others if record["depth"] is None else in_grids).append(record)
    return count_cells(in_grids, window), count_scores(others, window)


def _settings_by_name(made: Iterable[Task | Measure]) -> dict[str, dict[str, Any]]:
    """{setting: {task: value}}."""
    settings: dict[str, dict[str, Any]] = {}
    for task in made:
        for name, value in task.settings().items():
            settings.setdefault(name, {})[task.name] = value
    return settings


def _answer_all(
    tasks: Sequence[Task],
    keys: Mapping[str, Sequence[Key]],
    engine: Engine,
    tokenizer: Any,
    ledger: Ledger,
    progress: bool | None,
) -> None:
    """Answers what the ledger does not hold yet, as many prompts at a time as the engine wants."""
    waiting = {name: [key for key in places if key not in ledger.records] for name, places in keys.items()}
    total, left = (sum(map(len, places.values())) for places in (keys, waiting))
    disable = None if progress is None else not progress
    with tqdm(total=total, initial=total - left, unit="prompt", disable=disable) as bar:
        for task in tasks:
            for length, group in groupby(waiting[task.name], key=lambda key: key[1]):
                bar.set_description(f"{task.name} {format_length(length) if length else 'shortest'}")
                for batch in _batches(map(task.build, group), engine.batch_size):
                    budget = batch[0].max_new_tokens
                    answers = engine.generate([sample.ids for sample in batch], budget)
                    ledger.append(
                        _record(task, sample, answer, tokenizer)
                        for sample, answer in zip(batch, answers, strict=True)
                    )
                    bar.update(len(batch))


def _batches(samples: Iterator[Sample], batch_size: Callable[[int, int], int]) -> Iterator[list[Sample]]:
    """Samples in their order, in lists of one answer budget; the first of each says how many it may be."""
    for budget, group in groupby(samples, key=lambda sample: sample.max_new_tokens):
        waiting = iter(group)
        for first in waiting:
            yield [first, *islice(waiting, batch_size(len(first.ids), budget) - 1)]


def _record(task: Task, sample: Sample, answer_ids: list[int], tokenizer: Any) -> Record:
    answer = tokenizer.decode(answer_ids, skip_special_tokens=True)
    record: Record = {
        "task": sample.task,
        "length": sample.length,
        "depth": sample.depth,
        "sample": sample.sample,
        "prompt_tokens": len(sample.ids),
        "details": dict(sample.details),
        "notes": list(sample.notes),
        "prompt": tokenizer.decode(sample.ids, skip_special_tokens=False),
        "references": list(sample.references),
        "answer": answer,
    }
    record["score"] = task.score(record, answer)
    if sample.depth is not None:  # a grid's cells count what was found
        record |= {"expected": sample.references[0], "hit": record["score"] == 1.0}
    return record


def _engine(model: Any, engine: str | Engine, tokenizer: Any, **options: Any) -> Engine:
    if not isinstance(engine, str):
        return engine
    if engine not in ENGINES:
        raise EvaluationError(f"{engine!r} is no engine. {nearest(engine, ENGINES)}")
    device, dtype = options.pop("device"), options.pop("dtype")
    if isinstance(model, str | Path):
        return TransformersEngine.from_pretrained(
            model, tokenizer=tokenizer, device=device, dtype=dtype, **options
        )
    if isinstance(model, tuple):
        if len(model) != 2:
            raise EvaluationError(f"A tuple of {len(model)} is no model: give (model, tokenizer).")
        model, tokenizer = model
    if tokenizer is None:
        raise EvaluationError(
            "A loaded model comes with its tokenizer: give (model, tokenizer) or tokenizer=."
        )
    return TransformersEngine(model, tokenizer, **options)


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


def _notes(report: Report, records: Mapping[str, Sequence[Record]], tasks: Sequence[Task]) -> list[str]:
    """What a reader of the numbers must be told."""
    notes = []
    rows = [*report.cells, *report.scores]
    short = sorted({row["length"] for row in report.cells if row["prompt_tokens"] > row["length"]})
    if short:
        listed = ", ".join(f"{length:,}" for length in short)
        notes.append(f"Lengths {listed} are shorter than any prompt: measured with the shortest one.")
    beyond = sorted({row["length"] for row in rows if row["beyond_window"]})
    if beyond:
        notes.append(
            f"Lengths from {beyond[0]:,} on lie beyond the model's window of {report.window:,} tokens."
        )
    for task in tasks:
        finished = records[task.name]
        if finished and not any(record["score"] for record in finished):
            what = "nothing at all was found" if finished[0]["depth"] is not None else "every score is zero"
            notes.append(f"{task.name}: {what}. Look at answers in prompts.jsonl before believing it.")
        notes += _prompt_notes(task.name, finished)
        notes += task.notes(finished)
    return notes


def _prompt_notes(task: str, records: Sequence[Record]) -> list[str]:
    """The samples' own notes ("kind: what"), counted by kind, with one of them as it is."""
    kinds: dict[str, list[str]] = {}
    for record in records:
        for note in record["notes"]:
            kinds.setdefault(note.partition(":")[0], []).append(note)
    return [
        f"{task}: {len(notes):,} of {len(records):,} prompts: {notes[0]}"
        + (" (for one)" if len(set(notes)) > 1 else "")
        for notes in kinds.values()
    ]


def _known_lengths(lengths: int | str | Sequence[int | str] | None, *, needed: bool) -> list[int]:
    given = [] if lengths is None else [lengths] if isinstance(lengths, int | str) else list(lengths)
    parsed = sorted({0 if length == 0 else parse_length(length) for length in given})
    if needed and (not parsed or parsed == [0]):
        raise EvaluationError("There is no length to measure: give at least one above 0.")
    return parsed


def _known_depths(depths: Sequence[float]) -> list[float]:
    if not depths:
        raise EvaluationError("There is no depth to measure: give percents from 0 to 100.")
    for depth in depths:
        if not (math.isfinite(depth) and 0 <= depth <= 100):
            raise EvaluationError(f"A depth of {depth:g} is out of range: depths are percents from 0 to 100.")
    return sorted({float(depth) for depth in depths})


def _known_samples(samples: int | None) -> int | None:
    if samples is None:
        return None
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise EvaluationError(f"samples={samples!r} is no whole number of at least 1.")
    return samples
