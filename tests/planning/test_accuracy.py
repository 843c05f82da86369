"""Planned against measured peak memory on a small grid; the whole one is benchmarks/plan_accuracy.py."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import plan_accuracy
from plan_accuracy import CHECKPOINTED, Case, run

CASES = (
    Case(model="wide", length=512, what="recomputed", keys=CHECKPOINTED),
    Case(model="deep", length=512, what="nothing recomputed"),
    Case(model="qwen3", length=512, what="2nd", keys={**CHECKPOINTED, "memory.checkpoint_every": 2}),
    Case(model="wide", length=512, what="whole logits", keys={**CHECKPOINTED, "memory.lm_head": "whole"}),
    Case(
        model="heavy",
        length=256,
        what="2 share a row",
        keys={**CHECKPOINTED, "parallel.size": 2},
        processes=2,
        sharding="ddp",
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.model} {case.what}")
def test_the_peak_is_as_planned_within_a_tenth(case, workers, tmp_path):
    ranks = workers.run(case.processes, run, case, str(tmp_path))
    assert len(ranks) == case.processes
    for planned, measured in ranks:
        assert measured > 2**20
        assert planned == pytest.approx(measured, rel=plan_accuracy.TARGET)
