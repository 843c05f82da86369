"""`ultralong extend`: write a model folder whose RoPE is stretched to a longer window."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path

_EPILOG = """example: write Llama-3.1-8B-Instruct with a window of 1M tokens, by the ramp of the YaRN paper

  ultralong extend meta-llama/Llama-3.1-8B-Instruct --target 1M --method llama3 --output llama-1m

Weights are hard-linked, never read, so that a 16 GB folder takes seconds. Save a trained model elsewhere than
in the folder written here: its weights are the very files of the source.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The options of `ultralong extend`."""
    parser.epilog = _EPILOG
    parser.add_argument("model", metavar="MODEL", help="a model folder, or a hub id")
    parser.add_argument("--target", required=True, metavar="LENGTH", help="the new window: 128K, 1M, 1048576")
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="where to write; must not exist or be empty"
    )
    parser.add_argument(
        "--method", default="yarn", metavar="NAME", help="yarn (default), llama3, ntk, linear or none"
    )
    parser.add_argument("--scale", type=float, metavar="S", help="default: target / original length")
    parser.add_argument(
        "--original-length", metavar="LENGTH", help="window before any stretch; default: the config's"
    )
    parser.add_argument(
        "--beta-slow", type=float, default=1.0, metavar="TURNS", help="fully stretched below (default 1)"
    )
    parser.add_argument(
        "--beta-fast", type=float, default=4.0, metavar="TURNS", help="not stretched above (default 4)"
    )
    parser.add_argument(
        "--attention-factor",
        type=float,
        metavar="T",
        help="of yarn; default: 0.1 ln S + 1; SGLang drops another",
    )
    parser.add_argument(
        "--exact-angles", action="store_true", help="record that angles are to be computed exactly"
    )
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Writes the folder and says what was written; warnings go to stderr, a line each."""
    from ultralong_hf.rope.extend import RopeWarning, extend_context
    from ultralong_hf.rope.families import RECORD_KEY, rope_section

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RopeWarning)
        config = extend_context(
            args.model,
            args.target,
            method=args.method,
            scale=args.scale,
            original_length=args.original_length,
            beta_slow=args.beta_slow,
            beta_fast=args.beta_fast,
            attention_factor=args.attention_factor,
            exact_angles=args.exact_angles,
            output_dir=args.output,
        )
    told = [note for w in caught if isinstance(w.message, RopeWarning) for note in w.message.notes]
    section = rope_section(config)
    written = {
        "output": str(Path(args.output).expanduser().absolute()),
        "target_length": section.max_position_embeddings,
        **getattr(section, RECORD_KEY),
        "rope_parameters": section.rope_parameters,
        "warnings": told,
    }
    for line in told:
        print(f"warning: {line}", file=sys.stderr)
    if args.json:
        print(json.dumps(written))
    else:
        print(
            f"{args.output}: {written['target_length']:,} tokens, method {written['method']}, "
            f"scale {written['scale']:g} on {written['original_length']:,}"
        )
    return 0
