"""`ultralong chat`: the page over a model, a server, or the lab's model."""

from __future__ import annotations

import argparse
import os
import signal
from typing import Any

from ultralong_hf.errors import ChatError, InputError

AUTH_VARIABLE = "ULTRALONG_CHAT_AUTH"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "example: ultralong chat --documents handbook.pdf notes/\n"
        "example: ultralong chat --engine http://127.0.0.1:8000/v1 --model NAME"
    )
    parser.add_argument("model", nargs="?", help="folder or hub id (default: the lab's extended model)")
    engine = parser.add_argument_group("engine")
    engine.add_argument(
        "--engine", default="transformers", metavar="URL", help="an OpenAI-compatible server, such as vLLM"
    )
    engine.add_argument("--model", dest="server_model", metavar="NAME", help="the model's name at the server")
    engine.add_argument("--tokenizer", help="beside a server: folder or hub id, for exact counts")
    engine.add_argument("--report", help="report.json of an evaluation, or its folder: measured recall")
    engine.add_argument("--style", choices=("guided", "bare"), help="how documents are framed")
    engine.add_argument("--device", help="such as cuda:1 or cpu (default: the first GPU, if there is one)")
    engine.add_argument("--dtype", default="auto", help="such as bfloat16 (default: the model's own)")
    engine.add_argument("--cache-gib", type=float, metavar="N", help="memory of all KV caches")
    engine.add_argument("--offload-cache", action="store_true", help="KV caches in the host's memory")
    engine.add_argument("--running", type=int, metavar="N", help="questions that are answered at once")
    answers = parser.add_argument_group("answers")
    answers.add_argument("--documents", nargs="+", default=[], metavar="PATH", help="what a chat opens with")
    answers.add_argument("--max-new-tokens", type=int, metavar="N", help="longest answer (512; lab: 32)")
    answers.add_argument("--temperature", type=float, default=0.0)
    where = parser.add_argument_group("server")
    where.add_argument("--host", default="127.0.0.1", help="default: this machine alone")
    where.add_argument("--port", type=int, help="default: the first free one from 7860 on")
    where.add_argument("--share", action="store_true", help="a public address through gradio.live")
    where.add_argument(
        "--auth", action="append", default=[], metavar="USER:PASSWORD",
        help=f"who may come in; may be given again. {AUTH_VARIABLE} is read too, which `ps` does not show",
    )  # fmt: skip
    where.add_argument("--open", action="store_true", help="open the browser")


def run(args: argparse.Namespace) -> int:
    # Read when torch loads. Threads that wait by spinning make a busy machine of 2 cores four times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from ultralong_hf.chat.page.serving import Where, serve

    where = Where(host=args.host, port=args.port, share=args.share, auth=_auth(args.auth))
    _check(args)
    _need_gradio()
    service, documents = _service(args)
    served = serve(service, where, documents=documents, open_browser=args.open)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stopped service deletes as Ctrl-C does
    try:
        served.wait()
    except KeyboardInterrupt:
        print("closed; documents, chats and caches are deleted.")
    finally:
        served.close()
    return 0


def _service(args: argparse.Namespace) -> tuple[Any, list[Any]]:
    from ultralong_hf.chat.documents import read_documents
    from ultralong_hf.chat.engine import Options
    from ultralong_hf.chat.opening import open_chat_engine
    from ultralong_hf.chat.session import ChatService

    readings = read_documents(args.documents) if args.documents else None
    if readings is not None and readings.refusals:
        raise ChatError(*[f"--documents {refusal}" for refusal in readings.refusals])
    options: dict[str, Any] = {} if args.running is None else {"running": args.running}
    is_server = args.engine != "transformers"
    if not is_server:
        options["offloaded"] = args.offload_cache
        if args.cache_gib is not None:
            options["cache_bytes"] = int(args.cache_gib * 1024**3)
    model = args.server_model or args.model
    engine, recall = open_chat_engine(
        model, args.engine, tokenizer=args.tokenizer, report=args.report, style=args.style,
        device=args.device, dtype=args.dtype, **options,
    )  # fmt: skip
    longest = args.max_new_tokens or (32 if model is None and not is_server else 512)
    service = ChatService(
        engine, recall=recall, options=Options(max_new_tokens=longest, temperature=args.temperature)
    )
    return service, readings.documents if readings else []


def _check(args: argparse.Namespace) -> None:
    faults = []
    if args.server_model and args.model:
        faults.append(f"--model {args.server_model} names a model beside {args.model}: give one of them.")
    if args.engine != "transformers" and (args.cache_gib is not None or args.offload_cache):
        faults.append("--cache-gib and --offload-cache are for a model in this process, not for a server.")
    for name, value in (("--max-new-tokens", args.max_new_tokens), ("--running", args.running)):
        if value is not None and value < 1:
            faults.append(f"{name} {value} must be at least 1.")
    if args.cache_gib is not None and args.cache_gib <= 0:
        faults.append(f"--cache-gib {args.cache_gib} must be above 0.")
    if not 0 <= args.temperature <= 2:
        faults.append(f"--temperature {args.temperature} must be from 0 to 2.")
    if args.port is not None and not 0 < args.port < 65_536:
        faults.append(f"--port {args.port} is no port: take one from 1 to 65,535.")
    if faults:
        raise InputError(*faults)


def _auth(given: list[str]) -> tuple[tuple[str, str], ...]:
    pairs = []
    for text in given or [value for value in (os.environ.get(AUTH_VARIABLE),) if value]:
        user, colon, password = text.partition(":")
        if not (user and colon and password):
            raise InputError("--auth takes USER:PASSWORD, both of them not empty.")
        pairs.append((user, password))
    return tuple(pairs)


def _need_gradio() -> None:
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise InputError("The page needs Gradio: pip install 'ultralong-hf[chat]'.") from error
