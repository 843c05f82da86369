"""serve_config(): the command that serves a model at its length, its sizes, and what speaks against it."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ultralong_hf.errors import ReleaseError
from ultralong_hf.lengths import format_length, parse_length
from ultralong_hf.planning.gpus import CPU, find_gpu
from ultralong_hf.planning.shapes import read_shape
from ultralong_hf.recipes.checking import nearest
from ultralong_hf.rope.folder import CONFIG, TOKENIZER_CONFIG, find_model, read_json
from ultralong_hf.serving.engines import ENGINES, Wanted
from ultralong_hf.serving.rope_check import read_for, rope_faults
from ultralong_hf.serving.sizing import KV_BYTES, Fit, best_fit, kv_bytes_per_token

LARGE_CHUNK, SMALL_CHUNK = 16384, 8192
"""Tokens of a chunk of prefill, on GPUs of 70 GB or more and on others."""
_GIB = 2**30
_FULL_ATTENTION = "full_attention"


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """How to serve a model. `faults`: why it would be served wrongly, or not at all."""

    engine: str
    version: str
    """Of the engine, whose flags and rules these are."""
    model: str
    length: int
    gpu: str
    fit: Fit
    kv_bytes_per_token: float
    """Of all GPUs together, in the cache's type."""
    commands: list[list[str]]
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def shell(self) -> str:
        """The commands for a shell, a flag a line."""
        return "\n".join(_shell(command) for command in self.commands)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "fit": {**asdict(self.fit), "fits": self.fit.fits}, "shell": self.shell()}


def serve_config(
    model: str | Path,
    *,
    engine: str,
    length: int | str | None = None,
    gpus: int | None = None,
    gpu: str = "h100-80g",
    kv_type: str = "auto",
    port: int | None = None,
    called: str | None = None,
) -> ServeConfig:
    """The command that serves `model`, a folder or hub id, with `length` tokens (None: its window).

    `called`: what the command calls it, where that is another place than the one read here. `gpus`: None,
    the least that hold one sequence of the length. `kv_type`: bf16, the engine's smaller type (fp8; q8_0 of
    llama.cpp), or auto: bf16 where it fits. Whether the engine computes the model's RoPE, takes its length
    and has the memory is in `faults`. Raises ReleaseError and PlanError for an engine, type or GPU that is
    none, ModelError for a model that cannot be read.
    """
    if engine not in ENGINES:
        raise ReleaseError(f"{engine!r} is no engine: {', '.join(ENGINES)}.{nearest(engine, ENGINES)}")
    server, card = ENGINES[engine], find_gpu(gpu)
    kv_types = _kv_types(server.kv_types, kv_type, engine)
    folder = find_model(model, with_weights=False)
    config = read_json(folder / CONFIG)
    tokenizer = read_json(folder / TOKENIZER_CONFIG) if (folder / TOKENIZER_CONFIG).is_file() else {}
    view, reference = read_for(engine, config, tokenizer)
    tokens = reference.window if length is None else parse_length(length)
    faults, notes = rope_faults(engine, view, reference, tokens)
    _, shape, told = read_shape(config)
    chunk = min(LARGE_CHUNK if card.memory >= 70e9 else SMALL_CHUNK, max(512, tokens))
    fit = best_fit(
        shape,
        card,
        tokens,
        gpus=gpus,
        chunk=chunk if engine != "transformers" else tokens,
        weight_bytes=2 * shape.parameters,
        kv_types=kv_types,
        context_parallel=server.context_parallel,
        pipeline=server.pipeline,
        tensor=server.tensor,
    )
    faults += _memory_faults(fit, card.name, tokens)
    text = config.get("text_config") or config
    wanted = Wanted(
        model=called or str(model),
        length=tokens,
        fit=fit,
        chunk=chunk,
        dtype="bfloat16" if _dtype(config) == "float32" and card.name != CPU else None,
        port=port or server.port,
        view=view,
        rope=_rope(text),
        architecture=str(config.get("model_type", "llama")),
    )
    notes += [*told, *server.notes, *_notes(engine, wanted, text)]
    return ServeConfig(
        engine=engine,
        version=server.version,
        model=str(model),
        length=tokens,
        gpu=card.name,
        fit=fit,
        kv_bytes_per_token=kv_bytes_per_token(shape, KV_BYTES[fit.kv_type]),
        commands=server.command(wanted),
        faults=faults,
        notes=list(dict.fromkeys(notes)),
    )


def _kv_types(there: tuple[str, ...], asked: str, engine: str) -> tuple[str, ...]:
    if asked == "auto":
        return there
    if asked not in there:
        raise ReleaseError(f"--kv-cache {asked}: {engine} has auto, {', '.join(there)}.")
    return (asked,)


def _memory_faults(fit: Fit, gpu: str, length: int) -> list[str]:
    if fit.fits:
        return []
    return [
        f"one sequence of {format_length(length)} does not fit {fit.gpus} {gpu}: its cache ({fit.kv_type}) "
        f"needs {fit.cache / _GIB:.1f} GiB of each, and {max(0, fit.budget) / _GIB:.1f} GiB are free beside "
        f"weights of {fit.weights / _GIB:.1f} GiB. Take more GPUs, or a shorter --length."
    ]


def _notes(engine: str, wanted: Wanted, text: dict[str, Any]) -> list[str]:
    notes = []
    if wanted.dtype:
        notes.append("the weights are float32: served in bfloat16, and counted so.")
    if wanted.fit.kv_type != "bf16":
        notes.append(
            f"a KV cache in {wanted.fit.kv_type} rounds what is looked back at: measure recall through this "
            "server (`ultralong eval needle MODEL --engine URL`)."
        )
    if wanted.fit.context_parallel > 1:
        notes.append("decode context parallelism needs an attention backend that has it: see vLLM's log.")
    if wanted.fit.pipeline_parallel > 1 and engine in ("vllm", "sglang"):
        notes.append("several nodes: start the engine's cluster (ray or its own) on all of them first.")
    exact = (text.get("ultralong_rope") or {}).get("exact_angles")
    if exact:
        notes.append(
            "the model was trained with exact angles; servers compute them in float32, which is off."
        )
    if engine == "llama.cpp" and wanted.view.rope_type == "llama3":
        notes.append("llama3's scaling is in the GGUF, a factor a pair (rope_freqs): give no rope flags.")
    if engine == "llama.cpp" and wanted.view.rope_type == "yarn":
        notes.append(
            "give the yarn flags each time: the conversion writes the betas, but llama.cpp does not read "
            "them back for most architectures, and takes 32 and 1."
        )
    return notes


def _rope(text: dict[str, Any]) -> dict[str, Any]:
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    return dict(rope.get(_FULL_ATTENTION) or rope)


def _dtype(config: dict[str, Any]) -> str | None:
    return config.get("dtype") or config.get("torch_dtype")


def _shell(command: list[str]) -> str:
    """Flags that have a value stay on one line with it."""
    words = [shlex.quote(word) for word in command]
    first = next((at for at, word in enumerate(words) if word.startswith("--")), len(words))
    lines = [" ".join(words[:first])]
    for word in words[first:]:
        if word.startswith("--"):
            lines.append(word)
        else:
            lines[-1] += f" {word}"
    return " \\\n    ".join(lines)
