"""`ultralong publish`: a trained model as a folder that others can load, with its card; and to the hub."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultralong_hf.errors import ReleaseError

if TYPE_CHECKING:
    from ultralong_hf.publishing import Release

EXAMPLE = """\
example: look at the release of a finished run of the recipe `lab`, evaluated before and after

  ultralong publish outputs/lab/sft --recipe lab --report outputs/before --report outputs/after \\
      --output outputs/release/tiny-4k --dry-run

Merge 0.7 of the extended model with 0.3 of its original, whose short-context skills come back so:

  ultralong publish --merge outputs/lab/sft lab --weights 0.7,0.3 --output outputs/release/merged

Then upload the same, with the token of `hf auth login` or of HF_TOKEN:

  ultralong publish outputs/lab/sft --recipe lab --report outputs/before --report outputs/after \\
      --output outputs/release/tiny-4k --repo-id me/tiny-4k --private
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `ultralong publish`."""
    parser.epilog = EXAMPLE
    add = parser.add_argument
    add("model", nargs="?", metavar="MODEL", help="a trained model's folder")
    add(
        "--merge",
        nargs="+",
        metavar="MODEL",
        help="in place of MODEL: an adapter (into its base), or models whose mean is taken; config, RoPE and "
        "tokenizer are those of the first",
    )
    add("--weights", metavar="W,W", help="of the models of --merge, such as 0.7,0.3 (default: all alike)")
    add("--output", required=True, metavar="DIR", help="where to write; an earlier release there is replaced")
    add("--recipe", metavar="RECIPE", help="preset or file; tells data, settings, cost and base")
    add(
        "--report",
        action="append",
        default=[],
        metavar="RUN",
        help="output folder of `ultralong eval`, of this model or of one to hold it to (repeat)",
    )
    add(
        "--base",
        metavar="ORIGINAL",
        help="hub id or folder, whose licence is inherited; default: the recipe's",
    )
    add("--name", metavar="NAME", help="default: the last part of --repo-id, else of --output")
    add("--licence", metavar="ID", help="as the hub writes it, such as llama3.1; default: the base's")
    add("--hardware", metavar="TEXT", help='what it was trained on, such as "8 x H100"')
    add("--repo-id", metavar="ORG/NAME", help="upload to this repository of the hub")
    add("--private", action="store_true", help="make the repository private, where it is new")
    add("--dry-run", action="store_true", help="everything but the upload: files, sizes, faults")
    add("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Status 2 where the release has faults, a line each; the folder is written all the same."""
    from ultralong_hf.publishing import publish

    if (args.model is None) == (args.merge is None):
        raise ReleaseError("Name one MODEL, or models after --merge.")
    if args.weights and not args.merge:
        raise ReleaseError("--weights are of the models of --merge.")
    if args.merge:
        return _merge_and_publish(args)
    return show(publish(args.model, **_options(args)), as_json=args.json)


def _merge_and_publish(args: argparse.Namespace) -> int:
    """The merge lies beside the output until its weights are linked into the release."""
    from ultralong_hf.publishing import publish
    from ultralong_hf.publishing.merging import is_adapter, merge_adapter, merge_models

    output = Path(args.output).expanduser().absolute()
    folder = output.with_name(f".{output.name}.merged")
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    try:
        if len(args.merge) == 1 and is_adapter(args.merge[0]):
            merged = merge_adapter(args.merge[0], output_dir=folder, base=args.base)
            args.base = merged.base
        else:
            merged = merge_models(args.merge, output_dir=folder, weights=_weights(args.weights))
        release = publish(folder, merged=merged.told, **_options(args))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return show(replace(release, notes=[merged.told, *merged.notes, *release.notes]), as_json=args.json)


def _weights(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ReleaseError(f"--weights {text}: give numbers with commas between, such as 0.7,0.3.") from None


def _options(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "output_dir": args.output,
        "recipe": args.recipe,
        "reports": args.report,
        "base": args.base,
        "name": args.name,
        "licence": args.licence,
        "hardware": args.hardware,
        "repo_id": args.repo_id,
        "private": args.private,
        "dry_run": args.dry_run,
    }


def show(release: Release, *, as_json: bool) -> int:
    """Prints a release; the exit status."""
    print(json.dumps(release.to_dict(), indent=1) if as_json else release_text(release))
    for fault in release.faults:
        print(f"error: {fault}", file=sys.stderr)
    return 2 if release.faults else 0


def release_text(release: Release) -> str:
    """Files with their sizes, then what was done with them, then notes."""
    from ultralong_hf.rope.tables import aligned

    rows = [[name, f"{size:,}"] for name, size in release.files.items()]
    rows.append([f"{len(release.files)} files", f"{release.bytes:,} bytes"])
    where = f"uploaded: {release.url}" if release.url else _not_uploaded(release)
    lines = [aligned(rows, left=1), "", f"{release.folder}: licence {release.licence or 'unknown'}", where]
    return "\n".join([*lines, *(f"note: {note}" for note in release.notes)])


def _not_uploaded(release: Release) -> str:
    if release.repo_id:
        return f"not uploaded (--dry-run); it would go to {release.repo_id}"
    return "not uploaded: no --repo-id was given"
