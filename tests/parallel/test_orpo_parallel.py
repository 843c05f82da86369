"""ORPO on split rows equals ORPO in one process: losses, gradient norms, evaluation, weights.

By Ulysses alone: a stage refuses rings on CPUs, and a stage is what is tested.
"""

import pytest
from preference_cases import run_stage

TOLERANCE = 1e-5


@pytest.mark.parametrize("backend", ["ulysses"])
def test_the_stage_of_a_recipe_on_two_devices_equals_one(workers, tmp_path, backend):
    options = {"stage": "orpo", "preference_data.eval_pairs": 3}
    numbers, weights, size = workers.run(1, run_stage, str(tmp_path / "one"), **options)[0]
    assert (len(numbers), size) == (5, 1)
    split = {"parallel.size": 2, "parallel.backend": backend}
    for ours in workers.run(2, run_stage, str(tmp_path / "two"), **options, **split):
        assert ours[2] == 2
        assert ours[0] == pytest.approx(numbers, rel=TOLERANCE)
        for name, tensor in weights.items():
            assert (ours[1][name] - tensor).norm() <= TOLERANCE * tensor.norm(), name
