"""A run: a recipe, the folder it runs in, and the stages that come of both."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ultralong_hf.errors import RunError
from ultralong_hf.evaluation.ledger import write_json
from ultralong_hf.lengths import format_length
from ultralong_hf.pipeline.stages import PREFERENCES, Stage, build_stages
from ultralong_hf.recipes import PRESETS, Recipe, load_recipe
from ultralong_hf.recipes.writing import recipe_text

RUN_FILE, RECIPE_FILE, LOCK = "run.json", "recipe.yaml", ".lock"


@dataclass(frozen=True)
class Run:
    """What `open_run` gives; nothing is written by it.

    `source`: the preset or file, and `overrides` of it; `recipe`: both together, with every folder named.
    """

    folder: Path
    source: str
    overrides: Mapping[str, Any]
    recipe: Recipe
    stages: tuple[Stage, ...]
    preference: str | None = None
    skip: tuple[str, ...] = ()
    name: str | None = None
    """Of the release, where it was given."""

    @property
    def release_name(self) -> str:
        """As given, or that of the original with the window: licences want a name that begins alike."""
        base = self.recipe.model.name_or_path.rstrip("/").rpartition("/")[2]
        return self.name or f"{base}-{format_length(self.recipe.window)}"

    def stage(self, name: str) -> Stage:
        """Raises RunError for a stage that this run has not."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise RunError(
            f"this run has no stage {name}: it has {', '.join(stage.name for stage in self.stages)}."
        )

    def log(self, stage: str) -> Path:
        """What the stage printed."""
        return self.folder / "logs" / f"{stage}.log"

    @property
    def recipe_file(self) -> Path:
        """The recipe as it ran, for processes that are launched."""
        return self.folder / RECIPE_FILE

    def write(self) -> None:
        """Binds the folder to this run: run.json, recipe.yaml. Raises RunError for one of another recipe."""
        if is_run(self.folder) and (other := _read(self.folder)["recipe"]) != self.source:
            raise RunError(f"{self.folder} holds a run of {other}: choose another --output, or remove it.")
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.recipe_file.with_name(f".{RECIPE_FILE}.partial")
        partial.write_text(recipe_text(self.recipe), encoding="utf-8")
        partial.replace(self.recipe_file)
        content = {
            "recipe": self.source,
            "overrides": dict(self.overrides),
            "preference": self.preference,
            "skip": list(self.skip),
            "name": self.name,
            "begun_in": None if self.folder.is_absolute() else str(Path.cwd()),
        }
        write_json(self.folder / RUN_FILE, content)


def open_run(
    recipe_or_run: str | Path,
    *,
    output_dir: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    preference: str | None = None,
    skip: Iterable[str] = (),
    name: str | None = None,
) -> Run:
    """The run of a recipe (a preset or file), or the one that a folder holds, with `overrides` on top.

    Without `output_dir` the run is in outputs/NAME, and stages are where the recipe says; with it, all are
    under it. `preference`: a stage after SFT: preference, orpo or grpo. `skip`: stages to leave out.
    `name`: of the release. Raises RunError and RecipeError.
    """
    given = dict(overrides or {})
    if is_run(recipe_or_run):
        folder = Path(recipe_or_run)
        if output_dir is not None:
            raise RunError(f"{folder} is a run, which stays where it is: --output goes with a recipe.")
        content = _read(folder)
        _check_place(folder, content["begun_in"])
        source = content["recipe"]
        given = {**content["overrides"], **given}
        preference = preference or content["preference"]
        skip = tuple(skip) or tuple(content["skip"])
        name = name or content["name"]
    else:
        if Path(recipe_or_run).is_dir():
            raise RunError(f"{recipe_or_run} holds no run: it has no {RUN_FILE}. Give a recipe.")
        source = str(recipe_or_run)
        folder = Path(output_dir) if output_dir is not None else default_folder(source)
        plain = load_recipe(source, given)
        if source not in PRESETS:
            source = str(Path(source).absolute())
        if output_dir is not None:
            given = {**_places(plain, folder, preference), **given}
    plain = load_recipe(source, given)
    missing = {
        key: place for key, place in _places(plain, folder, preference).items() if not _named(plain, key)
    }
    recipe = load_recipe(source, {**given, **missing})
    skipped = tuple(skip)
    stages = build_stages(recipe, folder, preference=preference, skip=skipped)
    return Run(folder, source, given, recipe, stages, preference, skipped, name)


def find_run(recipe_or_run: str | Path, output_dir: str | Path | None = None) -> Run:
    """The run that a folder or a recipe's folder holds; of a recipe that never ran, the one that would be."""
    if not is_run(recipe_or_run) and not Path(recipe_or_run).is_dir():
        folder = Path(output_dir) if output_dir is not None else default_folder(str(recipe_or_run))
        if is_run(folder):
            return open_run(folder)
    return open_run(recipe_or_run, output_dir=output_dir)


def is_run(folder: str | Path) -> bool:
    """Whether a run was begun there."""
    return (Path(folder) / RUN_FILE).is_file()


def default_folder(source: str) -> Path:
    """outputs/NAME, NAME being the preset's or the file's."""
    return Path("outputs") / Path(source).stem


@contextmanager
def locked(run: Run) -> Iterator[None]:
    """Raises RunError where another process runs in the folder."""
    from filelock import FileLock, Timeout

    run.folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(run.folder / LOCK, timeout=1):  # `is_running` holds it for a moment
            yield
    except Timeout:
        raise RunError(
            f"{run.folder} is being run by another process: `ultralong status {run.folder}` tells how far. "
            "Wait until it has ended, or use another --output."
        ) from None


def is_running(run: Run) -> bool:
    """Whether another process holds the folder."""
    from filelock import FileLock, Timeout

    if not (run.folder / LOCK).is_file():
        return False
    try:
        with FileLock(run.folder / LOCK, timeout=0):
            return False
    except Timeout:
        return True


def _places(recipe: Recipe, folder: Path, preference: str | None) -> dict[str, str]:
    """Key -> where that output goes in the folder of a run."""
    names = {"data.output_dir": "store", "cpt.output_dir": "cpt"}
    if recipe.sft or recipe.instruct.sources:
        names |= {"instruct.output_dir": "blend", "sft.output_dir": "sft"}
    if preference in PREFERENCES:
        names[f"{preference}.output_dir"] = str(preference)
        if recipe.preference_data.grounded is not None:
            names["preference_data.grounded.output_dir"] = "pairs"
    return {key: str(folder / name) for key, name in names.items()}


def _named(recipe: Recipe, key: str) -> bool:
    """Whether the recipe says where this output goes."""
    at: Any = recipe
    for part in key.split("."):
        at = at.get(part) if isinstance(at, dict) else getattr(at, part)
    return at is not None


def _read(folder: Path) -> dict[str, Any]:
    path = folder / RUN_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        wanted = {
            key: content[key] for key in ("recipe", "overrides", "preference", "skip", "name", "begun_in")
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is damaged: run the recipe again with --output {folder}.") from error
    if wanted["recipe"] not in PRESETS and not Path(wanted["recipe"]).is_file():
        raise RunError(f"{path} names the recipe {wanted['recipe']}, which is no longer there.")
    return wanted


def _check_place(folder: Path, begun_in: str | None) -> None:
    """A run whose paths are relative goes on where they lead to the same files."""
    if begun_in not in (None, str(Path.cwd())):
        raise RunError(
            f"{folder} was begun in {begun_in}, and its paths are as seen from there: give the "
            f"command in that folder. (If it was moved, say so in its {RUN_FILE}.)"
        )
