"""The command line of each server, as a list of arguments, with the flags of the versions named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ultralong_hf.rope.reader_rules import ReaderView
from ultralong_hf.serving.other_readers import rope_flags
from ultralong_hf.serving.sizing import UTILIZATION, Fit

ANSWER = 4096
"""Tokens that TGI, which wants a bound of prompts too, keeps free for the answer; a quarter at most."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a command is to say."""

    model: str
    length: int
    fit: Fit
    chunk: int
    dtype: str | None
    """To be named where the server would choose another for these weights; None: as in the file."""
    port: int
    view: ReaderView
    rope: dict[str, Any]
    architecture: str


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A server: where its flags were read, what it can do."""

    version: str
    command: Callable[[Wanted], list[list[str]]]
    """The commands to run, in order."""
    kv_types: tuple[str, ...] = ("bf16", "fp8")
    context_parallel: bool = False
    pipeline: bool = True
    tensor: bool = True
    port: int = 8000
    notes: tuple[str, ...] = field(default=())


def _vllm(wanted: Wanted) -> list[list[str]]:
    fit = wanted.fit
    line = ["vllm", "serve", wanted.model, "--host", "127.0.0.1", "--port", str(wanted.port)]
    line += ["--max-model-len", str(wanted.length), *_pair("--dtype", wanted.dtype)]
    line += _size("--tensor-parallel-size", fit.tensor_parallel)
    line += _size("--pipeline-parallel-size", fit.pipeline_parallel)
    line += _size("--decode-context-parallel-size", fit.context_parallel)
    line += ["--enable-chunked-prefill", "--max-num-batched-tokens", str(wanted.chunk)]
    line += ["--kv-cache-dtype", "fp8" if fit.kv_type == "fp8" else "auto"]
    return [[*line, "--gpu-memory-utilization", f"{UTILIZATION:g}"]]


def _sglang(wanted: Wanted) -> list[list[str]]:
    fit = wanted.fit
    line = ["python", "-m", "sglang.launch_server", "--model-path", wanted.model]
    line += ["--host", "127.0.0.1", "--port", str(wanted.port), "--context-length", str(wanted.length)]
    line += _pair("--dtype", wanted.dtype)
    line += _size("--tp-size", fit.tensor_parallel)
    line += _size("--pp-size", fit.pipeline_parallel)
    line += ["--chunked-prefill-size", str(wanted.chunk)]
    line += ["--kv-cache-dtype", "fp8_e4m3" if fit.kv_type == "fp8" else "auto"]
    return [[*line, "--mem-fraction-static", "0.88"]]


def _tgi(wanted: Wanted) -> list[list[str]]:
    fit = wanted.fit
    answer = min(ANSWER, wanted.length // 4)
    line = ["text-generation-launcher", "--model-id", wanted.model]
    line += ["--hostname", "127.0.0.1", "--port", str(wanted.port)]
    line += ["--max-input-tokens", str(wanted.length - answer), "--max-total-tokens", str(wanted.length)]
    line += ["--max-batch-prefill-tokens", str(wanted.chunk), *_size("--num-shard", fit.tensor_parallel)]
    line += _pair("--dtype", wanted.dtype)
    return [[*line, *(["--kv-cache-dtype", "fp8_e4m3fn"] if fit.kv_type == "fp8" else [])]]


def _transformers(wanted: Wanted) -> list[list[str]]:
    line = ["transformers", "serve", wanted.model, "--host", "127.0.0.1", "--port", str(wanted.port)]
    return [[*line, *_pair("--dtype", wanted.dtype)]]


def _llama_cpp(wanted: Wanted) -> list[list[str]]:
    file = f"{Path(wanted.model).name}.gguf"
    convert = ["python", "convert_hf_to_gguf.py", wanted.model, "--outfile", file, "--outtype", "bf16"]
    serve = ["llama-server", "--model", file, "--host", "127.0.0.1", "--port", str(wanted.port)]
    serve += ["--ctx-size", str(wanted.length), "--parallel", "1", "--n-gpu-layers", "all"]
    serve += ["--flash-attn", "on", "--batch-size", str(wanted.chunk), "--ubatch-size", "2048"]
    if wanted.fit.kv_type == "q8_0":
        serve += ["--cache-type-k", "q8_0", "--cache-type-v", "q8_0"]
    return [convert, [*serve, *rope_flags(wanted.view, wanted.rope, wanted.architecture)]]


def _size(flag: str, value: int) -> list[str]:
    return [flag, str(value)] if value > 1 else []


def _pair(flag: str, value: str | None) -> list[str]:
    return [flag, value] if value is not None else []


ENGINES: dict[str, Engine] = {
    "vllm": Engine(version="0.33.0", command=_vllm, context_parallel=True),
    "sglang": Engine(version="0.5.23", command=_sglang, port=30000),
    "tgi": Engine(
        version="3",
        command=_tgi,
        pipeline=False,
        port=8080,
        notes=(
            "prompts longer than --max-batch-prefill-tokens are taken in chunks where TGI's attention can, "
            "which it says when it starts; else raise it to --max-input-tokens, and the memory with it.",
        ),
    ),
    "transformers": Engine(
        version="5.23.0",
        command=_transformers,
        kv_types=("bf16",),
        tensor=False,
        notes=(
            "transformers serve has no bound of the length: a prompt beyond the window is read, and badly.",
            "it prefills in one piece; for long prompts vLLM or SGLang need less memory.",
        ),
    ),
    "llama.cpp": Engine(
        version="August 2026",
        command=_llama_cpp,
        kv_types=("bf16", "q8_0"),
        tensor=False,
        port=8080,
    ),
}
"""Name -> server."""
