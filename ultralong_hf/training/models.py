"""The model and the tokenizer that a stage starts from."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from ultralong_hf.errors import MachineError, ModelError
from ultralong_hf.lab.names import model_location
from ultralong_hf.memory.kernels import apply_liger_kernels
from ultralong_hf.recipes.schema import ModelSection, Recipe
from ultralong_hf.rope import extend_context
from ultralong_hf.rope.exact import install_exact_angles, wants_exact_angles
from ultralong_hf.rope.stretch import is_stretched

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


def load_model(section: ModelSection, name_or_path: str | None = None) -> PreTrainedModel:
    """The model of `section`, or of `name_or_path` with the section's other settings; safetensors only."""
    name = model_location(name_or_path or section.name_or_path)
    return _load(
        AutoModelForCausalLM,
        name,
        dtype=section.dtype,
        attn_implementation=section.attn_implementation,
        trust_remote_code=section.trust_remote_code,
        use_safetensors=True,
        **_revision(section, name_or_path),
    )


def load_config(section: ModelSection, name_or_path: str | None = None) -> PretrainedConfig:
    """The config of what `load_model` loads with the same arguments, without its weights."""
    name = model_location(name_or_path or section.name_or_path)
    return _load(
        AutoConfig, name, trust_remote_code=section.trust_remote_code, **_revision(section, name_or_path)
    )


def load_tokenizer(section: ModelSection, name_or_path: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer that belongs to `load_model` with the same arguments."""
    name = model_location(name_or_path or section.name_or_path)
    return _load(
        AutoTokenizer, name, trust_remote_code=section.trust_remote_code, **_revision(section, name_or_path)
    )


def load_both(
    section: ModelSection, model: PreTrainedModel | str | None, tokenizer: PreTrainedTokenizerBase | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model and its tokenizer; those that are loaded already, as they are."""
    if model is None or isinstance(model, str):
        return load_model(section, model), tokenizer or load_tokenizer(section, model)
    if tokenizer is None:
        raise ModelError("A loaded model was given without its tokenizer: pass tokenizer= too.")
    return model, tokenizer


def extend_by_recipe(model: PreTrainedModel, recipe: Recipe) -> None:
    """The model's RoPE stretched in place, as the section `rope` says; one that is so already stays so."""
    arguments = rope_arguments(recipe)
    if is_stretched(model.config, recipe.window, **arguments):
        if wants_exact_angles(model.config):
            install_exact_angles(model)
        return
    extend_context(model, recipe.window, **arguments)


def rope_arguments(recipe: Recipe) -> dict[str, Any]:
    """The arguments of `extend_context` that the section `rope` holds, all but the length."""
    values = asdict(recipe.rope)
    del values["target_length"]
    return values


def apply_kernels(model: PreTrainedModel, section: ModelSection) -> None:
    """Liger's kernels, if the recipe asks for them."""
    if section.liger_kernels:
        apply_liger_kernels(model)


def _revision(section: ModelSection, name_or_path: str | None) -> dict[str, str]:
    """The revision belongs to the section's own model, not to a folder that is named beside it."""
    return {"revision": section.revision} if section.revision and name_or_path is None else {}


def _load(auto: Any, name: str, **kwargs: Any) -> Any:
    try:
        return auto.from_pretrained(name, **kwargs)
    except ImportError as error:  # flash-attn, for one
        raise MachineError(f"{name} cannot be loaded here: {_first_line(error)}") from error
    except (OSError, ValueError) as error:
        what = "folder" if Path(name).exists() else "model of this name, here or on the Hub,"
        raise ModelError(f"{name}: no {what} that can be loaded: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
