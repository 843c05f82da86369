"""Results become metrics that weigh lengths and questions as they say."""

import json
import math

import pytest

from ultralong_hf.ablation.arms import Arm, Study
from ultralong_hf.ablation.comparing import compare, metrics_of
from ultralong_hf.errors import AblationError

BASE, OTHER = Arm("base", "the recipe"), Arm("ntk", "NTK-aware")
STUDY = Study("rope", "Which?", BASE, (OTHER,))


def result(arm, seed, short, long, losses=(2.0, 3.0)):
    """Scores of two texts at 256 (10 questions each) and of one at 4,096 (40 questions)."""
    texts = [(256, "0", short[0], 10), (256, "1", short[1], 10), (4096, "0", long, 40)]
    return {
        "arm": arm,
        "seed": seed,
        "scores": [
            {"task": "recall", "length": length, "unit": unit, "score": score, "weight": weight}
            for length, unit, score, weight in texts
        ],
        "loss": [
            {"from": 0, "to": 128, "loss": losses[0] - 1, "tokens": 100},
            {"from": 128, "to": 256, "loss": losses[0] + 1, "tokens": 300},
            {"from": 256, "to": 4096, "loss": losses[1], "tokens": 900},
        ],
    }


def values(results, seeds=(0, 1)):
    found = compare(STUDY, seeds, results, present_window=256)
    return {(c.arm, c.metric): c for c in found}


@pytest.fixture
def results():
    return {
        ("base", 0): result("base", 0, (1.0, 0.5), 0.2),
        ("base", 1): result("base", 1, (1.0, 1.0), 0.4),
        ("ntk", 0): result("ntk", 0, (1.0, 1.0), 0.1, losses=(2.5, 2.0)),
        ("ntk", 1): result("ntk", 1, (1.0, 1.0), 0.3, losses=(2.5, 2.0)),
    }


def test_headlines_are_the_longest_the_mean_the_shortest_and_the_two_losses(results):
    names = [metric.name for metric in metrics_of(results["base", 0], 256) if metric.is_headline]
    assert names == [
        "recall at 4K",
        "recall, mean over lengths",
        "recall at 256",
        "loss from position 256 on",
        "loss before position 256",
    ]


def test_a_mean_over_lengths_weighs_each_length_the_same_whatever_was_asked(results):
    found = values(results)
    assert found["base", "recall at 256"].by_seed == pytest.approx([0.75, 1.0])
    assert found["base", "recall at 4K"].by_seed == pytest.approx([0.2, 0.4])
    assert found["base", "recall, mean over lengths"].by_seed == pytest.approx([0.475, 0.7])


def test_differences_are_arm_minus_base_seed_by_seed(results):
    found = values(results)
    recall = found["ntk", "recall at 4K"].difference
    assert recall.value == pytest.approx(-0.1)
    assert (recall.low, recall.high) == pytest.approx((-0.1, -0.1))  # the same on both seeds
    assert (recall.above, recall.below) == (0, 2)
    assert found["base", "recall at 4K"].difference is None


def test_losses_weigh_buckets_by_their_tokens(results):
    found = values(results)
    assert found["base", "loss before position 256"].by_seed == pytest.approx([2.5, 2.5])
    assert found["ntk", "loss from position 256 on"].difference.value == pytest.approx(-1.0)


def test_a_bucket_across_the_old_window_is_not_split(results):
    names = [metric.name for metric in metrics_of(results["base", 0], 200) if metric.task == "loss"]
    assert names == ["loss from position 128 on", "loss before position 128"]


def test_bounds_that_are_not_known_are_null_in_json(results):
    found = values(results, seeds=(0,))["ntk", "loss before position 256"]
    assert math.isinf(found.difference.low)
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert json.loads(text)["difference"]["low"] is None


def test_a_seed_without_a_length_that_others_have_is_named(results):
    results["ntk", 1]["scores"] = results["ntk", 1]["scores"][:2]
    with pytest.raises(AblationError, match="ntk, seed 1, has no recall at 4K"):
        values(results)
