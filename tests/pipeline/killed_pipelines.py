"""A server of pipelines to be killed: everything is imported once, each run is a fork of it.

Usage: killed_pipelines.py FOLDER SEED KILLS. Runs the lab's recipe, made tiny, in FOLDER/whole without a
stop, then in others whose process group is killed at random moments, and gone on with until they are done,
until so many kills have hit; the digests of all stages must be equal. Prints {"kills": ..., "runs": ...,
"stages": {stage that a kill hit: how often}, "resumed": stages that went on from a checkpoint} as JSON.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers.models.llama.modeling_llama  # noqa: F401
import trl.trainer.sft_trainer  # noqa: F401

import ultralong_hf.training.stages  # noqa: F401
from ultralong_hf.pipeline import open_run, run_pipeline, survey
from ultralong_hf.pipeline.run import Run
from ultralong_hf.pipeline.states import last_step

TINY = {
    "data.target_length": 512,
    "data.eval_rows": 0,
    "data.workers": 1,
    "cpt.max_steps": 8,
    "cpt.save_steps": 2,
    "cpt.eval_strategy": "no",
    "sft.max_steps": 4,
    "sft.save_steps": 1,
    "evaluation.tasks": ["needle"],
    "evaluation.lengths": [128, 512],
    "evaluation.depths": [0, 100],
    "evaluation.samples": 4,
}
SKIP = ("evaluate-base", "evaluate-cpt")


def tiny_run(folder: Path) -> Run:
    return open_run("lab", output_dir=folder, overrides=TINY, skip=SKIP)


def run(folder: Path, *, kill_after: float | None) -> bool:
    """Whether the run came to its end, before `kill_after` seconds."""
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        os.environ["ULTRALONG_CACHE"] = str(folder / "cache")  # answers of another run prove nothing
        try:
            run_pipeline(tiny_run(folder), say=lambda line: None)
        finally:
            if sys.exc_info()[0]:
                import traceback

                traceback.print_exc()
            sys.stderr.flush()
            os._exit(1 if sys.exc_info()[0] else 0)
    if kill_after is not None:
        time.sleep(kill_after)
        os.killpg(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), f"a run failed with {status}: see the logs in {folder}"
    return status == 0


def digests(folder: Path) -> dict[str, str | None]:
    states = survey(tiny_run(folder))
    assert all(state.word == "done" for state in states), [(s.stage.name, s.word, s.detail) for s in states]
    return {state.stage.name: state.digest for state in states}


def main() -> None:
    folder, seed, kills = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    rng = random.Random(seed)
    begun = time.monotonic()
    assert run(folder / "whole", kill_after=None)
    seconds = time.monotonic() - begun
    whole = digests(folder / "whole")
    hits, runs, resumed = 0, 0, 0
    hit_stages: dict[str, int] = {}
    while hits < kills:
        place = folder / f"killed-{runs}"
        while not run(place, kill_after=rng.uniform(0.1, 1) * seconds if hits < kills else None):
            hits += 1
            for state in survey(tiny_run(place)) if (place / "run.json").is_file() else []:
                if state.word == "interrupted":
                    hit_stages[state.stage.name] = hit_stages.get(state.stage.name, 0) + 1
                    resumed += state.stage.kind == "training" and last_step(state.stage.folder) > 0
        assert digests(place) == whole, (digests(place), whole)
        runs += 1
    print(
        json.dumps(
            {"kills": hits, "runs": runs, "stages": hit_stages, "resumed": resumed, "seconds": seconds}
        )
    )


if __name__ == "__main__":
    main()
