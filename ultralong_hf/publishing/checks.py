"""Whether a release folder loads in plain transformers, and whether its card is one that the hub reads."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ultralong_hf.errors import ReleaseError
from ultralong_hf.publishing.carrying import INDEX, weight_files
from ultralong_hf.publishing.licences import HUB_LICENCES
from ultralong_hf.rope.folder import CONFIG, OTHER_WEIGHTS, PICKLES, TOKENIZER_CONFIG, read_json

NOT_CHECKED = (
    "The hub's own check of the metadata (ModelCard.validate) needs the network: it is made at the upload, "
    "before anything is sent."
)
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z]+)?")


@dataclass(frozen=True)
class Weights:
    """What the headers of the shards say."""

    parameters: int
    bytes: int
    dtypes: dict[str, int]
    """Type as safetensors writes it -> parameters."""
    shards: int


def read_weights(folder: Path) -> Weights:
    """Counts from the shards' headers; no tensor is read.

    Raises ReleaseError for a damaged shard, and where index and shards disagree.
    """
    from safetensors import SafetensorError, safe_open

    dtypes: Counter[str] = Counter()
    found: dict[str, str] = {}
    shards = [name for name in weight_files(folder) if name != INDEX]
    for name in shards:
        try:
            with safe_open(folder / name, framework="np") as shard:
                for key in shard.keys():  # noqa: SIM118 -- no mapping
                    piece = shard.get_slice(key)
                    dtypes[piece.get_dtype()] += _product(piece.get_shape())
                    found[key] = name
        except (SafetensorError, OSError) as error:
            raise ReleaseError(f"{folder / name} is no whole safetensors file: {error}.") from error
    if (folder / INDEX).is_file() and len(shards) > 0 and INDEX in weight_files(folder):
        said = read_json(folder / INDEX)["weight_map"]
        if said != found:
            odd = sorted(set(said.items()) ^ set(found.items()))[0]
            raise ReleaseError(f"{folder / INDEX} and its shards disagree about {odd[0]} in {odd[1]}.")
    size = sum((folder / name).stat().st_size for name in shards)
    return Weights(sum(dtypes.values()), size, dict(dtypes), len(shards))


def folder_faults(folder: Path) -> list[str]:
    """Why plain transformers would not load `folder`, or load it wrongly; empty: it does.

    Config and tokenizer are loaded; the model is made without memory, and its weights' names and shapes are
    compared with the shards by transformers itself. Nothing of the folder is executed.
    """
    faults = [
        f"{path.name} must not be in a release."
        for path in folder.rglob("*")
        if path.name.endswith((*PICKLES, *OTHER_WEIGHTS, ".py"))
    ]
    if read_json(folder / CONFIG).get("auto_map"):
        faults.append(
            f"{CONFIG} has auto_map: the model needs code of its own, so plain transformers does not load it."
        )
        return faults
    with _quiet():
        config, reasons = _try(lambda: _auto("AutoConfig").from_pretrained(folder, trust_remote_code=False))
        faults += [f"{CONFIG}: {reason}" for reason in reasons]
        if config is None:
            return faults
        faults += _loading_faults(folder)
        tokenizer, reasons = _try(
            lambda: _auto("AutoTokenizer").from_pretrained(folder, trust_remote_code=False)
        )
        faults += [f"the tokenizer: {reason}" for reason in reasons]
    if tokenizer is not None:
        faults += _tokenizer_faults(tokenizer, config.get_text_config())
    return faults


def card_faults(path: Path) -> list[str]:
    """What huggingface_hub's own reading of a card finds wrong, as far as it works without the network.

    The front matter is read as the hub's client reads it (ModelCard, metadata_load), the results survive a
    round trip through EvalResult, ids have the form of the hub's, pictures are there. See NOT_CHECKED.
    """
    from huggingface_hub import ModelCard
    from huggingface_hub.repocard import metadata_load
    from huggingface_hub.utils import validate_repo_id

    text = path.read_text(encoding="utf-8")
    try:
        card = ModelCard(text, ignore_metadata_errors=False)
        metadata = metadata_load(path) or {}
    except Exception as error:  # YAML's errors, ValueError and KeyError of a wrong model-index
        return [f"{path.name}: its front matter cannot be read: {str(error).splitlines()[0]}"]
    faults = []
    if not metadata:
        faults.append("has no metadata")
    if card.data.to_dict() != metadata:
        faults.append("metadata change when the hub's client reads and writes them")
    if metadata.get("license") == "other" and not metadata.get("license_name"):
        faults.append("license is other, without license_name")
    bases = metadata.get("base_model") or []
    for key, ids in (
        ("base_model", [bases] if isinstance(bases, str) else bases),
        ("datasets", metadata.get("datasets") or []),
    ):
        for one in ids:
            _, reasons = _try(lambda one=one: validate_repo_id(one))
            faults += [f"{key} {one!r} is no id of the hub: {reason}" for reason in reasons]
    languages = metadata.get("language") or []
    for language in [languages] if isinstance(languages, str) else languages:
        if not _LANGUAGE.fullmatch(str(language)):
            faults.append(f"language {language!r} is no ISO 639 code")
    faults += [
        f"picture {name} is not there"
        for name in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", card.text)
        if not (path.parent / name).is_file()
    ]
    return [f"{path.name}: {fault}." for fault in faults]


def unknown_licence(identifier: str | None) -> list[str]:
    """A note where the hub may not know an identifier."""
    if identifier is None or identifier in HUB_LICENCES:
        return []
    return [f"license {identifier!r} is not among the hub's identifiers known here: the hub may refuse it."]


def _loading_faults(folder: Path) -> list[str]:
    model_class = _auto("AutoModelForCausalLM")
    loaded, reasons = _try(
        lambda: model_class.from_pretrained(
            folder,
            device_map="meta",
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are in what it reports
            output_loading_info=True,
            trust_remote_code=False,
        )
    )
    if loaded is None:
        return [f"the model does not load: {reason}" for reason in reasons]
    _, info = loaded
    faults = []
    for kind, what in (
        ("missing_keys", "weights that the config wants are not there"),
        ("unexpected_keys", "weights are there that the config does not want"),
        ("mismatched_keys", "weights have other shapes than the config says"),
    ):
        names = sorted(str(key if isinstance(key, str) else key[0]) for key in info[kind])
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            faults.append(f"{what}: {', '.join(names[:3])}{more}.")
    return faults + [str(message) for message in info["error_msgs"]]


def _tokenizer_faults(tokenizer: Any, text: Any) -> list[str]:
    faults = []
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest >= text.vocab_size:
        faults.append(f"the tokenizer has ids up to {largest:,}, the model {text.vocab_size:,} of them.")
    window = text.max_position_embeddings
    if tokenizer.model_max_length != window:
        faults.append(
            f"{TOKENIZER_CONFIG}: model_max_length {tokenizer.model_max_length:,} is not the window, "
            f"{window:,}; vLLM would take the smaller."
        )
    if tokenizer.chat_template is not None:
        message = [{"role": "user", "content": "Who wrote it?"}]
        rendered, reasons = _try(
            lambda: tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        )
        faults += [f"the chat template fails: {reason}" for reason in reasons]
        if rendered is not None and "Who wrote it?" not in rendered:
            faults.append("the chat template leaves the user's message out.")
    return faults


def _auto(name: str) -> Any:
    import transformers

    return getattr(transformers, name)


def _try(call: Any) -> tuple[Any, list[str]]:
    """The result, or why there is none, on one line."""
    try:
        return call(), []
    except Exception as error:  # whatever a foreign folder makes the libraries raise
        return None, [" ".join(f"{type(error).__name__}: {error}".split())[:300]]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' own reports, which are told here as faults."""
    from transformers.utils import logging as theirs

    level, bars = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    theirs.set_verbosity(logging.CRITICAL)
    theirs.disable_progress_bar()
    try:
        yield
    finally:
        theirs.set_verbosity(level)
        if bars:
            theirs.enable_progress_bar()


def _product(shape: list[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
