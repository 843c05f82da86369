"""A server of runs to be killed: everything is imported once, each run is a fork of it.

Usage: killed_runs.py SOURCE FOLDER SEED KILLS WAY. Makes the store FOLDER/whole without a stop, then stores
that are killed at random moments and gone on with until they are done, until so many kills have hit; all must
be equal. WAY is cache or straight: how ids come into rows. Prints {"kills": ..., "stores": ..., "phases":
{what a kill left behind: how often}} as JSON.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

from tiny_tokenizers import byte_tokenizer

from ultralong_hf.data.encoding import filling, token_cache
from ultralong_hf.data.packing import prepare_dataset
from ultralong_hf.data.store import LOCK

TOKENIZER = byte_tokenizer()


CACHE = {
    "order": "shuffled",
    "mixture": {"short_below": 100, "short_keep": 0.5, "long_above": 1000, "long_repeat": 2},
    "filters": {"exact_duplicates": True},
}
OPTIONS: dict[str, dict[str, Any]] = {"cache": CACHE, "straight": {}}


def prepare(source: Path, folder: Path) -> None:
    """In small steps, so that a kill hits many of them."""
    token_cache.FILE_TOKENS, filling.BATCH_CHARACTERS = 20_000, 2_000
    prepare_dataset(
        source,
        tokenizer=TOKENIZER,
        target_length=64,
        output_dir=folder,
        rows_per_shard=300,
        max_bad_share=0.5,
        **OPTIONS[sys.argv[5]],
    )


def run(source: Path, folder: Path, *, kill_after: float | None) -> bool:
    """Whether the run came to its end, before `kill_after` seconds."""
    child = os.fork()
    if child == 0:
        try:
            prepare(source, folder)
        finally:
            sys.stderr.flush()
            os._exit(1 if sys.exc_info()[0] else 0)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), f"a run failed with {status}"
    return status == 0


def contents(folder: Path) -> dict[str, bytes]:
    files = (f for f in folder.rglob("*") if f.is_file() and f.name != LOCK)
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in files}


def phase(folder: Path) -> str:
    """What is there: no rows and no whole cache, rows alone, a whole cache, or both."""
    if not (folder / "progress.json").is_file():
        return "before or after"
    has_rows = any(folder.glob("data-*.arrow"))
    if (folder / "cache" / "complete.json").is_file():
        return "gathering" if has_rows else "planning"
    return "writing straight" if has_rows else "tokenizing"


def main() -> None:
    source, folder, seed, kills = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    rng = random.Random(seed)
    begun = time.monotonic()
    assert run(source, folder / "whole", kill_after=None)
    seconds = time.monotonic() - begun
    whole = contents(folder / "whole")
    hits, stores = 0, 0
    phases: dict[str, int] = {}
    while hits < kills:
        store = folder / f"killed {stores}"
        while not run(source, store, kill_after=rng.uniform(0, seconds) if hits < kills else None):
            hits += 1
            left = phase(store)
            phases[left] = phases.get(left, 0) + 1
        assert contents(store) == whole, f"store {stores} differs"
        stores += 1
    print(json.dumps({"kills": hits, "stores": stores, "phases": phases}))


if __name__ == "__main__":
    main()
