import itertools

import pytest
from covering import cover

DIMENSIONS = {"a": [1, 2, 3], "b": "xy", "c": [False, True], "d": [4, 5]}


@pytest.mark.parametrize("strength", [1, 2, 3])
def test_any_values_of_so_many_dimensions_meet(strength):
    cases = cover(DIMENSIONS, strength)
    for names in itertools.combinations(DIMENSIONS, strength):
        met = {tuple(case[name] for name in names) for case in cases}
        assert met == set(itertools.product(*(DIMENSIONS[name] for name in names))), names
    assert len(cases) < 3 * 2 * 2 * 2
