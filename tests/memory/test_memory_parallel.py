"""The keys of the memory section on two processes, against one process without them."""

import pytest
from cases import LENGTH
from parallel_cases import train

ULYSSES = {"size": 2, "backend": "ulysses"}
RING = {"size": 2, "backend": "ring"}
ALL = {"tile": 12, "recompute": "all_but_attention", "disk": True}
ROUNDING = 1e-5


@pytest.fixture(scope="module")
def plain(workers, tmp_path_factory):
    """One process, nothing of ours."""
    folder = str(tmp_path_factory.mktemp("plain"))
    return {adam: workers.run(1, train, folder, adam=adam)[0] for adam in (False, True)}


def assert_equal(results, expected):
    for ours in results:
        assert len(ours["losses"]) == 3
        assert ours["losses"] == pytest.approx(expected["losses"], rel=ROUNDING)
        assert ours["grad_norms"] == pytest.approx(expected["grad_norms"], rel=ROUNDING)
        assert ours["weights"].keys() == expected["weights"].keys()
        for name, tensor in expected["weights"].items():
            assert (ours["weights"][name] - tensor).norm() <= ROUNDING * tensor.norm(), name


@pytest.mark.parametrize(
    ("parallel", "fsdp"),
    [
        pytest.param(ULYSSES, True, id="ulysses-fsdp2"),
        pytest.param(None, False, id="rows-ddp"),
        pytest.param(None, True, id="rows-fsdp2", marks=pytest.mark.slow),
        pytest.param(ULYSSES, False, id="ulysses-ddp", marks=pytest.mark.slow),
        pytest.param(RING, False, id="ring-ddp", marks=pytest.mark.slow),
        pytest.param(RING, True, id="ring-fsdp2", marks=pytest.mark.slow),
    ],
)
def test_tiles_disk_and_kept_attention_under_every_kind_of_launch(workers, tmp_path, plain, parallel, fsdp):
    results = workers.run(2, train, str(tmp_path), parallel=parallel, fsdp=fsdp, **ALL)
    assert_equal(results, plain[False])
    assert all(result["sharded"] is fsdp for result in results)
    assert all(result["stored"] > 0 for result in results)


@pytest.mark.parametrize(
    ("parallel", "fsdp"),
    [
        pytest.param(ULYSSES, False, id="ulysses-ddp"),
        pytest.param(RING, True, id="ring-fsdp2"),
        pytest.param(ULYSSES, True, id="ulysses-fsdp2", marks=pytest.mark.slow),
        pytest.param(RING, False, id="ring-ddp", marks=pytest.mark.slow),
        pytest.param(None, True, id="rows-fsdp2", marks=pytest.mark.slow),
    ],
)
def test_whole_logits_of_each_process_score_its_part_of_the_row(workers, tmp_path, plain, parallel, fsdp):
    results = workers.run(2, train, str(tmp_path), parallel=parallel, fsdp=fsdp, whole_logits=True)
    assert_equal(results, plain[False])
    part = LENGTH // 2 if parallel else LENGTH
    assert [result["heads"] for result in results] == [[part] * 3] * 2


def test_under_ulysses_attention_runs_once_and_its_exchanges_again(workers, tmp_path, plain):
    """Of a layer: attention forward; all-to-all of query, key, value and output, and of their gradients."""
    ran = {}
    for recompute in ("all", "all_but_attention"):
        results = workers.run(2, train, str(tmp_path), parallel=ULYSSES, recompute=recompute)
        assert_equal(results, plain[False])
        ran[recompute] = results[0]["ran"]
    layers_of_all_steps = 3 * 2
    exchanges = 3 * 4 * layers_of_all_steps  # forward, recomputed, backward
    assert ran["all"] == {"attention": 2 * layers_of_all_steps, "all-to-all": exchanges}
    assert ran["all_but_attention"] == {"attention": layers_of_all_steps, "all-to-all": exchanges}


def test_in_a_ring_kept_attention_goes_around_once(workers, tmp_path, plain):
    results = workers.run(2, train, str(tmp_path), parallel=RING, recompute="all_but_attention")
    assert_equal(results, plain[False])
    assert results[0]["ran"]["attention"] == 3 * 2


@pytest.mark.parametrize(
    "parallel", [pytest.param(None, id="rows", marks=pytest.mark.slow), pytest.param(ULYSSES, id="ulysses")]
)
def test_parameters_on_the_host_train_alike(workers, tmp_path, plain, parallel):
    """FSDP2's CPUOffloadPolicy; the host is the device here, so that this shows the numbers alone."""
    options = {"fsdp": True, "offload_parameters": True, "adam": True, **ALL}
    assert_equal(workers.run(2, train, str(tmp_path), parallel=parallel, **options), plain[True])


@pytest.mark.parametrize("fsdp", [False, True], ids=["ddp", "fsdp2"])
def test_an_optimizer_on_the_host_steps_alike_and_leaves_the_device_in_between(
    workers, tmp_path, plain, fsdp
):
    results = workers.run(2, train, str(tmp_path), fsdp=fsdp, adam=True, offload_optimizer=True)
    assert_equal(results, plain[True])
    assert [result["between_steps"] for result in results] == [[0, 0, 0]] * 2


def test_adapters_under_fsdp2_and_ulysses_train_as_on_one_process(workers, tmp_path):
    expected = workers.run(1, train, str(tmp_path), lora=True)[0]
    results = workers.run(2, train, str(tmp_path), lora=True, fsdp=True, parallel=ULYSSES, **ALL)
    assert_equal(results, expected)
    merged = results[0]["merged"]
    assert merged.keys() == expected["merged"].keys()
    assert len(merged) > 10
    for name, tensor in expected["merged"].items():
        assert (merged[name] - tensor).norm() <= ROUNDING * tensor.norm(), name
