"""DPO on split rows equals DPO in one process: losses, gradient norms, rewards, weights."""

import pytest
import torch
from cases import LENGTH
from covering import cover, in_words
from preference_cases import run_stage, train_pairs
from transformers import AutoModelForCausalLM

TOLERANCE = 1e-5
"""Relative to the value, or to what it is a difference or mean of: rewards are small differences of
log-probabilities near -100, and mean logits are near 0 while logits are near 1, so it is absolute there."""

ULYSSES = {"backend": "ulysses"}
RING = {"backend": "ring"}
HYBRID = {"backend": "hybrid"}


@pytest.fixture(scope="session")
def reference(workers, tmp_path_factory):
    """What one process gets with the same options; each is trained once."""
    known = {}

    def get(**options):
        key = repr(sorted(options.items()))
        if key not in known:
            folder = str(tmp_path_factory.mktemp("reference"))
            known[key] = workers.run(1, train_pairs, folder, **options)[0]
        return known[key]

    return get


def assert_equal(results, expected, *, size, fsdp, counts=True):
    """`counts`: False where PreferenceTrainer counts padding, which other batches have more or less of."""
    for ours in results:
        assert len(ours["history"]) == len(expected["history"]) > 0
        for mine, theirs in zip(ours["history"], expected["history"], strict=True):
            assert {"rewards/chosen", "eval_rewards/chosen"} & theirs.keys()
            assert mine.keys() == theirs.keys()
            for key, value in theirs.items():
                if key == "num_tokens" and not counts:
                    continue
                near = {"abs": TOLERANCE} if "rewards" in key or "logits" in key else {"rel": TOLERANCE}
                assert mine[key] == pytest.approx(value, **near), key
        assert ours["weights"].keys() == expected["weights"].keys()
        for name, tensor in expected["weights"].items():
            assert (ours["weights"][name] - tensor).norm() <= TOLERANCE * tensor.norm(), name
        assert ours["sharded"] == fsdp
        assert max(ours["seen"]) <= -(-max(expected["seen"]) // (2 * size)) * 2
        assert len(ours["seen"]) == len(results[0]["seen"]) > 0


FAST = {
    "ulysses": (2, 2, ULYSSES, {}),
    "ulysses-adapter-fsdp-checkpointing-accumulation": (
        2,
        2,
        ULYSSES,
        {"fsdp": True, "checkpointing": True, "accumulate": 2, "reference": "adapter"},
    ),
    "ring-adapter": (2, 2, RING, {"reference": "adapter"}),
    "ring-precomputed-length-desensitised": (2, 2, RING, {"reference": "precomputed", "ld_alpha": 0.5}),
    "ring-of-4-fsdp-weighted": (4, 4, RING, {"fsdp": True, "use_weighting": True, "batch": 2}),
    "dp-ulysses-fsdp-evaluation": (4, 2, ULYSSES, {"fsdp": True, "batch": 2, "evaluates": True}),
    "dp-ulysses-precomputed": (4, 2, ULYSSES, {"batch": 2, "reference": "precomputed"}),
    "hybrid-fsdp-two-losses": (
        4,
        4,
        HYBRID,
        {"fsdp": True, "batch": 2, "loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]},
    ),
}
"""Processes, devices that share a row, plugin, options."""


@pytest.mark.parametrize("case", FAST)
def test_preferences_train_on_split_rows_as_on_whole_ones(workers, reference, tmp_path, case):
    processes, size, plugin, options = FAST[case]
    results = workers.run(processes, train_pairs, str(tmp_path), parallel={"size": size, **plugin}, **options)
    expected = reference(**{key: value for key, value in options.items() if key != "fsdp"})
    counts = processes == size or options.get("reference") != "precomputed"
    assert_equal(results, expected, size=size, fsdp=options.get("fsdp", False), counts=counts)


def test_the_comparison_notices_devices_that_do_not_share_attention(workers, reference, tmp_path):
    results = workers.run(2, train_pairs, str(tmp_path), parallel={"size": 2, **ULYSSES}, alone=True)
    ours, expected = results[0]["history"][0], reference()["history"][0]
    assert abs(ours["loss"] - expected["loss"]) > 100 * TOLERANCE * expected["loss"]


def test_every_pass_over_policy_and_reference_is_split(workers, reference, tmp_path):
    """3 steps of one pair, its two answers in one pass: of the policy, then of the reference."""
    lengths = reference()["seen"]
    results = workers.run(2, train_pairs, str(tmp_path), parallel={"size": 2, **ULYSSES})
    assert len(lengths) == 6
    assert max(lengths) > LENGTH // 2
    for ours in results:
        assert ours["seen"] == [-(-length // 2) for length in lengths]


@pytest.mark.parametrize("precomputed", [False, True], ids=["beside", "precomputed"])
def test_the_stage_of_a_recipe_on_two_devices_equals_one(workers, tmp_path, precomputed):
    options = {"preference.precompute_ref_log_probs": precomputed}
    numbers, weights, size = workers.run(1, run_stage, str(tmp_path / "one"), **options)[0]
    assert (len(numbers), size) == (4, 1)
    two = str(tmp_path / "two")
    for ours in workers.run(2, run_stage, two, **options, **{"parallel.size": 2}):
        assert ours[2] == 2
        assert ours[0] == pytest.approx(numbers, rel=TOLERANCE)
        for name, tensor in weights.items():
            assert (ours[1][name] - tensor).norm() <= TOLERANCE * tensor.norm(), name
    model = AutoModelForCausalLM.from_pretrained(f"{two}/preference")
    assert model.config._attn_implementation == "sdpa"
    assert all(torch.equal(ours[1][name], tensor) for name, tensor in model.state_dict().items())


SPLITS = {
    "ulysses2": (2, 2, ULYSSES),
    "ring2": (2, 2, RING),
    "hybrid4": (4, 4, HYBRID),
    "dp2-ulysses2": (4, 2, ULYSSES),
    "dp2-ring2": (4, 2, RING),
}
TRIPLES = cover(
    {
        "split": list(SPLITS),
        "reference": ["separate", "adapter", "precomputed"],
        "fsdp": [False, True],
        "accumulate": [1, 2],
        "checkpointing": [False, True],
        "loss_type": [["sigmoid"], ["ipo"], ["sigmoid_norm", "bco_pair"]],
    }
)


@pytest.mark.slow
@pytest.mark.parametrize("case", TRIPLES, ids=in_words)
def test_every_three_settings_together(workers, reference, tmp_path, case):
    options = dict(case)
    processes, size, plugin = SPLITS[options.pop("split")]
    fsdp = options.pop("fsdp")
    options["batch"] = processes // size
    results = workers.run(
        processes, train_pairs, str(tmp_path), parallel={"size": size, **plugin}, fsdp=fsdp, **options
    )
    counts = processes == size or options["reference"] != "precomputed"
    assert_equal(results, reference(**options), size=size, fsdp=fsdp, counts=counts)
