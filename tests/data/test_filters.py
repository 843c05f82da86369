from __future__ import annotations

import importlib.util
import json
import pickle
import sys

import numpy as np
import pytest

from ultralong_hf.data.filtering import duplicates, languages
from ultralong_hf.data.filtering.filters import parse_filters
from ultralong_hf.errors import DocumentError, MachineError

ENGLISH = "The quick brown fox jumps over the lazy dog while the farmer watches from his old wooden porch. "
GERMAN = (
    "Der schnelle braune Fuchs springt über den faulen Hund, während der Bauer von seiner Veranda zusieht. "
)
QUESTION = "Natalia sold clips to 48 of her friends in April, and then half as many in May."


@pytest.fixture
def benchmark(tmp_path):
    path = tmp_path / "gsm8k.jsonl"
    path.write_text(json.dumps({"question": QUESTION, "answer": "72"}) + "\n")
    return str(path)


def test_no_filter_is_on_unless_it_is_named():
    off = {"exact_duplicates": False, "near_duplicates": None}
    assert [parse_filters(value) for value in (None, {}, off)] == [None, None, None]


def test_tells_all_faults_at_once():
    with pytest.raises(DocumentError) as caught:
        parse_filters(
            {
                "exact_duplicate": True,
                "near_duplicates": {"threshold": 1.5},
                "languages": [],
                "decontaminate": {"files": [{"columns": "q"}], "ngram": "13"},
            }
        )
    assert caught.value.faults == (
        "filters.exact_duplicate is no filter key. Nearest: exact_duplicates.",
        "filters.near_duplicates.threshold is 1.5: a number from 0.3 to 1 is needed.",
        "filters.languages is []: a list of texts is needed.",
        "filters.decontaminate.ngram is '13': a whole number from 1 to 1000 is needed.",
        "filters.decontaminate.files holds {'columns': 'q'}: a path is needed.",
    )


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("exact", "filters is 'exact'"),
        ({"exact_duplicates": 1}, "exact_duplicates is 1: true or false"),
        ({"near_duplicates": 0.8}, "near_duplicates is 0.8: true, false, or a mapping"),
        ({"near_duplicates": {"treshold": 0.8}}, "treshold is no filter key. Nearest: threshold"),
        ({"languages": {"min_confidence": 2, "keep": "en"}}, "min_confidence is 2: a number from 0 to 1"),
        ({"languages": {"min_confidence": 0.5}}, "languages.keep is None"),
        ({"decontaminate": {}}, "files holds None: a path"),
        ({"decontaminate": []}, "files holds \\[\\]: a path"),
        ({"decontaminate": {"files": "a", "ngram": 5, "least_words": 6}}, "least_words is 6: at most ngram"),
    ],
)
def test_refuses_what_is_no_filter(value, fault):
    with pytest.raises(DocumentError, match=fault):
        parse_filters(value)


def test_short_forms_mean_the_defaults(benchmark):
    short = parse_filters({"languages": "en", "decontaminate": benchmark, "near_duplicates": True})
    long = parse_filters(
        {
            "languages": {"keep": ["en"], "min_confidence": 0.0},
            "decontaminate": {
                "files": [{"path": benchmark}],
                "ngram": 13,
                "least_words": 8,
                "least_matches": 1,
            },
            "near_duplicates": {"threshold": 0.8},
        }
    )
    assert short.settings() == long.settings()


def test_settings_tell_all_that_decides_and_no_folder(benchmark, tmp_path):
    told = parse_filters({"decontaminate": [benchmark], "exact_duplicates": True}).settings()
    assert json.loads(json.dumps(told)) == told
    assert told["exact_duplicates"] is True
    assert told["decontaminate"]["files"] == [["gsm8k.jsonl", None]]
    assert told["decontaminate"]["ngrams"] == 5
    assert told["decontaminate"]["too_short_texts"] == 1
    assert str(tmp_path) not in json.dumps(told)


def test_settings_change_with_the_text_of_a_benchmark(benchmark):
    before = parse_filters({"decontaminate": benchmark}).settings()
    with open(benchmark, "a") as file:
        file.write(
            json.dumps(
                {"question": "Another question, which has more than thirteen words, and so it counts too?"}
            )
        )
    assert parse_filters({"decontaminate": benchmark}).settings() != before


def test_leaves_out_each_document_for_the_first_reason_and_says_why(benchmark):
    filters = parse_filters(
        {
            "languages": ["en"],
            "decontaminate": benchmark,
            "exact_duplicates": True,
            "near_duplicates": {"threshold": 0.8},
        }
    )
    long = " ".join(f"{word}{n}" for n in range(30) for word in ("the", "house", "of", "people"))
    english = f"This is the first page about the houses of the people in town. {long}"
    texts = [
        f"{ENGLISH} {QUESTION}",  # 0 contaminated
        GERMAN * 3,  # 1 another language
        english,  # 2 kept
        f"{ENGLISH} {QUESTION}",  # 3 contaminated before it is a repeat
        english,  # 4 exact repeat of 2
        english.replace("first", "1st"),  # 5 near repeat of 2
        GERMAN * 3,  # 6 another language before it is a repeat
        ENGLISH * 2,  # 7 kept
        english.replace("first", "1st"),  # 8 exact repeat of 5, so 2 is what is kept
        f"{GERMAN * 5} {QUESTION}",  # 9 another language before it is contaminated
    ]
    decisions = filters.decide(filters.annotate(texts))
    assert decisions.codes.tolist() == [2, 1, 0, 2, 3, 4, 1, 0, 3, 1]
    assert decisions.counts() == {"language": 3, "contaminated": 2, "exact_duplicate": 2, "near_duplicate": 1}
    told = {removal.document: removal for removal in decisions.removed}
    assert list(told) == [0, 1, 3, 4, 5, 6, 8, 9]
    assert len(decisions.removed) == 8
    assert told[0].detail == {
        "ngram": "natalia sold clips to 48 of her friends in april and then half",
        "benchmark": "gsm8k.jsonl, row 0, question",
        "matches": 5,
    }
    assert told[1].detail["language"] == "de"
    assert told[4].detail == {"of": 2}
    assert told[5].detail["of"] == 2
    assert told[5].detail["similarity"] >= 0.8
    assert told[8].detail == {"of": 2}
    assert [removal.reason for removal in decisions.removed] == [told[n].reason for n in told]


def test_columns_do_not_depend_on_batches_and_concatenate(benchmark):
    filters = parse_filters(
        {"languages": "en", "decontaminate": benchmark, "exact_duplicates": True, "near_duplicates": True}
    )
    texts = [ENGLISH * n + QUESTION * (n % 3 == 0) for n in range(12)]
    whole = filters.annotate(texts)
    parts = [filters.annotate(texts[start : start + 5]) for start in range(0, 12, 5)]
    assert set(whole) == {
        "language",
        "language_confidence",
        "text_digest",
        "benchmark_ngram",
        "benchmark_matches",
        "signature",
    }
    for name, column in whole.items():
        assert len(column) == 12
        assert np.array_equal(np.concatenate([part[name] for part in parts]), column)
    assert sum(column[0].nbytes for column in whole.values()) <= 170


def test_no_texts_give_empty_columns_of_the_same_kinds(benchmark):
    filters = parse_filters(
        {"languages": "en", "decontaminate": benchmark, "exact_duplicates": True, "near_duplicates": True}
    )
    empty, some = filters.annotate([]), filters.annotate([ENGLISH])
    assert {name: column.dtype for name, column in empty.items()} == {
        name: column.dtype for name, column in some.items()
    }
    assert all(column.shape[1:] == some[name].shape[1:] for name, column in empty.items())
    assert filters.decide(empty).codes.tolist() == []


def test_least_matches_and_min_confidence_are_kept_to(benchmark):
    text = f"{ENGLISH} {QUESTION}"  # holds 5 n-grams
    strict = parse_filters({"decontaminate": {"files": benchmark, "least_matches": 5}})
    lenient = parse_filters({"decontaminate": {"files": benchmark, "least_matches": 6}})
    assert strict.decide(strict.annotate([text])).codes.tolist() == [2]
    assert lenient.decide(lenient.annotate([text])).codes.tolist() == [0]
    sure = parse_filters({"languages": {"keep": ["en"], "min_confidence": 0.9}})
    columns = sure.annotate([ENGLISH * 3, ENGLISH * 3])
    assert columns["language_confidence"].min() >= 0.9
    columns["language_confidence"][1] = 0.8
    assert sure.decide(columns).codes.tolist() == [0, 1]


def test_filters_travel_to_other_processes(benchmark):
    filters = parse_filters({"decontaminate": benchmark, "near_duplicates": True})
    filters.settings()
    copy = pickle.loads(pickle.dumps(filters))  # noqa: S301
    theirs, ours = copy.annotate([QUESTION, ENGLISH]), filters.annotate([QUESTION, ENGLISH])
    assert all(np.array_equal(theirs[name], ours[name]) for name in ours)


def test_unknown_languages_are_told_before_the_run():
    with pytest.raises(DocumentError, match=r"\['english'\] not known. Known: .*de, .*en, "):
        parse_filters({"languages": ["english", "en"]}).settings()


@pytest.mark.parametrize(
    ("value", "library", "cached"),
    [
        ({"near_duplicates": True}, "datasketch", duplicates._empty_sketch),
        ({"languages": "en"}, "py3langid", languages._identifier),
    ],
)
def test_a_missing_library_is_told_with_the_extra_that_has_it(monkeypatch, value, library, cached):
    assert importlib.util.find_spec(library)
    cached.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(
        MachineError, match=rf"needs the library {library}.*pip install 'ultralong-hf\[filters\]'"
    ):
        parse_filters(value).settings()
