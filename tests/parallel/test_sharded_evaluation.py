"""Evaluation and prediction on split rows equal those of one process; a device computes its part alone."""

import math

import numpy as np
import pytest
from covering import cover, in_words
from evaluation_cases import evaluate

TOLERANCE = 1e-5
"""Relative; float32 and other orders of sums give 1e-7 here."""

ULYSSES = {"backend": "ulysses"}
RING = {"backend": "ring"}
HYBRID = {"backend": "hybrid"}
BY_BATCH = ("eval_entropy", "eval_mean_token_accuracy")
"""What TRL averages over batches, which are others where several groups share the rows of a dataset."""


@pytest.fixture(scope="session")
def reference(workers, tmp_path_factory):
    """What one process gets with the same options; each is run once."""
    known = {}

    def get(**options):
        key = repr(sorted(options.items()))
        if key not in known:
            folder = str(tmp_path_factory.mktemp("reference"))
            known[key] = workers.run(1, evaluate, folder, **options)[0]
        return known[key]

    return get


def run_both(workers, reference, tmp_path, processes, size, plugin, options):
    """(what each rank got, what one process got)."""
    results = workers.run(processes, evaluate, str(tmp_path), parallel={"size": size, **plugin}, **options)
    return results, reference(**{key: value for key, value in options.items() if key != "fsdp"})


FAST = {
    "trl-ulysses": (2, 2, ULYSSES, {}),
    "trl-ring-batch": (2, 2, RING, {"batch": 2}),
    "trl-dp-ulysses-batch-last-one-filled-up": (4, 2, ULYSSES, {"batch": 2, "rows": 7}),
    "trl-hybrid-fsdp-padding": (
        4,
        4,
        HYBRID,
        {"fsdp": True, "padded": True, "batch": 2, "train_first": True},
    ),
    "ours-ulysses-padding": (2, 2, ULYSSES, {"kind": "ours", "padded": True, "batch": 2}),
    "ours-ring-fsdp": (2, 2, RING, {"kind": "ours", "fsdp": True, "train_first": True}),
    "ours-dp-ring-padding-last-one-filled-up": (
        4,
        2,
        RING,
        {"kind": "ours", "padded": True, "batch": 2, "rows": 5},
    ),
    "plain-ulysses-of-4-batch": (4, 4, ULYSSES, {"kind": "plain", "batch": 2}),
    "plain-dp-ulysses": (4, 2, ULYSSES, {"kind": "plain", "rows": 3}),
}
"""Processes, devices that share a row, plugin, options."""


@pytest.mark.parametrize("case", FAST)
def test_metrics_are_those_of_one_process(workers, reference, tmp_path, case):
    processes, size, plugin, options = FAST[case]
    results, expected = run_both(workers, reference, tmp_path, processes, size, plugin, options)
    compared = [key for key in expected["metrics"] if processes == size or key not in BY_BATCH]
    assert "eval_loss" in compared
    for ours in results:
        assert ours["metrics"].keys() == expected["metrics"].keys()
        for key in compared:
            assert ours["metrics"][key] == pytest.approx(expected["metrics"][key], rel=TOLERANCE), key


@pytest.mark.parametrize("kind", ["trl", "ours", "plain"])
def test_each_device_computes_its_part_of_the_tokens_alone(workers, tmp_path, kind):
    for size, plugin in ((2, ULYSSES), (4, HYBRID)):
        results = workers.run(size, evaluate, str(tmp_path), kind=kind, parallel={"size": size, **plugin})
        assert [ours["seen"] for ours in results] == [[64 // size] * 5] * size


@pytest.mark.parametrize(
    ("size", "plugin"), [(2, ULYSSES), (2, RING), (4, HYBRID)], ids=["ulysses", "ring", "hybrid"]
)
def test_the_loss_by_position_is_right_in_every_layout(workers, reference, tmp_path, size, plugin):
    options = {"kind": "ours", "length": 320, "rows": 3}
    results, expected = run_both(workers, reference, tmp_path, size, size, plugin, options)
    buckets = {key: value for key, value in expected["metrics"].items() if key.startswith("eval_loss_")}
    assert list(buckets) == [f"eval_loss_{edge}" for edge in ("0_64", "64_128", "128_256", "256_320")]
    assert len({round(value, 3) for value in buckets.values()}) == 4, "else their order would not show"
    for ours in results:
        assert {key: ours["metrics"][key] for key in buckets} == pytest.approx(buckets, rel=TOLERANCE)


def test_our_loss_is_the_mean_over_tokens_however_rows_are_batched(workers, reference, tmp_path):
    """Half of the rows have few tokens that count."""
    one = reference(kind="ours", rows=6)["metrics"]["eval_loss"]
    three = reference(kind="ours", rows=6, batch=3)["metrics"]["eval_loss"]
    assert one == pytest.approx(three, rel=TOLERANCE)
    assert not math.isclose(
        one, reference(kind="trl", rows=6)["metrics"]["eval_loss"], rel_tol=10 * TOLERANCE
    )
    split = workers.run(
        4, evaluate, str(tmp_path), kind="ours", rows=6, batch=2, parallel={"size": 2, **ULYSSES}
    )
    assert split[0]["metrics"]["eval_loss"] == pytest.approx(one, rel=TOLERANCE)


@pytest.mark.parametrize(
    ("processes", "size", "plugin", "options"),
    [
        (2, 2, ULYSSES, {"kind": "trl", "batch": 2}),
        (4, 2, RING, {"kind": "plain", "batch": 2}),
        (4, 4, HYBRID, {"kind": "ours", "fsdp": True, "train_first": True}),
        (4, 2, ULYSSES, {"kind": "plain", "labels": False, "rows": 7}),
    ],
    ids=["trl", "plain-dp", "ours-fsdp", "without-labels-dp"],
)
def test_predictions_come_once_a_row_and_in_order(
    workers, reference, tmp_path, processes, size, plugin, options
):
    options = {**options, "predict": True}
    results, expected = run_both(workers, reference, tmp_path, processes, size, plugin, options)
    assert expected["predictions"].shape == (options.get("rows", 5), 64, 96)
    for ours in results:
        np.testing.assert_allclose(ours["predictions"], expected["predictions"], rtol=1e-4, atol=1e-5)
        if options.get("labels", True):
            np.testing.assert_array_equal(ours["label_ids"], expected["label_ids"])
        else:
            assert ours["label_ids"] is expected["label_ids"] is None


@pytest.mark.parametrize("kind", ["trl", "ours"])
@pytest.mark.parametrize("fsdp", [False, True], ids=["ddp", "fsdp"])
def test_training_goes_on_after_an_evaluation_as_without(workers, reference, tmp_path, kind, fsdp):
    options = {"kind": kind, "train_after": True}
    expected = reference(**options)
    plugin = {"size": 2, **ULYSSES}
    results = workers.run(2, evaluate, str(tmp_path), **options, fsdp=fsdp, parallel=plugin)
    assert len(expected["steps"]) == 1
    for ours in results:
        assert ours["steps"][0] == pytest.approx(expected["steps"][0], rel=TOLERANCE)
        assert ours["metrics"]["eval_loss"] == pytest.approx(expected["metrics"]["eval_loss"], rel=TOLERANCE)


def test_two_processes_that_share_no_rows_train_together_after_an_evaluation(workers, reference, tmp_path):
    """Without the plugin too: transformers and accelerate lose DDP there."""
    results = workers.run(2, evaluate, str(tmp_path), kind="ours", train_after=True)
    expected = reference(kind="ours", batch=2, train_after=True)
    assert len(expected["steps"]) == 1
    for ours in results:
        assert ours["steps"][0] == pytest.approx(expected["steps"][0], rel=TOLERANCE)


def test_padding_before_tokens_is_refused(workers, tmp_path):
    with pytest.raises(AssertionError, match=r"hides tokens before others. Pad at the end of rows"):
        workers.run(2, evaluate, str(tmp_path), pad_left=True, parallel={"size": 2, **ULYSSES})


SPLITS = {
    "ulysses2": (2, 2, ULYSSES),
    "ring2": (2, 2, RING),
    "ulysses4": (4, 4, ULYSSES),
    "hybrid4": (4, 4, HYBRID),
    "dp2-ulysses2": (4, 2, ULYSSES),
    "dp2-ring2": (4, 2, RING),
}
TRIPLES = cover(
    {
        "split": list(SPLITS),
        "kind": ["trl", "ours", "plain"],
        "fsdp": [False, True],
        "batch": [1, 2, 3],
        "rows": [3, 4, 7],
        "predict": [False, True],
    }
)


@pytest.mark.slow
@pytest.mark.parametrize("case", TRIPLES, ids=in_words)
def test_every_three_settings_together(workers, reference, tmp_path, case):
    options = dict(case)
    split = SPLITS[options.pop("split")]
    options["train_first"] = options["fsdp"]
    results, expected = run_both(workers, reference, tmp_path, *split, options)
    key = "test_loss" if options["predict"] else "eval_loss"
    for ours in results:
        assert ours["metrics"][key] == pytest.approx(expected["metrics"][key], rel=TOLERANCE)
        if options["predict"]:
            np.testing.assert_allclose(ours["predictions"], expected["predictions"], rtol=1e-4, atol=1e-5)
