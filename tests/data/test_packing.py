from __future__ import annotations

import contextlib
import itertools
import json
import tempfile
from pathlib import Path
from unittest import mock

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizers import byte_tokenizer, ids_of, merging_tokenizer

from ultralong_hf import prepare_dataset
from ultralong_hf.data.encoding import token_cache
from ultralong_hf.data.mixture import LengthMixture
from ultralong_hf.data.showing.inspection import describe_row, describe_store
from ultralong_hf.data.store import LOCK, StoreWriter, read_manifest
from ultralong_hf.data.storing.parts import merge_parts, prepare_part
from ultralong_hf.errors import DocumentError, InputError

TOKENIZER = byte_tokenizer()


def prepare(documents, folder, **options):
    options = {"tokenizer": TOKENIZER, "target_length": 4, "separator": "|", **options}
    return prepare_dataset(documents, output_dir=folder, **options)


def texts(rows) -> list[str]:
    return [TOKENIZER.decode(row["input_ids"]) for row in rows]


def test_documents_are_joined_cut_and_the_short_last_row_is_dropped(tmp_path):
    rows = prepare(["aaa", "bb", "cc"], tmp_path)
    assert texts(rows) == ["aaa|", "bb|c"]
    assert read_manifest(tmp_path)["tokens"] == {
        "read": 9,
        "packed": 6,
        "separators": 2,
        "dropped": 1,
        "dropped_by_filters": 0,
        "dropped_too_short": 0,
        "dropped_by_mixture": 0,
        "dropped_by_shares": 0,
        "dropped_by_budget": 0,
        "dropped_cut_tails": 0,
        "dropped_tail": 1,
        "of_documents": 7,
        "of_repeats": 0,
        "of_separators": 2,
    }


def test_a_long_document_runs_over_several_rows_and_rows_end_with_documents_too(tmp_path):
    assert texts(prepare(["abcdefghij", "k", "lm"], tmp_path)) == ["abcd", "efgh", "ij|k"]


@pytest.mark.parametrize(
    ("separator", "rows"),
    [
        ("<s>", ["aa<s", ">bb<", "s>cc"]),
        ({"kind": "eos"}, ["aa</s>b", "b</s>cc"]),
        ({"kind": "bos"}, ["aa<bos>b", "b<bos>cc"]),
        ({"kind": "special", "value": "<|eot_id|>"}, ["aa<|eot_id|>b", "b<|eot_id|>cc"]),
        ({"kind": "new_token", "value": "<doc>"}, ["aa<doc>b", "b<doc>cc"]),
        ({"kind": "masked"}, ["aa</s>b", "b</s>cc"]),
        ({"kind": "none"}, ["aabb"]),
        (None, ["aabb"]),
    ],
)
def test_each_separator_stands_between_documents_only(tmp_path, separator, rows):
    packed = prepare(["aa", "bb", "cc"], tmp_path, separator=separator)
    saved = tmp_path / "tokenizer"
    tokenizer = type(TOKENIZER).from_pretrained(saved) if saved.is_dir() else TOKENIZER
    assert [tokenizer.decode(row["input_ids"]) for row in packed] == rows


def test_only_a_new_token_saves_a_tokenizer_with_the_store(tmp_path):
    prepare(["aa", "bb", "cc"], tmp_path / "new", separator={"kind": "new_token", "value": "<doc>"})
    prepare(["aa", "bb", "cc"], tmp_path / "text")
    saved = type(TOKENIZER).from_pretrained(tmp_path / "new" / "tokenizer")
    assert saved.convert_tokens_to_ids("<doc>") == 259
    assert not (tmp_path / "text" / "tokenizer").exists()


def test_empty_documents_are_dropped_and_counted_and_get_no_separator(tmp_path):
    assert texts(prepare(["", "aaa", "", "", "bbb", ""], tmp_path)) == ["aaa|"]
    documents = read_manifest(tmp_path)["documents"]
    assert documents == {
        "read": 6,
        "used": 2,
        "dropped": 4,
        "empty": 4,
        "dropped_by_filters": 0,
        "dropped_too_short": 0,
        "dropped_by_mixture": 0,
        "dropped_by_shares": 0,
        "dropped_by_budget": 0,
        "repeats": 0,
    }


def test_special_tokens_in_documents_are_text(tmp_path):
    assert texts(prepare(["a</s>b<bos>"], tmp_path)) == ["a</s", ">b<b"]


def test_a_mixture_drops_short_documents_and_spreads_copies_of_long_ones(tmp_path):
    mixture = LengthMixture(short_below=2, short_keep=0, long_above=2, long_repeat=2)
    rows = prepare(["a", "bb", "ccc", "d", "eee"], tmp_path, mixture=mixture)
    assert texts(rows) == ["bb|c", "cc|e", "ee|c", "cc|e"]
    manifest = read_manifest(tmp_path)
    assert manifest["documents"]["dropped_by_mixture"] == 2
    assert manifest["documents"]["repeats"] == 2
    # documents 1 + 2 + 3 + 1 + 3, repeats 3 + 3, four separators; four rows; dropped "a", "d", the last "ee"
    assert {k: manifest["tokens"][k] for k in ("read", "packed", "separators", "dropped")} == {
        "read": 10 + 6 + 4,
        "packed": 12,
        "separators": 4,
        "dropped": 4,
    }


def test_documents_of_an_iterator_may_be_repeated(tmp_path):
    rows = prepare(
        iter(["aaa", "b"]), tmp_path, mixture={"short_below": 1, "long_above": 2, "long_repeat": 2}
    )
    assert texts(rows) == ["aaa|", "b|aa"]


def test_target_length_may_be_a_text(tmp_path):
    rows = prepare(["a" * 3000], tmp_path, target_length="1K")
    assert [len(row["input_ids"]) for row in rows] == [1024, 1024]


def test_documents_that_fill_no_row_are_an_error_and_leave_the_folder_free(tmp_path):
    with pytest.raises(DocumentError, match="5 tokens in 2 documents, which do not fill one row of 8"):
        prepare(["aa", "bb"], tmp_path, target_length=8)
    assert texts(prepare(["aaaabbbb"], tmp_path, target_length=8)) == ["aaaabbbb"]


@pytest.mark.parametrize("workers", [0, -1])
def test_refuses_a_number_of_workers_that_cannot_work(tmp_path, workers):
    with pytest.raises(DocumentError, match="workers is"):
        prepare(["aaaa"], tmp_path, workers=workers)


def test_the_store_opens_in_datasets_with_two_bytes_a_token(tmp_path):
    prepare(["aaa", "bb", "cc"], tmp_path)
    rows = datasets.load_from_disk(str(tmp_path))
    assert rows.features == {"input_ids": datasets.List(datasets.Value("uint16"), length=4)}
    assert rows.with_format("torch")[0]["input_ids"].tolist() == ids_of("aaa|", TOKENIZER)
    assert rows.with_format(None)[1]["input_ids"] == ids_of("bb|c", TOKENIZER)


def test_each_row_tells_its_documents_and_their_tokens(tmp_path):
    (tmp_path / "in").mkdir()
    for name, text in (("a.txt", "aaaaa"), ("b.txt", "b"), ("c.txt", "cc")):
        (tmp_path / "in" / name).write_text(text)
    prepare(tmp_path / "in", tmp_path / "out", rows_per_shard=1)
    row = describe_row(tmp_path / "out", 1, tokenizer=TOKENIZER)
    assert row["documents"] == 2
    assert [
        (p["offset"], p["name"], p["is_separator"], p["tokens"], p["preview"]) for p in row["pieces"]
    ] == [
        (0, "a.txt", False, [4, 5], "a"),
        (1, "b.txt", True, [0, 1], "|"),
        (2, "b.txt", False, [0, 1], "b"),
        (3, "c.txt", True, [0, 1], "|"),
    ]
    store = describe_store(tmp_path / "out")
    assert (store["rows"], store["shards"], store["target_length"]) == (2, 2, 4)


CORPORA = st.lists(st.text(alphabet="ab cé😀<|>\n", max_size=40), max_size=25)
MERGING = merging_tokenizer(["ab c ab c é 😀 <s> \n\n"], vocabulary=280)
SEPARATORS = [
    ("<s>", ids_of("<s>", MERGING)),
    ("|", ids_of("|", MERGING)),
    ({"kind": "eos"}, [MERGING.eos_token_id]),
    ({"kind": "new_token", "value": "<doc>"}, [len(MERGING)]),
    (None, []),
]


@settings(max_examples=40, deadline=None)
@given(
    corpus=CORPORA,
    target_length=st.integers(1, 50),
    separator=st.sampled_from(SEPARATORS),
    rows_per_shard=st.integers(2, 60),
)
def test_rows_are_the_stream_of_documents_in_their_order(corpus, target_length, separator, rows_per_shard):
    spec, between = separator
    documents = [ids for text in corpus if (ids := ids_of(text, MERGING))]
    stream = [token for n, ids in enumerate(documents) for token in (between if n else []) + ids]
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "store"
        options = {"tokenizer": MERGING, "target_length": target_length, "separator": spec}
        options |= {"output_dir": folder, "rows_per_shard": rows_per_shard, "engine": "tokenizers"}
        if len(stream) < target_length:
            with pytest.raises(DocumentError, match="do not fill one row"):
                prepare_dataset(corpus, **options)
            return
        rows = prepare_dataset(corpus, **options)
        packed = [token for row in rows for token in row["input_ids"].tolist()]
        tokens = read_manifest(folder)["tokens"]
    kept = len(stream) // target_length * target_length
    assert packed == stream[:kept]
    assert tokens["read"] == len(stream) == tokens["packed"] + tokens["separators"] + tokens["dropped"]
    assert tokens["dropped"] == tokens["dropped_tail"] == len(stream) - kept


OPTIONS = st.fixed_dictionaries(
    {
        "order": st.sampled_from(["source", "shuffled", "related"]),
        "keep_tail": st.booleans(),
        "min_document_length": st.integers(0, 6),
        "token_budget": st.none() | st.integers(1, 400),
        "epochs": st.sampled_from([0.5, 1, 2.5]),
        "filters": st.sampled_from([None, {"exact_duplicates": True}]),
        "mixture": st.sampled_from(
            [
                None,
                {"kind": "cut", "length": 7},
                {"short_below": 5, "short_keep": 0.5, "long_above": 9, "long_repeat": 2.5},
                {"kind": "global", "short_below": 5, "short_keep": 0, "long_above": 9, "long_repeat": 2},
            ]
        ),
        "seed": st.integers(0, 3),
    }
)


class StopError(Exception):
    pass


def stopping(function, after: int):
    """The function, which fails when it has been called so often."""
    calls = itertools.count()

    def called(*arguments):
        if next(calls) == after:
            raise StopError
        return function(*arguments)

    return called


def contents(folder: Path) -> dict[str, bytes]:
    files = (f for f in folder.rglob("*") if f.is_file() and f.name != LOCK)
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in files}


@settings(max_examples=60, deadline=None)
@given(
    corpus=CORPORA,
    target_length=st.integers(1, 30),
    separator=st.sampled_from(SEPARATORS),
    options=OPTIONS,
    workers=st.integers(1, 3),
    file_tokens=st.sampled_from([1, 20, 1000]),
    stops=st.lists(st.tuples(st.sampled_from(["append", "add_shard"]), st.integers(0, 3)), max_size=2),
    parts=st.integers(1, 3),
)
def test_every_token_is_accounted_for_whatever_the_options_and_interruptions(
    corpus, target_length, separator, options, workers, file_tokens, stops, parts
):
    spec, between = separator
    ids = {f"document {n}": ids_of(text, MERGING) for n, text in enumerate(corpus)}
    options = {
        **options,
        "tokenizer": MERGING,
        "target_length": target_length,
        "separator": spec,
        "engine": "tokenizers",
        "rows_per_shard": 3,
    }
    with tempfile.TemporaryDirectory() as parent, mock.patch.object(token_cache, "FILE_TOKENS", file_tokens):
        once, resumed, merged = (Path(parent) / name for name in ("once", "resumed", "merged"))
        try:
            rows = prepare_dataset(corpus, output_dir=once, **options)
        except DocumentError:  # no row is full
            return
        for owner, after in stops:
            target = token_cache.TokenCache if owner == "append" else StoreWriter
            with (
                mock.patch.object(target, owner, stopping(getattr(target, owner), after)),
                contextlib.suppress(StopError),
            ):
                prepare_dataset(corpus, output_dir=resumed, workers=workers, **options)
        prepare_dataset(corpus, output_dir=resumed, workers=workers, **options)
        for index in range(parts):
            prepare_part(corpus, part=(index, parts), output_dir=Path(parent) / f"{index}", **options)
        merge_parts(merged, [Path(parent) / f"{index}" for index in range(parts)])
        assert contents(once) == contents(resumed) == contents(merged)
        tables = [pq.read_table(path) for path in sorted((once / "segments").iterdir())]
        pieces = pa.concat_tables(tables).to_pylist()
        manifest = read_manifest(once)
        packed = [row["input_ids"].tolist() for row in rows]
    tokens = manifest["tokens"]
    seen = [[] for _ in packed]
    for piece in pieces:
        source = between if piece["is_separator"] else ids[piece["name"]]
        assert piece["offset"] == len(seen[piece["row"]])
        seen[piece["row"]] += source[piece["start"] : piece["stop"]]
    assert seen == packed
    sizes = [(p["is_separator"], p["stop"] - p["start"]) for p in pieces]
    assert sum(size for is_separator, size in sizes if is_separator) == tokens["separators"]
    assert sum(size for is_separator, size in sizes if not is_separator) == tokens["packed"]
    assert tokens["of_documents"] == sum(map(len, ids.values()))
    assert tokens["read"] == tokens["of_documents"] + tokens["of_repeats"] + tokens["of_separators"]
    assert tokens["read"] == tokens["packed"] + tokens["separators"] + tokens["dropped"]
    assert tokens["dropped"] == sum(count for name, count in tokens.items() if name.startswith("dropped_"))
    documents = manifest["documents"]
    assert documents["read"] == len(corpus) == documents["used"] + documents["dropped"]
    assert documents["dropped"] == documents["empty"] + sum(
        count for name, count in documents.items() if name.startswith("dropped_")
    )


def test_an_order_at_random_is_another_order_of_the_same_documents(tmp_path):
    documents = [letter * 3 for letter in "abcdefgh"]
    source = "".join(texts(prepare(documents, tmp_path / "source", target_length=31)))
    shuffled = "".join(texts(prepare(documents, tmp_path / "shuffled", target_length=31, order="shuffled")))
    assert source == "|".join(documents)
    assert shuffled != source
    assert sorted(shuffled.split("|")) == documents


def test_a_dropped_tail_does_not_begin_the_next_row(tmp_path):
    rows = prepare(["aaa", "bb", "cc", "dddd"], tmp_path, keep_tail=False)
    assert texts(rows) == ["aaa|", "bb|c", "dddd"]
    assert read_manifest(tmp_path)["tokens"]["dropped_cut_tails"] == 1


def test_least_length_and_budget_leave_documents_out_and_say_so(tmp_path, caplog):
    rows = prepare(["a", "bbb", "cc", "dddd"], tmp_path / "a", min_document_length=2, separator=None)
    assert texts(rows) == ["bbbc", "cddd"]
    manifest = read_manifest(tmp_path / "a")
    assert manifest["tokens"]["dropped_too_short"] == manifest["documents"]["dropped_too_short"] == 1
    rows = prepare(["aaa", "bbb", "ccc"], tmp_path / "b", token_budget=8, separator=None)
    tokens = read_manifest(tmp_path / "b")["tokens"]
    assert (tokens["packed"], tokens["dropped_by_budget"]) == (8, 1)
    prepare(["aaa", "bbb"], tmp_path / "c", token_budget="1K", separator=None)
    assert "token_budget is 1,000, but the documents give 6 tokens" in caplog.text
    assert read_manifest(tmp_path / "c")["notices"] == caplog.messages


def test_bad_records_are_listed_beside_the_store(tmp_path):
    (tmp_path / "in.jsonl").write_text('{"text": "aaaa"}\n{broken\n{"text": ""}\n{"text": "bbb"}\n')
    prepare(tmp_path / "in.jsonl", tmp_path / "out", max_bad_share=0.5)
    manifest = read_manifest(tmp_path / "out")
    assert manifest["records"] == [
        {"source": 0, "label": "in.jsonl", "good": 2, "empty": 1, "bad": {"not JSON": 1}}
    ]
    listed = [json.loads(line) for line in (tmp_path / "out" / "bad_records.jsonl").read_text().splitlines()]
    assert [(bad["source"], bad["place"]) for bad in listed] == [
        ("in.jsonl", "in.jsonl, line 2"),
        ("in.jsonl", "in.jsonl, line 3"),
    ]
    with pytest.raises(DocumentError, match="line 2: not JSON"):
        prepare(tmp_path / "in.jsonl", tmp_path / "stop", on_error="stop")


def test_removed_documents_are_listed_beside_the_store(tmp_path):
    prepare(["aaaa", "bb", "aaaa", "cc"], tmp_path, filters={"exact_duplicates": True})
    assert [json.loads(line) for line in (tmp_path / "removed.jsonl").read_text().splitlines()] == [
        {"document": 2, "name": "document 2", "reason": "exact_duplicate", "of": "document 0"}
    ]
    assert read_manifest(tmp_path)["tokens"]["dropped_by_filters"] == 4


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"order": "random"}, "order is 'random': one of source, shuffled, related"),
        ({"token_budget": "1Q"}, "'1Q' is no number of tokens"),
        ({"epochs": 0}, "epochs is 0"),
        ({"min_document_length": -1}, "min_document_length is -1"),
        ({"on_error": "ignore"}, "on_error is 'ignore'"),
        ({"max_bad_share": 2}, "max_bad_share is 2"),
        ({"rows_per_shard": -1}, "rows_per_shard is -1"),
        ({"engine": "mine"}, "engine 'mine' is not known"),
        ({"filters": {"duplicate": True}}, "duplicate"),
        ({"mixture": {"shares": {"books": 1}}}, "mixture.shares"),
    ],
)
def test_options_without_sense_are_refused_before_any_document_is_read(tmp_path, options, fault):
    def never():
        raise AssertionError("a document was read")
        yield

    with pytest.raises(InputError, match=fault):
        prepare(never(), tmp_path, **options)
