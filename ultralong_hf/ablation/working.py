"""The work of one trial: rows, training, measurement, and the file that holds what came of it."""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from ultralong_hf.ablation.measuring import measure_lab, measure_recipe
from ultralong_hf.ablation.trial import Trial, tokens_of
from ultralong_hf.errors import AblationError
from ultralong_hf.evaluation.ledger import write_json, write_lines
from ultralong_hf.rope.extend import RopeWarning

if TYPE_CHECKING:
    from ultralong_hf.recipes import Recipe


def run_trial(trial: Trial) -> dict[str, Any]:
    """Trains and measures what is not done yet; returns what result.json holds, which is written last.

    A stage whose model is there is not trained again, be it trained here or by `accelerate launch`; one that
    was interrupted goes on from its last checkpoint. Raises what training and evaluation raise.
    """
    if (known := finished_result(trial)) is not None:
        return known
    trial.home.mkdir(parents=True, exist_ok=True)
    seconds: dict[str, float] = {}
    cpu_before = _cpu_seconds()
    recipes = trial.stage_recipes()
    with warnings.catch_warnings():
        if trial.is_lab:  # "this reader takes the config otherwise": true, and of no use fifty times over
            warnings.simplefilter("ignore")
        if len(recipes) > 1:  # "was extended before": that is what several steps are
            warnings.simplefilter("ignore", RopeWarning)
        if trial.arm.trained:
            with _timed(seconds, "train"):
                model, tokenizer = _train(trial, recipes)
        else:
            model, tokenizer = _extend_only(recipes[0])
        with _timed(seconds, "measure"):
            if trial.is_lab:
                measured = measure_lab(model, tokenizer, recipes[-1], trial.seed)
            else:
                measured = measure_recipe(_saved(trial, recipes[-1], model, tokenizer), trial, recipes[-1])
    result = {
        "arm": trial.arm.key,
        "title": trial.arm.title,
        "seed": trial.seed,
        "tokens": sum(map(tokens_of, recipes)) if trial.arm.trained else 0,
        "updates": sum(recipe.cpt["max_steps"] for recipe in recipes) if trial.arm.trained else 0,
        "window": recipes[-1].window,
        **measured,
        "seconds": seconds,
        "cpu_seconds": round(_cpu_seconds() - cpu_before, 1),
        "settings": trial.fingerprint(),
    }
    write_json(trial.result_path, result)
    return result


def finished_result(trial: Trial) -> dict[str, Any] | None:
    """What result.json holds, or None where there is none. Raises AblationError for one of other settings."""
    path = trial.result_path
    if not path.is_file():
        return None
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        settings = result["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise AblationError(f"{path} is damaged: remove it, and this arm is run again.") from error
    ours = json.loads(json.dumps(trial.fingerprint(), default=str))
    if settings != ours:
        differing = ", ".join(sorted(_differences(settings, ours)))
        raise AblationError(
            f"{path} was measured with other settings; they differ in {differing}. "
            "Use another --output, or the settings of that run."
        )
    return result


def _train(trial: Trial, recipes: list[Recipe]) -> tuple[Any, Any]:
    """(model, tokenizer) after the last stage."""
    from ultralong_hf.training import cpt_trainer, resume_point

    start: str | None = None
    for recipe in recipes:
        folder = Path(recipe.cpt["output_dir"])
        if not (folder / "config.json").is_file():
            with _store_lock(recipe):
                _make_documents(trial, recipe)
                trainer = cpt_trainer(recipe, model=start)
            trainer.train(resume_from_checkpoint=resume_point(trainer.args))
            trainer.save_model()
        start = str(folder)
    from ultralong_hf.training.models import load_model, load_tokenizer

    return load_model(recipes[-1].model, start), load_tokenizer(recipes[-1].model, start)


def _extend_only(recipe: Recipe) -> tuple[Any, Any]:
    from ultralong_hf.training.models import extend_by_recipe, load_model, load_tokenizer

    model = load_model(recipe.model)
    extend_by_recipe(model, recipe)
    return model, load_tokenizer(recipe.model)


def _saved(trial: Trial, recipe: Recipe, model: Any, tokenizer: Any) -> str:
    """The folder of the model; an untrained one is written first."""
    folder = Path(recipe.cpt["output_dir"])
    if not trial.arm.trained and not (folder / "config.json").is_file():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return str(folder)


def _make_documents(trial: Trial, recipe: Recipe) -> None:
    """The lab's documents of this recipe's rows, where they are missing; other recipes bring theirs."""
    if not trial.is_lab:
        return
    path = Path(recipe.data.sources[0].path)
    if path.is_file():
        return
    from ultralong_hf.ablation.documents import SPARSE_CHARACTERS_A_FACT, pool_documents, row_documents
    from ultralong_hf.lab.corpus import shipped_tokenizer

    kind, size = path.stem.split("-")[:2]
    length, rows = map(int, size.split("x"))
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "pool":
        documents = pool_documents(2 * length * rows, trial.seed)
    else:
        density = {"characters_a_fact": SPARSE_CHARACTERS_A_FACT} if kind == "sparse" else {}
        documents = row_documents(shipped_tokenizer(), length, rows, trial.seed, **density)
    write_lines(path, ({"text": text} for text in documents))


@contextmanager
def _store_lock(recipe: Recipe) -> Iterator[None]:
    """Arms that share a store and its documents: one makes them, the others find them."""
    store = Path(recipe.data.output_dir)
    store.parent.mkdir(parents=True, exist_ok=True)
    # one lock for all stores of a run: separators share documents too
    with FileLock(store.parent / ".lock"):
        yield


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    seconds[name] = round(time.monotonic() - started, 1)


def _cpu_seconds() -> float:
    """Of this process and its children, all cores together."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _differences(theirs: Any, ours: Any, path: str = "") -> Iterator[str]:
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in {*theirs, *ours}:
            yield from _differences(theirs.get(key), ours.get(key), f"{path}.{key}" if path else key)
    elif isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        for pair in zip(theirs, ours, strict=True):
            yield from _differences(*pair, path)
    elif theirs != ours:
        yield path
