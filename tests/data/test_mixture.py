from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_tables import table, tables

from ultralong_hf.data.mixture import (
    FU_SHARES,
    SLIMPAJAMA_SHARES,
    CutMixture,
    FuMixture,
    LengthMixture,
    mixture_settings,
    parse_mixture,
)
from ultralong_hf.data.planning import levels
from ultralong_hf.data.planning.choice import REASONS, choose_documents
from ultralong_hf.data.planning.tables import random_bits, uniform
from ultralong_hf.errors import DocumentError

SMALL = {"short_below": 10, "long_above": 20}


def used(choice):
    """Uses of each document that has any."""
    documents, counts = np.unique(choice.uses.document, return_counts=True)
    return dict(zip(documents.tolist(), counts.tolist(), strict=True))


def tokens_by_source(documents, uses):
    """Tokens of uses, of each source."""
    return np.bincount(
        documents.source[uses.document], weights=uses.length, minlength=len(documents.labels)
    ).tolist()


def many(kind_of_lengths, count=10_000):
    return table(np.full(count, kind_of_lengths))


# the settings


def test_bounds_belong_to_the_middle():
    mixture = LengthMixture(**SMALL, short_keep=0.0, long_repeat=3.0)
    assert mixture.weights(np.array([9, 10, 15, 20, 21])).tolist() == [0, 1, 1, 1, 3]


def test_refuses_numbers_that_make_no_sense_all_at_once():
    with pytest.raises(DocumentError) as caught:
        LengthMixture(short_keep=1.1, long_repeat=0.5, short_below=9000)
    assert len(caught.value.faults) == 3
    with pytest.raises(DocumentError) as caught:
        FuMixture(short_keep=-0.1, characters_per_token=0, short_below=-1)
    assert len(caught.value.faults) == 3


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ({"short_kep": 0.1}, r"unknown keys \['short_kep'\]. Known to per_source: kind, short_below"),
        ({"short_keep": "0.1"}, "short_keep is '0.1'"),
        ({"kind": "fu", "long_above": 8192}, r"\['long_above'\]. Known to fu"),
        ({"kind": "cut", "length": "4Q"}, "mixture.length: '4Q' is no length"),
        ({"kind": "cut", "length": 0}, "mixture.length is 0"),
        ({"shares": "slim"}, "mixture.shares is 'slim': slimpajama, fu, or a mapping"),
        ({"shares": {"books": 0}}, "mixture.shares.books is 0"),
        ({"kind": "global", "shares": "fu"}, "no meaning with kind global"),
        ({"kind": "none", "short_keep": 1}, "mixture.kind is 'none'"),
        ("fuu", "mixture.kind is 'fuu'. Known: per_source, global, fu, cut, none"),
        (3, "mixture is 3"),
    ],
)
def test_refuses_what_is_no_mixture(value, fault):
    with pytest.raises(DocumentError, match=fault):
        parse_mixture(value)


def test_reads_a_recipe_mapping():
    assert parse_mixture({"short_keep": 0.2}) == LengthMixture(kind="per_source", short_keep=0.2)
    assert parse_mixture({"kind": "global", "short_below": "2K"}).short_below == 2048
    assert parse_mixture("fu") == FuMixture()
    assert parse_mixture({"kind": "cut", "length": "128K"}) == CutMixture(length=131072)
    assert parse_mixture(None) is parse_mixture("none") is parse_mixture({"kind": "none"}) is None


@pytest.mark.parametrize("value", [None, "global", "fu", "cut", {"shares": {"a": 0.5}}])
def test_the_settings_in_a_manifest_make_the_same_mixture(value):
    mixture = parse_mixture(value)
    assert parse_mixture(mixture_settings(mixture)) == mixture


def test_numbers_of_the_authors_are_as_they_coded_them():
    fu = FuMixture()
    assert (fu.characters_per_token, fu.short_below, fu.short_keep) == (3.68, 4096, 0.1)
    assert sum(FU_SHARES.values()) == pytest.approx(1, abs=1e-7)
    assert sum(SLIMPAJAMA_SHARES.values()) == pytest.approx(1, abs=1e-9)
    assert SLIMPAJAMA_SHARES.keys() == FU_SHARES.keys()


# weights


def test_short_documents_are_kept_and_long_ones_repeated_at_the_given_rates():
    mixture = LengthMixture(**SMALL, short_keep=0.25, long_repeat=1.5)
    short = choose_documents(many(5), mixture, seed=7)
    long = used(choose_documents(many(50), mixture, seed=7))
    assert set(used(short).values()) == {1}
    assert set(long.values()) == {1, 2}
    # five standard deviations of a mean of 10,000 draws
    assert len(short.uses) / 10_000 == pytest.approx(0.25, abs=5 * (0.25 * 0.75 / 10_000) ** 0.5)
    assert sum(long.values()) / 10_000 == pytest.approx(1.5, abs=5 * 0.005)
    assert short.drops.documents["mixture"] == 10_000 - len(short.uses)


@pytest.mark.parametrize("kind", ["per_source", "global"])
def test_a_choice_depends_on_seed_and_index_alone(kind):
    mixture = LengthMixture(**SMALL, kind=kind, short_keep=0.5, long_repeat=1.5)
    lengths = np.tile([5, 15, 25], 100)
    there = used(choose_documents(table(lengths), mixture, seed=1))
    others = lengths.copy()
    others[::2] = 1
    fewer = used(choose_documents(table(others[:150]), mixture, seed=1))
    assert {n: there.get(n) for n in range(1, 150, 2)} == {n: fewer.get(n) for n in range(1, 150, 2)}
    assert used(choose_documents(table(lengths), mixture, seed=2)) != there


def test_without_a_mixture_every_document_is_taken_once_an_epoch():
    assert used(choose_documents(table([3, 1, 4]), None, seed=0)) == {0: 1, 1: 1, 2: 1}
    twice = choose_documents(table([3, 1, 4]), None, seed=0, epochs=2)
    assert twice.uses.document.tolist() == [0, 0, 1, 1, 2, 2]
    assert twice.uses.copy.tolist() == [0, 1, 0, 1, 0, 1]
    half = choose_documents(many(5), None, seed=0, epochs=0.5)
    assert len(half.uses) / 10_000 == pytest.approx(0.5, abs=5 * 0.005)


def test_leaves_out_what_is_empty_removed_or_too_short_and_says_so():
    documents = table([0, 5, 6, 7, 8, 0], removed=[0, 0, 3, 0, 9, 3])
    choice = choose_documents(documents, None, min_length=6, seed=0)
    assert used(choice) == {3: 1}
    assert {reason: n for reason, n in choice.drops.documents.items() if n} == {
        "empty": 2,
        "too_short": 1,
        "removed": 2,
    }
    assert choice.drops.tokens["too_short"] == 5
    assert choice.drops.tokens["removed"] == 14
    assert choice.drops.filters == {3: (1, 6), 9: (1, 8)}


# budget


def test_a_budget_is_met_to_the_token_by_a_cut():
    choice = choose_documents(many(7, 100), None, token_budget=100, seed=0)
    assert int(choice.uses.length.sum()) == 100
    assert sorted(choice.uses.length.tolist()) == [2] + [7] * 14
    assert choice.drops.tokens["budget"] == 700 - 100
    assert choice.drops.documents["budget"] == 85
    assert choice.notices == []


def test_a_rest_below_the_least_length_is_left_out():
    choice = choose_documents(many(7, 100), None, token_budget=100, min_length=3, seed=0)
    assert choice.uses.length.tolist() == [7] * 14
    assert choice.drops.tokens["budget"] == 700 - 98


def test_a_budget_above_what_there_is_takes_all_of_it_and_says_so():
    choice = choose_documents(table([3, 4]), None, token_budget=100, seed=0)
    assert used(choice) == {0: 1, 1: 1}
    assert choice.notices == [
        "token_budget is 100, but the documents give 7 tokens in 1 epochs: "
        "give more documents or more epochs."
    ]
    more = choose_documents(table([3, 4]), None, token_budget=15, epochs=3, seed=0)
    assert int(more.uses.length.sum()) == 15
    assert set(used(more).values()) <= {2, 3}


@pytest.mark.parametrize("budgets", [(300, 2000), (2000, 3000)])
def test_a_larger_budget_takes_what_a_smaller_one_does_and_more(budgets):
    documents = table(np.tile([5, 15, 25], 60))
    mixture = LengthMixture(**SMALL, short_keep=0.5, long_repeat=2.5)
    small, large = (
        used(choose_documents(documents, mixture, token_budget=budget, seed=3)) for budget in budgets
    )
    assert all(large.get(document, 0) >= count for document, count in small.items())


@settings(max_examples=100, deadline=None)
@given(
    documents=st.lists(
        st.tuples(st.integers(1, 30), st.sampled_from([0.0, 0.1, 1.0, 2.0, 3.7])), min_size=1, max_size=30
    ),
    share=st.floats(0, 3),
    seed=st.integers(0, 9),
)
def test_uses_are_taken_in_order_of_their_levels(documents, share, seed):
    lengths, weights = (np.array(column) for column in zip(*documents, strict=True))
    if not (weights @ lengths):
        return
    uniforms = uniform(seed, "test", np.arange(len(lengths)))
    tokens = int(share * (weights @ lengths))
    left, expected, cut = tokens, np.zeros(len(lengths), dtype=int), None
    coming = sorted(
        ((k + uniforms[n]) / weights[n], n)
        for n in range(len(lengths))
        for k in range(int(4 * weights[n]) + 40)
        if weights[n]
    )
    for _, n in coming:
        if lengths[n] > left:
            cut = (n, left) if left else None
            break
        expected[n] += 1
        left -= lengths[n]
    few = levels._FEW
    try:
        levels._FEW = 2  # so that small tables are bisected too
        taken, rest = levels.take_tokens(tokens, lengths, weights, uniforms)
    finally:
        levels._FEW = few
    assert (taken.tolist(), rest) == (expected.tolist(), cut)


# shares of sources


def sources_of(rng, documents=3000):
    """Three sources: mostly short, mixed, mostly long."""
    source = np.repeat([0, 1, 2], documents // 3)
    means = np.array([6.0, 15.0, 40.0])[source]
    return table(np.maximum(rng.exponential(means), 1).astype(int), source=source)


@pytest.mark.parametrize("budget", [None, 5000, 50_000])
def test_per_source_keeps_the_shares_of_tokens_and_global_does_not(budget):
    documents = sources_of(np.random.default_rng(0))
    before = np.bincount(documents.source, weights=documents.length) / documents.length.sum()
    shares = {}
    for kind in ("per_source", "global"):
        mixture = LengthMixture(**SMALL, kind=kind, short_keep=0.1, long_repeat=2)
        uses = choose_documents(documents, mixture, token_budget=budget, seed=1).uses
        assert budget is None or int(uses.length.sum()) == budget
        shares[kind] = np.array(tokens_by_source(documents, uses)) / uses.length.sum()
    total = budget or 50_000
    assert shares["per_source"] == pytest.approx(before, abs=1 / total)
    assert max(abs(shares["global"] - before)) > 0.05


def test_per_source_keeps_the_weights_within_a_source():
    """A source of a tenth of the tokens it had is scaled, its short to long ones as 0.1 to 2."""
    source = np.repeat([0, 1], [20_000, 2000])
    lengths = np.concatenate([np.tile([5, 50], 10_000), np.full(2000, 50)])
    documents = table(lengths, source=source, shares=[0.2, 0.8])
    mixture = LengthMixture(**SMALL, short_keep=0.1, long_repeat=2)
    uses = choose_documents(documents, mixture, seed=1, token_budget=400_000).uses
    counts = np.bincount(uses.document, minlength=len(lengths))
    rates = counts[0:20_000:2].mean(), counts[1:20_000:2].mean()
    assert rates[1] / rates[0] == pytest.approx(20, rel=0.15)
    assert tokens_by_source(documents, uses) == [80_000, 320_000]
    assert counts[20_000:].max() == 4  # 320,000 tokens of 100,000


def test_shares_of_the_sources_own_leave_the_rest_to_the_others_by_their_tokens():
    documents = table(
        np.full(4000, 10), source=np.repeat([0, 1, 2], [1000, 1000, 2000]), shares=[0.4, None, None]
    )
    uses = choose_documents(documents, None, token_budget=10_000, seed=0).uses
    assert tokens_by_source(documents, uses) == [4000, 2000, 4000]


def test_shares_that_are_all_given_are_scaled():
    documents = table(np.full(300, 10), source=np.repeat([0, 1], 150), shares=[30, 10])
    assert tokens_by_source(documents, choose_documents(documents, None, seed=0).uses) == [2250, 750]


def test_shares_by_name_find_their_sources_and_several_of_a_name_divide_it():
    labels = ("RedPajamaBook", "c4/train", "common-crawl-1.jsonl", "common-crawl-2.jsonl")
    documents = table(np.full(4000, 10), source=np.repeat([0, 1, 2, 3], [800, 800, 600, 1800]), labels=labels)
    preset = LengthMixture(short_below=0, shares="slimpajama")
    uses = choose_documents(documents, preset, token_budget=8310, seed=0).uses
    # 0.042, 0.267 and 0.522 sum to 0.831
    assert tokens_by_source(documents, uses) == [420, 2670, 1305, 3915]
    named = LengthMixture(short_below=0, shares={"c4/train": 0.5, "book": 0.3, "crawl": 0.2})
    uses = choose_documents(documents, named, token_budget=10_000, seed=0).uses
    assert tokens_by_source(documents, uses) == [3000, 5000, 500, 1500]


@pytest.mark.parametrize(
    ("mixture", "shares", "fault"),
    [
        (LengthMixture(shares="slimpajama"), None, "source 0 could be none of CommonCrawl, C4"),
        (LengthMixture(shares={"source": 1, "books": 1}), None, "no source is called books"),
        (LengthMixture(shares={"o": 1, "0": 1, "1": 1}), None, "source 0 could be o or 0 of o, 0, 1"),
        (LengthMixture(shares={"source": 1}), [0.5, 0.5], "given twice"),
        (None, [1.0, None], "sum to 1, which leaves nothing for source 1"),
        (None, [-1.0, 2.0], "must be above 0"),
        (LengthMixture(kind="global"), [0.5, 0.5], "global does not keep"),
        (LengthMixture(short_keep=0), [0.5, 0.5], "no document is left to fill the share of source 0"),
    ],
)
def test_refuses_shares_that_cannot_be_meant(mixture, shares, fault):
    documents = table([5, 5000], source=[0, 1], shares=shares)
    with pytest.raises(DocumentError, match=fault):
        choose_documents(documents, mixture, seed=0)


def test_a_source_that_gives_nothing_leaves_its_share_to_the_others_with_a_notice():
    documents = table([5, 5000, 5000], source=[0, 1, 2])
    choice = choose_documents(documents, LengthMixture(short_keep=0), seed=0)
    assert tokens_by_source(documents, choice.uses) == [0, 5000, 5000]
    assert choice.notices == ["filters, min_length and the mixture leave nothing of source 0."]


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"min_length": -1}, "min_document_length is -1"),
        ({"token_budget": 0}, "token_budget is 0"),
        ({"epochs": 0}, "epochs is 0"),
        ({"epochs": float("inf")}, "epochs is inf"),
        ({"mixture": FuMixture(), "epochs": 2}, "fu repeats nothing"),
    ],
)
def test_refuses_options_without_sense(options, fault):
    with pytest.raises(DocumentError, match=fault):
        choose_documents(table([1]), **{"mixture": None, "seed": 0, **options})


# as Fu et al. coded it


def test_fu_takes_what_their_loop_takes():
    """Their loop over documents, with our random numbers and in our order of documents."""
    rng = np.random.default_rng(0)
    characters = np.maximum(rng.lognormal(9.3, 1, 900), 1).astype(int)
    source = np.repeat([0, 1, 2], 300)
    documents = table(characters // 4 + 1, source=source, characters=characters, shares=[0.5, 0.3, 0.2])
    budget = 300_000
    chance = uniform(5, "mixture", np.arange(900))
    spent, taken, kept_short = [0.0, 0.0, 0.0], set(), 0
    for n in np.argsort(random_bits(5, "fu", np.arange(900))):
        length = characters[n] / 3.68
        if spent[source[n]] > budget * [0.5, 0.3, 0.2][source[n]]:
            continue
        if length < 4096 and chance[n] > 0.2:
            continue
        spent[source[n]] += length
        taken.add(int(n))
        kept_short += length < 4096
    choice = choose_documents(documents, FuMixture(short_keep=0.2), token_budget=budget, seed=5)
    assert used(choice) == dict.fromkeys(taken, 1)
    assert len(taken) > 30
    assert kept_short > 10
    assert choice.drops.documents["budget"] > 100
    assert choice.notices == []


def test_fu_without_a_budget_takes_the_most_that_keeps_the_shares_and_repeats_nothing():
    lengths = np.full(300, 5000)
    documents = table(lengths, source=np.repeat([0, 1], [200, 100]), characters=lengths * 4, shares=[1, 1])
    choice = choose_documents(documents, FuMixture(), seed=0)
    # their rule takes the document that goes above the share whole, here the one at exactly the share
    assert tokens_by_source(documents, choice.uses) == [5000 * 101, 5000 * 100]
    assert choice.drops.documents["share"] == 99
    assert not choice.uses.copy.any()


def test_fu_says_which_source_cannot_fill_its_share():
    lengths = np.full(30, 5000)
    documents = table(lengths, source=np.repeat([0, 1], [20, 10]), characters=lengths * 4, shares=[1, 1])
    choice = choose_documents(documents, FuMixture(), token_budget=200_000, seed=0)
    assert tokens_by_source(documents, choice.uses) == [19 * 5000, 10 * 5000]
    assert choice.notices == [
        "token_budget is 200,000, of which source source 1 has a share of 50.0%, "
        "but it gives about 54,348 tokens."
    ]


# cut


def test_cut_makes_pieces_that_are_documents_of_their_own():
    choice = choose_documents(table([10, 3, 4]), CutMixture(length=4), seed=0, epochs=2)
    pieces = [(0, 0, 4), (0, 4, 4), (0, 8, 2), (1, 0, 3), (2, 0, 4)]
    found = zip(
        *(getattr(choice.uses, name).tolist() for name in ("document", "start", "length")), strict=True
    )
    assert sorted(found) == sorted(pieces * 2)
    assert choice.uses.copy.tolist() == [0, 0, 0, 1, 1, 1, 0, 1, 0, 1]
    assert sum(choice.drops.tokens.values()) == 0


# the account

MIXTURES = [
    None,
    LengthMixture(**SMALL, short_keep=0.3, long_repeat=2.5),
    LengthMixture(**SMALL, kind="global", short_keep=0.0, long_repeat=1.5),
    FuMixture(short_below=15, short_keep=0.3),
    CutMixture(length=7),
]


@settings(max_examples=200, deadline=None)
@given(
    documents=tables(),
    mixture=st.sampled_from(MIXTURES),
    min_length=st.integers(0, 20),
    token_budget=st.none() | st.integers(1, 3000),
    epochs=st.sampled_from([0.5, 1, 3]),
    seed=st.integers(0, 99),
)
def test_every_token_is_used_or_dropped_for_a_reason(
    documents, mixture, min_length, token_budget, epochs, seed
):
    epochs = 1 if isinstance(mixture, FuMixture) else epochs
    uses, drops, notices = choose_documents(
        documents, mixture, min_length=min_length, token_budget=token_budget, epochs=epochs, seed=seed
    )
    first = uses.copy == 0
    assert documents.length.sum() == uses.length[first].sum() + sum(drops.tokens.values())
    assert len(documents) == len(np.unique(uses.document)) + sum(drops.documents.values())
    assert set(drops.documents) == set(drops.tokens) == set(REASONS[1:])
    assert all(count >= 0 for count in [*drops.documents.values(), *drops.tokens.values()])

    ends = uses.start + uses.length
    assert (uses.length > 0).all()
    assert (ends <= documents.length[uses.document]).all()
    assert (documents.removed[uses.document] == 0).all()
    assert (documents.length[uses.document] >= min_length).all()
    if not isinstance(mixture, FuMixture) and token_budget is not None:
        assert uses.length.sum() <= token_budget
        assert notices or token_budget - uses.length.sum() < max(min_length, 1) * len(documents.labels)

    order = np.lexsort((uses.start, uses.copy, uses.document))
    assert order.tolist() == list(range(len(uses))), "in order of document, copy and start"
    for document, copy in {(int(d), int(c)) for d, c in zip(uses.document, uses.copy, strict=True)}:
        own = (uses.document == document) & (uses.copy == copy)
        assert uses.start[own].tolist() == [0, *ends[own][:-1].tolist()], "no gap between pieces"
        assert copy == 0 or ((uses.document == document) & (uses.copy == copy - 1)).any()
