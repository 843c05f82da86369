import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ultralong_hf.data.instructions.quotas import allot, check_domains, largest_remainders, quotas, ranks
from ultralong_hf.errors import ConversationError


def test_what_one_source_lacks_the_others_of_its_domain_give():
    assert allot(10, [1, 1], [3, 100]) == [3, 7]
    assert allot(10, [1, 1, 2], [1, 100, 2]) == [1, 7, 2]
    assert allot(10, [1, 1], [2, 3]) == [2, 3]
    assert allot(10, [1, 0], [4, 100]) == [4, 0]


@given(st.integers(0, 60), st.lists(st.tuples(st.integers(1, 9), st.integers(0, 30)), min_size=1, max_size=6))
def test_allotted_numbers_sum_up_and_none_is_above_what_there_is(total, sources):
    weights, available = zip(*sources, strict=True)
    given_numbers = allot(total, weights, available)
    assert sum(given_numbers) == min(total, sum(available))
    assert all(0 <= number <= most for number, most in zip(given_numbers, available, strict=True))


def test_shares_become_whole_numbers_that_sum_up():
    assert largest_remainders(100, [0.4, 0.3, 0.3]) == [40, 30, 30]
    assert largest_remainders(10, [1, 1, 1]) == [4, 3, 3]


def of(available, samples=None, domains=None, shares=None, domain_shares=None):
    count = len(available)
    return quotas(
        available,
        domains=domains or [None] * count,
        shares=shares or [None] * count,
        samples=samples,
        domain_shares=domain_shares and check_domains(domain_shares),
    )


def test_without_wishes_all_is_taken_and_with_a_total_by_what_there_is():
    assert of([30, 10]) == [30, 10]
    assert of([30, 10], samples=20) == [15, 5]
    assert of([30, 10], samples=20, shares=[1.0, 1.0]) == [10, 10]


def test_domains_have_their_shares_and_a_poor_one_is_not_made_up_for():
    domains, shares = ["general", "general", "math"], {"general": 3, "math": 1}
    assert of([100, 100, 100], 80, domains, domain_shares=shares) == [30, 30, 20]
    assert of([100, 100, 5], 80, domains, domain_shares=shares) == [30, 30, 5]
    assert of([10, 100, 100], 80, domains, [1.0, 1.0, None], shares) == [10, 50, 20]


def test_without_a_total_the_blend_is_as_large_as_the_shares_allow():
    assert of([100, 20], None, ["general", "math"], domain_shares={"general": 0.5, "math": 0.5}) == [20, 20]


@pytest.mark.parametrize(
    ("domains", "domain_shares", "message"),
    [
        (["general", None], {"general": 1}, "source 2 is of the domain None, of which instruct.domains says"),
        (["general", "general"], {"general": 1, "math": 1}, "instruct.domains has math, but no source is"),
        (
            ["general", "math"],
            {"general": 0, "math": 1},
            "instruct.domains.general is 0, not a number above 0",
        ),
        (["general", "math"], ["general"], "give shares, as in"),
    ],
)
def test_domains_that_do_not_fit_are_refused(domains, domain_shares, message):
    with pytest.raises(ConversationError, match=message):
        of([5, 5], 4, domains, domain_shares=domain_shares)


def test_a_share_for_some_sources_of_a_domain_is_refused():
    with pytest.raises(ConversationError, match="some sources have a share and some have none"):
        of([5, 5], 4, shares=[1.0, None])


def test_a_rank_hangs_on_seed_label_and_place_alone():
    files, rows = np.array([0, 0, 1]), np.array([0, 1, 0])
    whole = ranks(0, "a", files, rows, "draw")
    assert len(set(whole.tolist())) == 3
    assert ranks(0, "a", files[1:], rows[1:], "draw").tolist() == whole[1:].tolist()
    for other in (
        ranks(1, "a", files, rows, "draw"),
        ranks(0, "b", files, rows, "draw"),
        ranks(0, "a", files, rows, "order"),
    ):
        assert not set(other.tolist()) & set(whole.tolist())
