import math
import re
from dataclasses import replace

import pytest
from preflight_cases import BREAKS, check, check_pairs

from ultralong_hf.parallel.preflight_report import Numbers, Preflight

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

RIGHT = Preflight(
    one=Numbers(loss=2.0, gradient_norm=1.5, counted=700),
    launched=Numbers(loss=2.0, gradient_norm=1.5, counted=700),
    processes=16,
    degree=8,
    length=800,
    device_tokens=100,
    dtype="bfloat16",
)


def launched(**changes: float) -> list[str]:
    return replace(RIGHT, launched=replace(RIGHT.launched, **changes)).faults()


@pytest.mark.parametrize(
    ("processes", "set_up"),
    [
        (2, {}),
        (2, {"parallel": {"size": 2, "backend": "ulysses"}}),
        (2, {"parallel": {"size": 2, "backend": "ulysses"}, "fsdp": True}),
        (2, {"parallel": {"size": 2, "backend": "ring"}}),
        (2, {"parallel": {"size": 2, "backend": "ulysses"}, "arguments": {"bf16": True}}),
        (2, {"parallel": {"size": 2, "backend": "ring"}, "arguments": {"gradient_accumulation_steps": 2}}),
        (4, {"parallel": {"size": 2, "backend": "ulysses"}, "fsdp": True, "rows": 3}),
        (4, {"parallel": {"size": 4, "backend": "hybrid"}, "fsdp": True, "batch": 2}),
        (2, {"parallel": {"size": 2, "backend": "ulysses"}, "lora": True}),
    ],
)
def test_a_right_set_up_passes(workers, tmp_path, processes, set_up):
    results = workers.run(processes, check, str(tmp_path), **set_up)
    assert all(isinstance(result, Preflight) for result in results), results
    assert len(set(results)) == 1, "all processes come to the same"
    degree = set_up.get("parallel", {}).get("size", 1)
    assert results[0].device_tokens == 48 // degree
    assert results[0].one.counted == results[0].launched.counted > 40
    assert list(tmp_path.iterdir()) == [], "nothing is written"


@pytest.mark.parametrize(
    "set_up",
    [
        {"parallel": {"size": 2, "backend": "ulysses"}},
        {"parallel": {"size": 2, "backend": "ring"}, "fsdp": True},
        {"parallel": {"size": 2, "backend": "ulysses"}, "lora": True},
        {"parallel": {"size": 1}},
    ],
)
def test_a_right_set_up_of_preference_training_passes(workers, tmp_path, set_up):
    results = workers.run(2, check_pairs, str(tmp_path), **set_up)
    assert all(isinstance(result, Preflight) for result in results), results
    assert results[0].device_tokens <= 48 // set_up["parallel"]["size"]
    assert results[0].one.loss == pytest.approx(math.log(2)), "policy and reference are the same"
    assert results[0].one.gradient_norm > 0.01
    assert results[0].one.counted == results[0].launched.counted > 20


@pytest.mark.parametrize("backend", ["ulysses", "ring"])
def test_pairs_of_an_odd_length_pass(workers, tmp_path, backend):
    """A device then has half of the length to which they are filled up."""
    parallel = {"size": 2, "backend": backend}
    results = workers.run(2, check_pairs, str(tmp_path), parallel=parallel, padded=False)
    assert all(isinstance(result, Preflight) for result in results), results
    assert results[0].length % 2 == 1
    assert results[0].device_tokens * 2 > results[0].length


def test_broken_preference_training_is_stopped(workers, tmp_path):
    parallel = {"size": 2, "backend": "ulysses"}
    faults = workers.run(2, check_pairs, str(tmp_path), parallel=parallel, local_positions=True)
    assert faults[0] == faults[1]
    assert faults[0][0].startswith("the loss is"), faults[0]  # the reference counts positions as it should


@pytest.mark.parametrize(
    ("broken", "found"),
    [
        ("local positions", "the loss is"),
        ("wrong layout", "the loss is"),
        ("labels shifted after the cut", "40 tokens count for the loss on 2 processes and 41 on one. Labels"),
        ("other rows on each device", "the loss is"),
        ("mean of the parts' means", "the loss is"),
        ("loss summed over devices", r"the loss is .* That is 2 times too much"),
        ("attention within the part", "the loss is"),
        ("rows not split", "rows of 48 tokens are not split"),
    ],
)
def test_a_broken_set_up_is_stopped(workers, tmp_path, broken, found):
    faults = workers.run(2, check, str(tmp_path), parallel={"size": 2, "backend": "ulysses"}, broken=broken)
    assert isinstance(faults[0], tuple), faults[0]
    assert faults[0] == faults[1], "all processes stop"
    assert re.match(found, faults[0][0])


def test_every_way_to_break_a_set_up_is_tried():
    (tried,) = (
        mark.args[1] for mark in test_a_broken_set_up_is_stopped.pytestmark if mark.name == "parametrize"
    )
    assert [name for name, _ in tried] == list(BREAKS)


def test_one_process_is_refused(workers, tmp_path):
    ((fault,),) = workers.run(1, check, str(tmp_path))
    assert fault.startswith("The parallel check was launched as one process")


def test_rounding_passes_and_more_than_that_does_not():
    assert RIGHT.faults() == []
    assert launched(loss=2.01, gradient_norm=1.53) == []
    assert launched(loss=2.05) == [
        "the loss is 2.05 on 16 processes and 2 on one. Tokens see others than they should, count otherwise, "
        "or stand at other positions."
    ]
    assert launched(gradient_norm=1.7) == ["the gradient norm is 1.7 on 16 processes and 1.5 on one."]
    single = replace(RIGHT, dtype="float32")
    assert replace(single, launched=replace(RIGHT.launched, loss=2.0001)).faults() != []
    assert replace(single, launched=replace(RIGHT.launched, loss=2.00001)).faults() == []


def test_rows_that_are_filled_up_are_split_and_longer_parts_are_not():
    odd = replace(RIGHT, degree=2, length=183)
    assert replace(odd, device_tokens=92).faults() == []
    assert replace(odd, device_tokens=93).faults()[0].startswith("rows of 183 tokens are not split")


def test_a_model_too_large_for_one_device_is_told_so(workers, tmp_path):
    message = workers.run(2, check_without_memory, str(tmp_path))[0]
    assert message.startswith(
        "The parallel check trains the whole model on one device, and its memory is too"
    )
    assert "CUDA out of memory." in message


def check_without_memory(folder):
    """The first process has no room for the model; the other does not wait for it."""
    from unittest.mock import patch

    import torch

    from ultralong_hf.errors import ParallelError
    from ultralong_hf.parallel import preflight

    full = torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20 GiB.")
    with (
        patch.object(preflight, "_on_one_process", side_effect=full),
        patch.object(preflight, "_as_launched", side_effect=ParallelError("not waited")),
    ):
        return check(folder, parallel={"size": 2, "backend": "ulysses"})[0]


def test_multiples_are_named():
    assert launched(gradient_norm=12.0) == [
        "the gradient norm is 12 on 16 processes and 1.5 on one. That is 8 times too much: summed over "
        "devices where it should be averaged."
    ]
    assert launched(gradient_norm=1.5 / 16) == [
        "the gradient norm is 0.09375 on 16 processes and 1.5 on one. That is 16 times too little: divided "
        "by the devices once too often."
    ]


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, -2.0])
def test_what_is_no_loss_is_refused(value):
    assert len(launched(loss=value, gradient_norm=value)) == 2


def test_the_table():
    assert replace(RIGHT, launched=replace(RIGHT.launched, loss=2.001)).lines() == [
        "parallel check, 800 tokens a row, bfloat16",
        "                     one process    16 processes",
        "loss                           2           2.001",
        "gradient norm                1.5             1.5",
        "tokens counted               700             700",
        "tokens a device              800             100",
    ]
