"""Training with rows that are split equals training in one process: losses, gradient norms, weights."""

import pytest
import torch
from cases import LENGTH, train
from covering import cover, in_words
from transformers import AutoModelForCausalLM

TOLERANCE = 1e-5
"""Relative; float32 and other orders of sums give 1e-7 to 1e-6 here."""

ULYSSES = {"backend": "ulysses"}
RING = {"backend": "ring"}
HYBRID = {"backend": "hybrid"}
ONES_AT_ONCE = {"backend": "ring", "rotation": "alltoall"}


@pytest.fixture(scope="session")
def reference(workers, tmp_path_factory):
    """What one process gets with the same options; each is trained once."""
    known = {}

    def get(**options):
        key = repr(sorted(options.items()))
        if key not in known:
            folder = str(tmp_path_factory.mktemp("reference"))
            known[key] = workers.run(1, train, folder, **options)[0]
        return known[key]

    return get


def difference(ours, expected) -> float:
    """The largest relative difference of any loss, gradient norm or weight tensor."""
    assert len(ours["losses"]) == len(expected["losses"]) > 0
    pairs = [*zip(ours["losses"], expected["losses"], strict=True)]
    pairs += zip(ours["grad_norms"], expected["grad_norms"], strict=True)
    assert ours["weights"].keys() == expected["weights"].keys()
    weights = [
        ((ours["weights"][name] - tensor).norm() / tensor.norm()).item()
        for name, tensor in expected["weights"].items()
        if tensor.norm() > 0
    ]
    return max([abs(a - b) / abs(b) for a, b in pairs] + weights)


def assert_equal(results, expected, *, tokens, fsdp):
    for rank, ours in enumerate(results):
        assert difference(ours, expected) < TOLERANCE, f"rank {rank}"
        assert ours["sharded"] == fsdp
        if tokens is not None:
            assert ours["tokens"] == {tokens}


FAST = {
    "ulysses": (2, 2, ULYSSES, {}),
    "ulysses-fsdp-checkpointing-accumulation": (
        2,
        2,
        ULYSSES,
        {"fsdp": True, "checkpointing": True, "accumulate": 2},
    ),
    "ulysses-mqa-lora": (2, 2, ULYSSES, {"kv_heads": 1, "lora": True}),
    "ulysses-selective-checkpointing": (2, 2, ULYSSES, {"checkpointing": {"selective": True}}),
    "ulysses-plain-trainer-fsdp": (2, 2, ULYSSES, {"trainer_class": "plain", "fsdp": True}),
    "ulysses-padding": (2, 2, ULYSSES, {"padded": True, "batch": 2}),
    "ulysses-of-4-repeats-heads-fsdp": (4, 4, ULYSSES, {"fsdp": True, "batch": 2}),
    "dp-ulysses-accumulation-checkpointing": (
        4,
        2,
        ULYSSES,
        {"batch": 2, "accumulate": 2, "checkpointing": True},
    ),
    "dp-ulysses-fsdp-batch": (4, 2, ULYSSES, {"fsdp": True, "batch": 4}),
    "ring-fsdp-mqa-batch": (2, 2, RING, {"fsdp": True, "kv_heads": 1, "batch": 2}),
    "ring-lora-accumulation": (2, 2, RING, {"lora": True, "accumulate": 2}),
    "ring-padding": (2, 2, RING, {"padded": True, "batch": 2}),
    "ring-of-4-fsdp": (4, 4, RING, {"fsdp": True, "kv_heads": 4}),
    "dp-ring-alltoall-fsdp-lora": (4, 2, ONES_AT_ONCE, {"fsdp": True, "batch": 2, "lora": True}),
    "hybrid-fsdp-mqa-checkpointing": (4, 4, HYBRID, {"fsdp": True, "kv_heads": 1, "checkpointing": True}),
    "hybrid-lora-batch": (4, 4, HYBRID, {"lora": True, "batch": 2}),
    "hybrid-padding-fsdp": (4, 4, HYBRID, {"fsdp": True, "padded": True, "batch": 2}),
    "ulysses-experts": (2, 2, ULYSSES, {"experts": True, "batch": 2}),
    "auto-above-the-head-count": (4, 4, {"backend": "auto"}, {"heads": 2, "kv_heads": 1, "fsdp": True}),
}
"""Processes, devices that share a row, plugin, options: each pair of settings is in at least one case."""


@pytest.mark.parametrize("case", FAST)
def test_split_rows_train_as_whole_ones(workers, reference, tmp_path, case):
    processes, size, plugin, options = FAST[case]
    fsdp = options.get("fsdp", False)
    results = workers.run(processes, train, str(tmp_path), parallel={"size": size, **plugin}, **options)
    expected = reference(**{key: value for key, value in options.items() if key != "fsdp"})
    tokens = None if options.get("padded") else LENGTH // size
    assert_equal(results, expected, tokens=tokens, fsdp=fsdp)


def test_the_comparison_notices_devices_that_do_not_share_attention(workers, reference, tmp_path):
    results = workers.run(2, train, str(tmp_path), parallel={"size": 2, **ULYSSES}, alone=True)
    assert difference(results[0], reference()) > 1000 * TOLERANCE


SPLITS = {
    "ulysses2": (2, 2, ULYSSES),
    "ring2": (2, 2, RING),
    "ulysses4": (4, 4, ULYSSES),
    "ring4": (4, 4, RING),
    "hybrid4": (4, 4, HYBRID),
    "dp2-ulysses2": (4, 2, ULYSSES),
    "dp2-ring2": (4, 2, RING),
}
TRIPLES = cover(
    {
        "split": list(SPLITS),
        "fsdp": [False, True],
        "lora": [False, True],
        "kv_heads": [1, 2, 4],
        "accumulate": [1, 2],
        "checkpointing": [False, True],
        "rows": [1, 2],
    }
)


@pytest.mark.slow
@pytest.mark.parametrize("case", TRIPLES, ids=in_words)
def test_every_three_settings_together(workers, reference, tmp_path, case):
    options = dict(case)
    processes, size, plugin = SPLITS[options.pop("split")]
    fsdp = options.pop("fsdp")
    options["batch"] = options.pop("rows") * processes // size
    results = workers.run(
        processes, train, str(tmp_path), parallel={"size": size, **plugin}, fsdp=fsdp, **options
    )
    assert_equal(results, reference(**options), tokens=LENGTH // size, fsdp=fsdp)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "plugin"),
    [
        (2, {**ULYSSES, "dp_replicate": 2}),
        (4, {**HYBRID, "dp_replicate": 1}),
        (8, {**HYBRID, "ulysses_size": 2}),
    ],
    ids=["replicas", "two-hybrids", "ring-of-4-times-2"],
)
def test_eight_devices_in_three_dimensions(workers, reference, tmp_path, size, plugin):
    """Two copies of the model sharded over two groups of two; two hybrids; one hybrid of all."""
    options = {"batch": 8 // size, "fsdp": True}
    results = workers.run(8, train, str(tmp_path), parallel={"size": size, **plugin}, **options)
    assert_equal(results, reference(batch=8 // size), tokens=LENGTH // size, fsdp=True)


@pytest.mark.parametrize("fsdp", [False, True], ids=["ddp", "fsdp"])
def test_a_checkpoint_goes_on_at_another_degree(workers, reference, tmp_path, fsdp):
    """Adam makes sign-like steps of gradients near zero, so that weights agree to fewer digits."""
    folder = str(tmp_path)
    ulysses = {"size": 2, **ULYSSES}
    workers.run(2, train, folder, steps=2, adam=True, parallel=ulysses, fsdp=fsdp, save=True)
    checkpoint = f"{folder}/checkpoint-2"
    hybrid = {"size": 4, **HYBRID}
    results = workers.run(4, train, folder, steps=4, adam=True, parallel=hybrid, fsdp=fsdp, resume=checkpoint)
    expected = reference(steps=4, adam=True)
    assert results[0]["losses"] == pytest.approx(expected["losses"], rel=TOLERANCE)
    for name, tensor in expected["weights"].items():
        assert (results[0]["weights"][name] - tensor).norm() < 1e-4 * tensor.norm(), name


@pytest.mark.parametrize("fsdp", [False, True], ids=["ddp", "fsdp"])
def test_a_saved_model_loads_in_plain_transformers(workers, tmp_path, fsdp):
    results = workers.run(
        2, train, str(tmp_path), steps=1, parallel={"size": 2, **ULYSSES}, fsdp=fsdp, save=True
    )
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "final")
    assert model.config._attn_implementation == "sdpa"
    weights = model.state_dict()
    assert weights.keys() == results[0]["weights"].keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in results[0]["weights"].items())
