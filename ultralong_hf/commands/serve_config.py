"""`ultralong serve-config`: the command that serves a model at its full length, and checks of a server."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ultralong_hf.serving import ServeConfig
    from ultralong_hf.serving.asking import Served

EXAMPLE = """\
example: how to serve 1M tokens by vLLM, on the least H100s that hold them

  ultralong serve-config llama-1m --engine vllm --gpu h100-80g --length 1M

Then ask the server that runs whether it has that window:

  ultralong serve-config llama-1m --engine vllm --length 1M --check http://127.0.0.1:8000/v1
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `ultralong serve-config`."""
    parser.epilog = EXAMPLE
    add = parser.add_argument
    add("model", metavar="MODEL", help="a model folder, such as `ultralong publish` writes, or a hub id")
    add("--engine", required=True, metavar="NAME", help="vllm, sglang, tgi, transformers or llama.cpp")
    add("--length", metavar="TOKENS", help="to serve, such as 1M (default: the model's window)")
    add("--gpus", type=int, metavar="N", help="default: the least that hold one sequence of the length")
    add(
        "--gpu",
        default="h100-80g",
        metavar="NAME",
        help="as of `ultralong plan --gpu list`; cpu: this one",
    )
    add(
        "--kv-cache",
        default="auto",
        metavar="TYPE",
        help="bf16, fp8 (llama.cpp: q8_0), or auto: bf16 where it fits",
    )
    add("--port", type=int, help="default: the engine's own")
    add("--check", metavar="URL", help="ask a running server, such as http://127.0.0.1:8000/v1")
    add("--api-key-env", metavar="NAME", help="environment variable with the key of --check")
    add("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Status 2 where the engine would serve another model than was trained, or has not the memory."""
    from ultralong_hf.serving import serve_config

    found = serve_config(
        args.model,
        engine=args.engine,
        length=args.length,
        gpus=args.gpus,
        gpu=args.gpu,
        kv_type=args.kv_cache,
        port=args.port,
    )
    served = _ask(args, found.length) if args.check else None
    faults = [*found.faults, *(served.faults if served else ())]
    if args.json:
        checked = None if served is None else vars(served)
        print(json.dumps({**found.to_dict(), "checked": checked}, indent=1, default=list))
    else:
        print(text_of(found, served))
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    return 2 if faults else 0


def _ask(args: argparse.Namespace, length: int) -> Served:
    from ultralong_hf.endpoint import EndpointClient
    from ultralong_hf.serving.asking import ask_server

    with EndpointClient(args.check, api_key_env=args.api_key_env, timeout=30.0, retries=1) as client:
        return ask_server(client, name=args.model, length=length)


def text_of(found: ServeConfig, served: Served | None = None) -> str:
    """The command, then the arithmetic as comments, so that the whole is a script."""
    fit, gib = found.fit, 2**30
    lines = [
        f"# {found.engine} {found.version}, {found.length:,} tokens on {fit.gpus} x {found.gpu}",
        f"# KV cache: {found.kv_bytes_per_token / 1024:,.1f} KiB a token in {fit.kv_type}, "
        f"{fit.cache / gib:.1f} GiB a sequence on each GPU",
        f"# of each GPU: weights {fit.weights / gib:.1f} GiB, a chunk of prefill {fit.chunk / gib:.1f} GiB, "
        f"left for the cache {max(0, fit.budget) / gib:.1f} GiB: {fit.sequences:,} of "
        "the full length (estimated)",
    ]
    lines += [f"# {note}" for note in found.notes]
    lines.append(found.shell())
    if served is not None:
        window = "does not say its window" if served.window is None else f"serves {served.window:,} tokens"
        lines.append(f"# {served.url} {window} of {served.model}")
        lines += [f"# {note}" for note in served.notes]
    return "\n".join(lines)
