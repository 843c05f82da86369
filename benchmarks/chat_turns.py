"""Time to the first token of a chat's second turn: the documents' cache kept, against reading all anew.

python benchmarks/chat_turns.py [--quick] [--lengths 2K,4K,8K,16K] [--repeats 3]

Both sides answer the same prompt on the same engine in turn, one in the session of the first turn, one in a
session that has read nothing; both must give the same token. Documents are tokenized before. The clock runs
from the question to the first token, the writing of the prompt included. Models: the shape of the lab's (0.7M
parameters, beyond whose window times are taken all the same), and a Llama of 110M random parameters.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import threading
import time
from typing import Any

# Read when torch loads: threads that wait by spinning slow each other on a machine that others use too.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from ultralong_hf.chat.documents import Document
from ultralong_hf.chat.engine import Options, Question, Reply
from ultralong_hf.chat.engine_local import LocalEngine
from ultralong_hf.chat.prompting import Turn
from ultralong_hf.evaluation.engines import TransformersEngine
from ultralong_hf.lab.base import base_model_path
from ultralong_hf.lab.corpus import held_out_documents
from ultralong_hf.lengths import format_length, parse_length

TARGET = 20.0
"""The issue's, at the longest length on the larger model."""
OPTIONS = Options(max_new_tokens=1, passages=0)
FIRST, SECOND = "What is this about?", "Which words stand in its second line?"


def make_engine(name: str, tokenizer: Any) -> LocalEngine:
    torch.manual_seed(0)
    if name == "lab":
        model = AutoModelForCausalLM.from_pretrained(base_model_path(), dtype="auto")
    else:
        config = LlamaConfig(
            vocab_size=32_000,
            hidden_size=768,
            intermediate_size=2_048,
            num_hidden_layers=12,
            num_attention_heads=12,
            num_key_value_heads=12,
            max_position_embeddings=32_768,
            tie_word_embeddings=True,
        )
        model = LlamaForCausalLM(config)
    engine = LocalEngine(
        TransformersEngine(model, tokenizer), name=name, style="bare", cache_bytes=8 * 1024**3
    )
    engine.window = None
    return engine


def make_document(engine: LocalEngine, tokens: int) -> Document:
    """Held-out text of about so many tokens."""
    text = "\n".join(held_out_documents())
    encoded = engine.encode("making", Document("all", text[: 8 * tokens], "text"))
    end = encoded.characters(engine.writer.plain, 0, min(tokens, len(encoded)))[1]
    engine.forget("making")
    return Document(f"{tokens} tokens", text[:end], "text")


def ask(engine: LocalEngine, asked: Question) -> tuple[float, Reply]:
    """(seconds to the first token, which is the only one)."""
    began = time.perf_counter()
    *_, reply = engine.ask(asked, OPTIONS, threading.Event())
    seconds = time.perf_counter() - began
    assert isinstance(reply, Reply)
    return seconds, reply


def measure(engine: LocalEngine, tokens: int, repeats: int) -> dict[str, Any]:
    document = make_document(engine, tokens)
    engine.encode("kept", document)
    _, first = ask(engine, Question("kept", (document,), FIRST))
    turns = (Turn(FIRST, first.text, first.ids),)
    second = Question("kept", (document,), SECOND, turns)
    times: dict[str, list[float]] = {"kept": [], "fresh": []}
    for repeat in range(repeats):
        # Asked again and again, only the question is new to the kept side: as it was the first time.
        kept, reply = ask(engine, dataclasses.replace(second, question=f"{SECOND} ({repeat})"))
        engine.encode("fresh", document)
        fresh, anew = ask(
            engine, dataclasses.replace(second, session="fresh", question=f"{SECOND} ({repeat})")
        )
        engine.forget("fresh")
        assert anew.reused_tokens == 0
        assert reply.reused_tokens is not None
        assert reply.reused_tokens >= tokens
        assert reply.ids == anew.ids, "the kept cache answers otherwise than a fresh reading"
        times["kept"].append(kept)
        times["fresh"].append(fresh)
    engine.forget("kept")
    middle = {side: statistics.median(taken) for side, taken in times.items()}
    return {
        "model": engine.name,
        "tokens": tokens,
        "prompt_tokens": reply.prompt_tokens,
        "reused_tokens": reply.reused_tokens,
        "kept_seconds": middle["kept"],
        "fresh_seconds": middle["fresh"],
        "spread": {side: [min(taken), max(taken)] for side, taken in times.items()},
        "ratio": middle["fresh"] / middle["kept"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="1K and 2K, once each")
    parser.add_argument("--lengths", default="2K,4K,8K,16K")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    lengths = [parse_length(text) for text in ("1K,2K" if args.quick else args.lengths).split(",")]
    repeats = 1 if args.quick else args.repeats
    tokenizer = AutoTokenizer.from_pretrained(base_model_path())
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads of {os.cpu_count()} cores, "
        f"{platform.processor() or platform.machine()}; load {os.getloadavg()[0]:.1f}"
    )
    print(
        f"{'model':>6} {'tokens':>8} {'fresh s':>9} {'kept s':>9} {'ratio':>7}   fresh, kept: least to most"
    )
    rows = []
    for name in ("lab", "110M"):
        engine = make_engine(name, tokenizer)
        for tokens in lengths:
            row = measure(engine, tokens, repeats)
            rows.append(row)
            spread = ", ".join("{:.4f} to {:.4f}".format(*row["spread"][side]) for side in ("fresh", "kept"))
            print(
                f"{name:>6} {format_length(tokens):>8} {row['fresh_seconds']:>9.3f} "
                f"{row['kept_seconds']:>9.4f} {row['ratio']:>7.1f}   {spread}",
                flush=True,
            )
    ratios = {f"{row['model']} {format_length(row['tokens'])}": round(row["ratio"], 2) for row in rows}
    targets = {f"110M {format_length(max(lengths))}": TARGET}
    met = all(ratios[name] >= target for name, target in targets.items())
    print(
        json.dumps(
            {"benchmark": "chat_turns", "ratios": ratios, "targets": targets, "met": met, "rows": rows}
        )
    )


if __name__ == "__main__":
    main()
