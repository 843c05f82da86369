"""publish(): one folder that others can load and serve, checked, with its card; uploaded only if asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ultralong_hf.data.storing.shards import file_sha256, write_json
from ultralong_hf.errors import InputError, ReleaseError
from ultralong_hf.publishing.card import CardFacts, card_metadata, card_text
from ultralong_hf.publishing.carrying import RELEASE_FILE, carry_model, release_folder, settle_settings
from ultralong_hf.publishing.checks import (
    NOT_CHECKED,
    card_faults,
    folder_faults,
    read_weights,
    unknown_licence,
)
from ultralong_hf.publishing.inheriting import Inherited, find_base, inherit, settle_licence
from ultralong_hf.publishing.provenance import Provenance, recipe_values, rope_rows, trace
from ultralong_hf.publishing.results import read_results, results_markdown, safety_markdown, without_safety
from ultralong_hf.rope.families import RECORD_KEY
from ultralong_hf.rope.folder import CONFIG, TOKENIZER_CONFIG, find_model, read_json

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from ultralong_hf.recipes.schema import Recipe

CARD, RECIPE = "README.md", "recipe.yaml"


@dataclass(frozen=True, kw_only=True)
class Release:
    """What publish() made. `faults` stand in the way of an upload; `notes` a reader should know."""

    name: str
    folder: Path
    repo_id: str | None
    licence: str | None
    files: dict[str, int]
    """Path in the folder -> bytes."""
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    url: str | None = None
    """Of the commit on the hub; None: nothing was uploaded."""

    @property
    def bytes(self) -> int:
        return sum(self.files.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name,
            "folder": str(self.folder),
            "repo_id": self.repo_id,
            "licence": self.licence,
            "bytes": self.bytes,
            "files": self.files,
            "faults": self.faults,
            "notes": self.notes,
            "uploaded": self.url is not None,
            "url": self.url,
        }


def publish(
    model: str | Path,
    *,
    output_dir: str | Path,
    recipe: Recipe | str | Path | None = None,
    reports: Sequence[str | Path] = (),
    base: str | None = None,
    name: str | None = None,
    licence: str | None = None,
    hardware: str | None = None,
    merged: str | None = None,
    repo_id: str | None = None,
    private: bool = False,
    dry_run: bool = False,
    api: HfApi | None = None,
) -> Release:
    """Writes the release of a model folder to `output_dir`, checks it; uploads it where `repo_id` says so.

    - `recipe`: a Recipe, preset or file; data, settings and cost are read from what its stages left.
    - `reports`: run folders of `ultralong eval`, of this model and of others to hold it to.
    - `base`: the original, a hub id or folder; None: the recipe's model. Its licence is inherited, unless
      `licence` names one.
    - `name`: what the release is called; None: the last part of `repo_id`, else of `output_dir`.
    - `hardware`: what it was trained on, such as "8 x H100"; a log does not say.
    - `merged`: a sentence for the card on how its weights came about: that of `merge_models`.
    - `dry_run`: everything but the upload, which `repo_id` would otherwise begin. `api`: another HfApi.

    The folder holds safetensors (hard links where the file system has them), config, tokenizer, chat
    template, generation config, licence files, recipe.yaml, pictures, README.md and release.json with every
    file's SHA-256. An earlier release in `output_dir` is replaced. Files are written even where there are
    faults, which the Release then names; an upload is refused for them. Raises ReleaseError and ModelError
    for what cannot be released, EvaluationError for runs that are none, EndpointError for the hub.
    """
    source = find_model(model, with_weights=True)
    recipe = _recipe(recipe)
    name = name or (repo_id or str(Path(output_dir).absolute())).rpartition("/")[2]
    if Path(output_dir).absolute() == source.absolute():
        raise ReleaseError(f"{output_dir} is the model itself: write the release to another folder.")
    origin = find_base(base or (recipe.model.name_or_path if recipe else None))
    inherited = inherit(origin, given=licence)
    notes: list[str] = []
    results, safety, own = "", None, None
    with release_folder(output_dir) as folder:
        notes += carry_model(source, folder)
        notes += settle_settings(folder)
        if reports:
            models, told = read_results(reports, source, name)
            notes += told
            results, safety = results_markdown(models, folder), safety_markdown(models)
            own = without_safety(models[-1])
        if recipe is not None:
            text = yaml.safe_dump(recipe_values(recipe), sort_keys=False, allow_unicode=True)
            (folder / RECIPE).write_text(text, encoding="utf-8")
        facts = _facts(folder, name, repo_id, origin, inherited)
        provenance = trace(recipe, source) if recipe is not None else Provenance()
        facts = replace(facts, provenance=provenance, has_recipe=recipe is not None)
        facts = replace(facts, hardware=hardware, merged=merged, serving=_serving(folder, repo_id or name))
        faults = settle_licence(folder, origin, inherited, name, _changes(facts))
        _write_card(folder, facts, own, results, safety)
        faults += [*folder_faults(folder), *card_faults(folder / CARD)]
        notes += [*unknown_licence(inherited.licence), *_licence_notes(inherited, origin.name)]
        files = _files(folder)
        _write_release_file(folder, facts, files)
    release = Release(
        name=name,
        folder=Path(output_dir).absolute(),
        repo_id=repo_id,
        licence=inherited.name or inherited.licence,
        files=_files(Path(output_dir)),
        faults=faults,
        notes=[*dict.fromkeys(notes), NOT_CHECKED]
        if repo_id is None or dry_run
        else list(dict.fromkeys(notes)),
    )
    if repo_id is None or dry_run:
        return release
    from ultralong_hf.publishing.uploading import upload

    return upload(release, private=private, api=api)


def _recipe(recipe: Recipe | str | Path | None) -> Recipe | None:
    from ultralong_hf.recipes import load_recipe

    return load_recipe(recipe) if isinstance(recipe, str | Path) else recipe


def _facts(
    folder: Path,
    name: str,
    repo_id: str | None,
    origin: Any,
    inherited: Inherited,
) -> CardFacts:
    config = read_json(folder / CONFIG)
    text = config.get("text_config") or config
    tokenizer = read_json(folder / TOKENIZER_CONFIG) if (folder / TOKENIZER_CONFIG).is_file() else {}
    window = text.get("max_position_embeddings")
    if not isinstance(window, int):
        raise ReleaseError(f"{folder / CONFIG} has no max_position_embeddings: how long is the window?")
    languages = origin.metadata.get("language") or ()
    return CardFacts(
        name=name,
        repo_id=repo_id,
        base=origin.name,
        base_is_on_hub=origin.on_hub,
        window=window,
        rope=rope_rows(text.get(RECORD_KEY), text.get("rope_parameters") or {}, window),
        weights=read_weights(folder),
        licence=inherited.licence,
        licence_name=inherited.name,
        licence_link=inherited.link,
        rules=inherited.rules,
        licence_found=inherited.found,
        languages=(languages,) if isinstance(languages, str) else tuple(map(str, languages)),
        has_chat_template=(folder / "chat_template.jinja").is_file()
        or (folder / "chat_template.json").is_file()
        or bool(tokenizer.get("chat_template")),
        limits=_reader_limits(config, tokenizer),
    )


def _serving(folder: Path, called: str) -> str:
    """How vLLM and SGLang serve the whole window, or why they should not, as Markdown."""
    from ultralong_hf.serving import serve_config

    parts = ["### Serve", "Sizes are estimates for H100s of 80 GB; `ultralong serve-config` gives others."]
    for engine, title in (("vllm", "vLLM"), ("sglang", "SGLang")):
        try:
            found = serve_config(folder, engine=engine, called=called)
        except InputError as error:
            parts.append(f"{title}: {' '.join(error.faults)}")
            continue
        if found.faults:
            parts.append(f"{title} {found.version}: {' '.join(found.faults)}")
        else:
            parts.append(f"{title} {found.version}:\n\n```sh\n{found.shell()}\n```")
    return "\n\n".join(parts)


def _reader_limits(config: dict[str, Any], tokenizer: dict[str, Any]) -> tuple[str, ...]:
    """What other programs make of the config that transformers 5 does not."""
    from transformers import AutoConfig

    from ultralong_hf.errors import RopeError
    from ultralong_hf.rope.readers import compare_readers, with_class_defaults

    try:
        values = dict(config)
        loaded = AutoConfig.for_model(values.pop("model_type"), **values).to_dict()
        compared = compare_readers(with_class_defaults(config, loaded), tokenizer_config=tokenizer)
    except (RopeError, KeyError, ValueError, TypeError):
        return ()  # folder_faults says what is wrong with such a config
    return tuple(warning for one in compared for warning in one.warnings)


def _changes(facts: CardFacts) -> str:
    return (
        f"{facts.name} was made from {facts.base or 'another model'} by changing it: config.json and the "
        f"tokenizer's settings have a window of {facts.window:,} tokens, the weights were trained further."
    )


def _write_card(folder: Path, facts: CardFacts, own: Any, results: str, safety: str | None) -> None:
    text = card_text(facts, results=results, safety=safety)
    metadata = card_metadata(facts, own)
    (folder / CARD).write_text(f"---\n{metadata.to_yaml()}\n---\n\n{text}", encoding="utf-8")


def _licence_notes(inherited: Inherited, base: str | None) -> list[str]:
    if inherited.licence is None:
        return [
            f"the licence of {base or 'the base'} is not known here: the card says so. --licence states it."
        ]
    return []


def _files(folder: Path) -> dict[str, int]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}


def _write_release_file(folder: Path, facts: CardFacts, files: dict[str, int]) -> None:
    from ultralong_hf import __version__

    content = {
        "made_by": f"ultralong-hf {__version__}",
        "name": facts.name,
        "base": facts.base,
        "licence": facts.licence_name or facts.licence,
        "window": facts.window,
        "parameters": facts.weights.parameters,
        "dtypes": facts.weights.dtypes,
        "files": {
            name: {"bytes": size, "sha256": file_sha256(folder / name)} for name, size in files.items()
        },
    }
    write_json(folder / RELEASE_FILE, content)
