"""A token store made by datatrove: each task tokenizes one part of the documents, a last one joins the parts.

    python examples/datatrove_prepare.py 'corpus/*.jsonl.gz' --tokenizer meta-llama/Llama-3.1-8B-Instruct \
        --target-length 1M --output store-1m --tasks 16 --workers 4

The store has the bytes that `ultralong prepare` gives on one machine. Run the same command again after an
interruption: datatrove skips the tasks that are done, and a task goes on from the last whole file of its
part.

On a cluster, datatrove's SlurmPipelineExecutor takes the same two pipelines; all nodes see the folder of the
parts. Other settings of `prepare_dataset` (filters, mixture, order) are added to `options` below.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from datatrove.data import DocumentsPipeline
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep

from ultralong_hf.data.storing.parts import merge_parts, prepare_part
from ultralong_hf.errors import UltraLongError


class TokenizePart(PipelineStep):
    """Tokenizes the part of its task. `options`: those of `prepare_dataset`."""

    type = "📏 - ULTRALONG"
    name = "tokenize a part"

    def __init__(self, sources: list[dict[str, Any]], parts: str, **options: Any) -> None:
        super().__init__()
        self.sources = sources
        self.parts = parts
        self.options = options

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
        with self.track_time():
            folder = Path(self.parts, f"{rank:05d}")
            facts = prepare_part(self.sources, part=f"{rank}/{world_size}", output_dir=folder, **self.options)
            for name in ("documents", "tokens"):
                self.stat_update(name, value=facts[name], unit="task")


class MergeParts(PipelineStep):
    """Joins the parts into the store, in one task."""

    type = "📏 - ULTRALONG"
    name = "join the parts"

    def __init__(self, parts: str, count: int, output: str) -> None:
        super().__init__()
        self.parts = parts
        self.count = count
        self.output = output

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
        with self.track_time():
            folders = [Path(self.parts, f"{index:05d}") for index in range(self.count)]
            rows = merge_parts(self.output, folders)
            self.stat_update("rows", value=len(rows), unit="task")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="file, folder or glob in quotes")
    parser.add_argument("--tokenizer", required=True, metavar="MODEL", help="folder or Hub id")
    parser.add_argument("--target-length", required=True, metavar="LENGTH", help="tokens of a row: 128K, 1M")
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="the store; the parts lie in DIR-parts"
    )
    parser.add_argument("--tasks", type=int, default=2, metavar="N", help="parts (default: 2)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="tasks at a time (default: 2)")
    chosen = parser.parse_args()
    parts = f"{chosen.output}-parts"
    options = {
        "tokenizer": chosen.tokenizer,
        "target_length": chosen.target_length,
        "workers": 1,  # cores a task
    }
    tokenizing = LocalPipelineExecutor(
        pipeline=[TokenizePart([{"path": source} for source in chosen.sources], parts, **options)],
        tasks=chosen.tasks,
        workers=chosen.workers,
        logging_dir=f"{parts}/logs/tokenize",
    )
    merging = LocalPipelineExecutor(
        pipeline=[MergeParts(parts, chosen.tasks, chosen.output)],
        tasks=1,
        logging_dir=f"{parts}/logs/merge",
        depends=tokenizing,
    )
    try:
        merging.run()
    except UltraLongError as error:
        for fault in error.faults:
            print(f"error: {fault}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
