"""`evaluate`: a model, tasks and lengths in, a Report out."""

from __future__ import annotations

import difflib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.engines import Engine, TransformersEngine, check_window
from ultralong_hf.evaluation.haystack import Haystack, build_haystack, read_texts
from ultralong_hf.evaluation.ledger import PROMPTS_FILE, Key, Ledger, Record, settings_digest
from ultralong_hf.evaluation.needle import (
    DEFAULT_DEPTHS,
    NEEDLE_TASKS,
    PASSKEY_FILLER,
    NeedleTask,
    Sample,
    build_sample,
    is_found,
)
from ultralong_hf.evaluation.perplexity import loss_by_position, rows_from_documents
from ultralong_hf.evaluation.prompts import resolve_style
from ultralong_hf.evaluation.report import Report, count_cells
from ultralong_hf.lengths import format_length, parse_length

PERPLEXITY = "perplexity"
TASKS = (*NEEDLE_TASKS, PERPLEXITY)
ENGINES = ("transformers",)
DEFAULT_SAMPLES = 20
# Beyond the longest prompt, so that samples of that length see different stretches of the text.
SPARE_TEXT_TOKENS = 131_072


def evaluate(
    model: Any,
    tasks: str | Sequence[str],
    *,
    lengths: int | str | Sequence[int | str],
    engine: str | Engine = "transformers",
    samples: int = DEFAULT_SAMPLES,
    output_dir: str | Path | None = None,
    depths: Sequence[float] = DEFAULT_DEPTHS,
    seed: int = 0,
    haystack: str | Path | Iterable[str] | None = None,
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
    """Measures a model on `tasks` ("needle", "passkey", "perplexity") at `lengths` (tokens, or "4K", "1M").

    model: a path, a hub id, a (model, tokenizer) pair, or a loaded model with `tokenizer=`.
    engine: "transformers", or an object with the methods of `engines.Engine`; then `model` is its name.
    samples: prompts a cell of the needle grids, rows of the task "perplexity".
    depths: percent of the text before the needle. haystack: a text file, a folder of them, or texts (default:
    real documents of the lab, held out from its training); the passkey task has its own filler.
    prompt: "chat" through the tokenizer's own template, "plain", or "auto". clamp_short: lengths too short
    for any prompt are measured with the shortest one, and noted; else they are an error, 0 excepted.
    beyond_window: measure lengths beyond the model's window too; the report marks them.
    output_dir: results are written there, each prompt as it is finished, and a second call with the same
    arguments goes on at the next one. Raises EvaluationError and ModelError on bad input.
    """
    started = time.monotonic()
    task_names = _known_tasks(tasks)
    if haystack is not None and not isinstance(haystack, str | Path):
        haystack = list(haystack)  # several tasks read it
    grid = Grid(_known_lengths(lengths), _known_depths(depths), _known_samples(samples))
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
    check_window(max(grid.lengths), runner.window, beyond_window=beyond_window)
    needle_tasks = [NEEDLE_TASKS[name] for name in task_names if name in NEEDLE_TASKS]
    style = resolve_style(tokenizer, prompt)
    haystacks = {
        task.name: _haystack_of(task, haystack, tokenizer, max(grid.lengths)) for task in needle_tasks
    }
    settings = {
        "model": _model_name(model),
        "identity": settings_digest(runner.identity()),
        "tasks": task_names,
        **asdict(grid),
        "seed": seed,
        "prompt": style,
        "haystack": {name: text.digest for name, text in haystacks.items()},
        "answer_tokens": {task.name: task.max_new_tokens for task in needle_tasks},
        "beyond_window": beyond_window,
    }
    ledger = Ledger(output_dir, settings)

    def build(key: Key) -> Sample:
        name, length, depth, sample = key
        return build_sample(
            NEEDLE_TASKS[name],
            tokenizer,
            haystacks[name],
            length=length,
            depth=depth,
            sample=sample,
            seed=seed,
            style=style,
            clamp_short=clamp_short,
        )

    keys = [key for task in needle_tasks for key in grid.keys(task.name)]
    _answer_all(keys, build, runner, tokenizer, ledger, progress)
    report = Report(
        model=_model_name(model),
        settings=settings,
        cells=count_cells([ledger.records[key] for key in keys], runner.window),
        window=runner.window,
        prompts=Path(output_dir) / PROMPTS_FILE if output_dir is not None else list(ledger.records.values()),
    )
    if PERPLEXITY in task_names:
        report.perplexity = _perplexity(runner, tokenizer, haystack, max(grid.lengths), grid.samples)
    report.notes = _notes(report, haystacks)
    report.seconds = time.monotonic() - started
    if output_dir is not None:
        report.save(output_dir)
    return report


@dataclass(frozen=True)
class Grid:
    """What is measured: lengths in tokens, depths in percent, prompts a cell."""

    lengths: list[int]
    depths: list[float]
    samples: int

    def keys(self, task: str) -> Iterator[Key]:
        """Every prompt's place, ordered by length, depth and sample."""
        for length in self.lengths:
            for depth in self.depths:
                for sample in range(self.samples):
                    yield task, length, depth, sample


def _answer_all(
    keys: Sequence[Key],
    build: Callable[[Key], Sample],
    engine: Engine,
    tokenizer: Any,
    ledger: Ledger,
    progress: bool | None,
) -> None:
    """Answers what the ledger does not hold yet, as many prompts at a time as the engine wants."""
    waiting = [key for key in keys if key not in ledger.records]
    disable = None if progress is None else not progress
    with tqdm(total=len(keys), initial=len(keys) - len(waiting), unit="prompt", disable=disable) as bar:
        for (task, length), group in groupby(waiting, key=lambda key: key[:2]):
            bar.set_description(f"{task} {format_length(length) if length else 'shortest'}")
            budget = NEEDLE_TASKS[task].max_new_tokens
            samples = map(build, group)
            while batch := list(islice(samples, engine.batch_size(length, budget))):
                answers = engine.generate([sample.ids for sample in batch], budget)
                ledger.append(
                    _record(sample, answer, tokenizer) for sample, answer in zip(batch, answers, strict=True)
                )
                bar.update(len(batch))


def _record(sample: Sample, answer_ids: list[int], tokenizer: Any) -> Record:
    answer = tokenizer.decode(answer_ids, skip_special_tokens=True)
    return {
        "task": sample.task,
        "length": sample.length,
        "depth": sample.depth,
        "sample": sample.sample,
        "prompt_tokens": len(sample.ids),
        "needle_at": sample.needle_at,
        "prompt": tokenizer.decode(sample.ids, skip_special_tokens=False),
        "expected": sample.expected,
        "answer": answer,
        "hit": is_found(sample.expected, answer),
    }


def _perplexity(
    engine: Engine, tokenizer: Any, haystack: Any, length: int, rows: int
) -> list[dict[str, Any]]:
    model = getattr(engine, "model", None)
    if model is None:
        raise EvaluationError("The task 'perplexity' needs the weights: use engine='transformers'.")
    documents = rows_from_documents(_documents(haystack), tokenizer, length=length, rows=rows)
    return loss_by_position(model, documents)


def _haystack_of(task: NeedleTask, haystack: Any, tokenizer: Any, length: int) -> Haystack:
    if task.name == "passkey":
        return build_haystack([PASSKEY_FILLER * 400], tokenizer, length)
    return build_haystack(_documents(haystack), tokenizer, length + SPARE_TEXT_TOKENS)


def _documents(haystack: str | Path | Iterable[str] | None) -> Iterable[str]:
    if haystack is None:
        from ultralong_hf.lab.corpus import held_out_documents

        return held_out_documents()
    return read_texts(haystack) if isinstance(haystack, str | Path) else haystack


def _engine(model: Any, engine: str | Engine, tokenizer: Any, **options: Any) -> Engine:
    if not isinstance(engine, str):
        return engine
    if engine not in ENGINES:
        raise EvaluationError(f"{engine!r} is no engine. {_nearest(engine, ENGINES)}")
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


def _notes(report: Report, haystacks: dict[str, Haystack]) -> list[str]:
    """What a reader of the numbers must be told."""
    notes = []
    short = sorted({c["length"] for c in report.cells if c["prompt_tokens"] > c["length"]})
    if short:
        listed = ", ".join(f"{length:,}" for length in short)
        notes.append(f"Lengths {listed} are shorter than any prompt: measured with the shortest one.")
    beyond = sorted({c["length"] for c in report.cells if c["beyond_window"]})
    if beyond:
        notes.append(
            f"Lengths from {beyond[0]:,} on lie beyond the model's window of {report.window:,} tokens."
        )
    for task in report.tasks:
        if not any(cell["hits"] for cell in report.cells_of(task)):
            notes.append(
                f"{task}: nothing at all was found. Look at answers in prompts.jsonl before believing it."
            )
        longest = max(cell["length"] for cell in report.cells_of(task))
        if task != "passkey" and longest > len(haystacks[task].ids):
            tokens = len(haystacks[task].ids)
            notes.append(f"{task}: the haystack holds {tokens:,} tokens and repeats in longer prompts.")
    return notes


def _known_tasks(tasks: str | Sequence[str]) -> list[str]:
    names = [tasks] if isinstance(tasks, str) else list(tasks)
    if not names:
        raise EvaluationError(f"There is no task to evaluate: name one or several of {', '.join(TASKS)}.")
    faults = [f"{name!r} is no task. {_nearest(str(name), TASKS)}" for name in names if name not in TASKS]
    if faults:
        raise EvaluationError(*faults)
    return list(dict.fromkeys(names))


def _nearest(name: str, known: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
    return f"Nearest: {nearest!r}; there are {', '.join(known)}."


def _known_lengths(lengths: int | str | Sequence[int | str]) -> list[int]:
    given = [lengths] if isinstance(lengths, int | str) else list(lengths)
    parsed = sorted({0 if length == 0 else parse_length(length) for length in given})
    if not parsed or parsed == [0]:
        raise EvaluationError("There is no length to measure: give at least one above 0.")
    return parsed


def _known_depths(depths: Sequence[float]) -> list[float]:
    if not depths:
        raise EvaluationError("There is no depth to measure: give percents from 0 to 100.")
    for depth in depths:
        if not (math.isfinite(depth) and 0 <= depth <= 100):
            raise EvaluationError(f"A depth of {depth:g} is out of range: depths are percents from 0 to 100.")
    return sorted({float(depth) for depth in depths})


def _known_samples(samples: int) -> int:
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise EvaluationError(f"samples={samples!r} is no whole number of at least 1.")
    return samples
