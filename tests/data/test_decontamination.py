from __future__ import annotations

import gzip
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ultralong_hf.data.filtering.benchmarks import BenchmarkText, read_benchmarks
from ultralong_hf.data.filtering.decontamination import BenchmarkIndex
from ultralong_hf.data.filtering.words import hash_words, split_words
from ultralong_hf.errors import DocumentError

QUESTION = "Natalia sold clips to 48 of her friends in April, and then half as many in May."
FIRST_NGRAM = "natalia sold clips to 48 of her friends in april and then half"


def index_of(*texts: str, **options: int) -> BenchmarkIndex:
    return BenchmarkIndex([BenchmarkText(f"row {n}", text) for n, text in enumerate(texts)], **options)


def found_in(index: BenchmarkIndex, *texts: str) -> tuple[list[int], list[int]]:
    matches = index.find(hash_words(texts))
    return matches.first.tolist(), matches.ngrams.tolist()


def test_finds_thirteen_words_in_a_row_whatever_their_case_and_punctuation():
    index = index_of("What is 2 + 2, if two and two are four? No answer is right.", QUESTION)
    text = "... NATALIA sold clips -- to 48 of her\nfriends in 'April' and then half of them burnt."
    (match,), (count,) = found_in(index, text)
    assert index.describe(match) == (FIRST_NGRAM, "row 1")
    assert count == 1


def test_twelve_words_in_a_row_are_no_match():
    index = index_of(QUESTION)
    assert found_in(index, " ".join(FIRST_NGRAM.split()[:12]) + " a third") == ([-1], [0])


def test_counts_different_ngrams_and_names_the_first_in_the_document():
    index = index_of(QUESTION)
    later = " ".join(split_words(QUESTION)[2:])
    (match,), (count,) = found_in(index, f"{later} and so {later} and {QUESTION}")
    assert index.describe(match)[0] == " ".join(split_words(QUESTION)[2:15])
    assert count == len(split_words(QUESTION)) - 12


def test_a_benchmark_text_of_eight_to_twelve_words_is_found_whole():
    index = index_of("Which of these is the capital of France?", "Seven words are too few for this", QUESTION)
    assert index.too_short == 1
    first, counts = found_in(
        index,
        "Well: which of these is the capital of France, then?",
        "which of these is the capital of Spain",
        "seven words are too few for this",
    )
    assert index.describe(first[0]) == ("which of these is the capital of france", "row 0")
    assert first[1:] == [-1, -1]
    assert counts == [1, 0, 0]


def test_ngrams_do_not_span_two_texts_of_a_benchmark_or_two_documents():
    words = FIRST_NGRAM.split()
    index = index_of(" ".join(words), "one " * 13)
    assert found_in(index, " ".join(words[:6]), " ".join(words[6:])) == ([-1, -1], [0, 0])
    halves = index_of(" ".join(words[:10]), " ".join(words[10:]), "one " * 13, least_words=13)
    assert found_in(halves, " ".join(words)) == ([-1], [0])


def test_finds_what_sets_of_ngrams_find():
    """Against sets of tuples of words, on texts over a small vocabulary where many n-grams are shared."""
    choose = random.Random(0)

    def make(words: int) -> str:
        return " ".join(choose.choice("abc") for _ in range(words))

    benchmarks = [make(choose.randrange(0, 12)) for _ in range(40)]
    documents = [make(choose.randrange(0, 60)) for _ in range(200)]
    index = index_of(*benchmarks, ngram=6, least_words=4)
    expected = set()
    for words in map(str.split, benchmarks):
        if 4 <= len(words) < 6:
            expected.add(tuple(words))
        expected.update(tuple(words[i : i + 6]) for i in range(len(words) - 5))
    assert index.ngrams == len(expected)
    matches = index.find(hash_words(documents))
    for text, first, count in zip(documents, matches.first, matches.ngrams, strict=True):
        words = text.split()
        runs = [tuple(words[i : i + n]) for i in range(len(words)) for n in (4, 5, 6) if i + n <= len(words)]
        held = [run for run in runs if run in expected]
        assert count == len(set(held))
        assert (first >= 0) == bool(held)
        if held:
            start = next(
                i for i in range(len(words)) if any(tuple(words[i : i + n]) in expected for n in (4, 5, 6))
            )
            ngram = index.describe(int(first))[0].split()
            assert words[start : start + len(ngram)] == ngram
    assert 20 < (matches.first >= 0).sum() < 200


def test_every_ngram_is_described_as_it_stands_in_its_text():
    texts = ["  Leading space, then one two three four", "a b c d e f g", "... last of all, it ends here"]
    index = index_of(*texts, ngram=4, least_words=4)
    told = {index.describe(number) for number in range(index.ngrams)}
    expected = {
        (" ".join(words[i : i + 4]), f"row {n}")
        for n, words in enumerate(map(split_words, texts))
        for i in range(len(words) - 3)
    }
    assert told == expected


def test_digest_is_of_what_is_looked_for_not_of_where_it_lies():
    assert index_of(QUESTION).digest == index_of(QUESTION.upper()).digest
    assert index_of(QUESTION).digest != index_of(QUESTION + " More?").digest


def test_refuses_benchmarks_in_which_nothing_is_long_enough():
    with pytest.raises(DocumentError, match="8 words or more"):
        index_of("too short", "")


def test_reads_all_texts_of_json_lines_lists_and_parquet(tmp_path):
    rows = [{"question": "q0", "choices": {"text": ["a", "b"], "label": [1, 2]}, "n": 3}, {"question": "q1"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    (tmp_path / "b.json").write_text(json.dumps(rows))
    pq.write_table(pa.Table.from_pylist(rows[:1]), tmp_path / "c.parquet")
    (tmp_path / "d.txt.gz").write_bytes(gzip.compress(b"whole text"))
    expected = [("row 0, question", "q0"), ("row 0, choices", "a"), ("row 0, choices", "b")]
    told = list(read_benchmarks(str(tmp_path)))
    assert [t for t in told if t.place.startswith("a.jsonl")] == [
        (f"a.jsonl, {place}", text) for place, text in [*expected, ("row 1, question", "q1")]
    ]
    assert [t[1] for t in told if t.place.startswith("b.json,")] == ["q0", "a", "b", "q1"]
    assert [t for t in told if t.place.startswith("c.parquet")] == [
        (f"c.parquet, {place}", text) for place, text in expected
    ]
    assert told[-1] == ("d.txt.gz", "whole text")


def test_reads_named_columns_alone_and_refuses_those_that_no_row_has(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "q", "answer": "a"}\n')
    assert list(read_benchmarks(str(path), columns=["answer"])) == [("a.jsonl, row 0, answer", "a")]
    with pytest.raises(DocumentError, match=r"no row has the columns \['anwser'\]"):
        list(read_benchmarks(str(path), columns=["anwser", "question"]))


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("a.jsonl", b'{"question": "q"\n', "a.jsonl cannot be read"),
        ("a.jsonl", b'["q"]\n', "row 0: str, not an object"),
        ("a.parquet", b"PAR1", "a.parquet cannot be read"),
        ("a.txt", b"\xff\xfe", "a.txt cannot be read"),
        ("a.jsonl.gz", gzip.compress(b'{"question": "q"}', mtime=0)[:-9], "a.jsonl.gz cannot be read"),
    ],
)
def test_names_a_benchmark_file_that_cannot_be_read(tmp_path, name, content, fault):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DocumentError, match=fault):
        list(read_benchmarks(str(tmp_path / name)))


def test_names_a_benchmark_file_that_is_not_there(tmp_path):
    with pytest.raises(DocumentError, match="no file is there"):
        list(read_benchmarks(str(tmp_path / "none.jsonl")))
