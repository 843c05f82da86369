from __future__ import annotations

import random
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizers import KINDS, SPECIALS, byte_tokenizer, ids_of, merging_tokenizer, tokenizer_of_kind

from ultralong_hf.data import tokenization
from ultralong_hf.data.encoding import engine_checks, engines
from ultralong_hf.data.encoding.engine_checks import IdChecker, probe_texts
from ultralong_hf.data.encoding.engines import EncodedBatch, EngineMismatch, GigatokenEngine, open_engine
from ultralong_hf.data.encoding.new_marks import may_hold_new_marks
from ultralong_hf.data.tokenization import PlainTextEncoder
from ultralong_hf.errors import InputError, MachineError

KNOWN = ["GPT-2", "Llama 3", "Qwen 2", "Llama 2", "Mistral", "Gemma"]
UNKNOWN = {
    "Unigram": "Unsupported model type",
    "WordPiece": "Unsupported model type",
    "own regex": "Unknown pre_tokenizer",
    "lower case": "Unsupported normalizer",
    "no words": "gives other ids",
    "whole words": "gives other ids",
}
TEXTS = [
    "",
    "Grüße aus Zürich,\n\n  def f(x): return x+1  # 你好 \t 😀 <|eot_id|></s><s>[SEP] the end\r\n",
    "x",
    "   \n\n\t  bar barbar <tool>é e\u0301",
    "word " * 3000,
    "",
]


def _separate(batch: EncodedBatch) -> list[list[int]]:
    return [part.tolist() for part in np.split(batch.tokens, np.cumsum(batch.lengths)[:-1])]


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_transformers_for_plain_text(kind):
    tokenizer = tokenizer_of_kind(kind)
    with open_engine(tokenizer) as engine:
        batch = engine.encode(TEXTS)
    assert _separate(batch) == [ids_of(text, tokenizer) for text in TEXTS]
    assert batch.tokens.dtype == engine.dtype == np.uint16
    assert batch.lengths.dtype == np.int64


@pytest.mark.parametrize("kind", KNOWN)
def test_gigatoken_does_what_it_does_rightly(kind):
    with open_engine(tokenizer_of_kind(kind)) as engine:
        assert (engine.name, engine.notices) == ("gigatoken", [])
        assert engine.version.count(".") == 2


@pytest.mark.parametrize("kind", UNKNOWN)
def test_the_tokenizers_own_library_does_the_rest_and_says_why(kind):
    with open_engine(tokenizer_of_kind(kind)) as engine:
        assert engine.name == "tokenizers"
        assert len(engine.notices) == 1
        assert UNKNOWN[kind] in engine.notices[0]
        assert "`tokenizers` makes the ids" in engine.notices[0]
    with pytest.raises(MachineError, match=UNKNOWN[kind]):
        open_engine(tokenizer_of_kind(kind), engine="gigatoken")


def test_every_kind_of_tokenizer_is_tried():
    assert {*KNOWN, *UNKNOWN} == set(KINDS)


@pytest.mark.parametrize("engine", ["gigatoken", "tokenizers"])
def test_special_tokens_in_a_document_are_spelled_out(engine):
    tokenizer = tokenizer_of_kind("Llama 3")
    special = set(tokenizer.convert_tokens_to_ids(SPECIALS))
    text = "".join(SPECIALS) + " " + " ".join(SPECIALS)
    assert special <= set(tokenizer(text).input_ids)
    with open_engine(tokenizer, engine=engine) as opened:
        tokens = opened.encode([text]).tokens
    assert not special & set(tokens.tolist())
    assert tokenizer.decode(tokens) == text


def test_without_gigatoken_the_run_goes_on_with_a_notice(monkeypatch):
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    with open_engine(byte_tokenizer()) as engine:
        assert engine.name == "tokenizers"
        assert "pip install gigatoken" in engine.notices[0]
    with pytest.raises(MachineError, match="pip install gigatoken"):
        open_engine(byte_tokenizer(), engine="gigatoken")


def test_refuses_an_engine_that_there_is_not():
    with pytest.raises(InputError, match=r"'tiktoken' is not known\. Choose one of: auto, gigatoken, tok"):
        open_engine(byte_tokenizer(), engine="tiktoken")


@pytest.mark.parametrize("engine", ["gigatoken", "tokenizers"])
def test_no_texts_and_empty_texts_are_no_tokens(engine):
    with open_engine(byte_tokenizer(), engine=engine) as opened:
        nothing, empty = opened.encode([]), opened.encode(["", ""])
    assert (nothing.tokens.shape, nothing.lengths.shape) == ((0,), (0,))
    assert (empty.tokens.shape, empty.lengths.tolist()) == ((0,), [0, 0])
    assert {nothing.tokens.dtype, empty.tokens.dtype} == {np.dtype(np.uint16)}


@pytest.mark.parametrize("engine", ["gigatoken", "tokenizers"])
def test_ids_depend_neither_on_workers_nor_on_batches(engine, monkeypatch):
    monkeypatch.setattr(engines, "_LEAST_SPAN", 100)
    monkeypatch.setattr(engines, "WINDOW_CHARACTERS", 500)
    monkeypatch.setattr(tokenization, "WINDOW_CHARACTERS", 500)
    monkeypatch.setattr(tokenization, "_OVERLAP_CHARACTERS", 200)
    rng = random.Random(0)
    texts = [
        "".join(rng.choices(["word ", "a", "\n", "é", "12", "  "], k=rng.randrange(1200))) for _ in range(50)
    ]
    tokenizer = tokenizer_of_kind("Llama 3")
    expected = [ids_of(text, tokenizer) for text in texts]
    for workers, size in [(1, 50), (2, 50), (5, 7), (3, 1)]:
        with open_engine(tokenizer, engine=engine, workers=workers, seed=workers) as opened:
            batches = [opened.encode(texts[first : first + size]) for first in range(0, 50, size)]
        assert [ids for batch in batches for ids in _separate(batch)] == expected


@pytest.mark.parametrize("engine", ["gigatoken", "tokenizers"])
def test_batches_that_are_begun_ahead_have_the_same_ids(engine):
    with open_engine(tokenizer_of_kind("Llama 3"), engine=engine, workers=2) as opened:
        begun = [opened.start([text]) for text in TEXTS]
        ahead = [np.concatenate([part.tokens for part in finish()]).tolist() for finish in begun]
        assert ahead == [opened.encode([text]).tokens.tolist() for text in TEXTS]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=60), max_size=20))
@settings(max_examples=100, deadline=None)
def test_any_text_has_the_ids_of_the_tokenizer(texts):
    for kind in ("Llama 3", "Qwen 2", "Llama 2"):
        encoder = PlainTextEncoder(tokenizer_of_kind(kind))
        batch = _engine_of_kind(kind).encode(texts)
        assert batch.lengths.sum() == len(batch.tokens)
        if texts:
            assert _separate(batch) == [encoder.encode(text).tolist() for text in texts]


_ENGINES: dict[str, engines.Engine] = {}


def _engine_of_kind(kind: str) -> engines.Engine:
    if kind not in _ENGINES:
        _ENGINES[kind] = open_engine(tokenizer_of_kind(kind), engine="gigatoken", workers=1)
    return _ENGINES[kind]


@pytest.fixture
def misled(monkeypatch):
    """An engine that gives a wrong id wherever a text holds the letter Q."""
    engine = open_engine(byte_tokenizer(), engine="gigatoken", workers=2)
    right = engine._encode_span
    wrong = byte_tokenizer().convert_tokens_to_ids("R")

    def encode_span(texts):
        batch = right(texts)
        return batch._replace(
            tokens=np.where(batch.tokens == byte_tokenizer().convert_tokens_to_ids("Q"), wrong, batch.tokens)
        )

    monkeypatch.setattr(engine, "_encode_span", encode_span)
    yield engine
    engine.close()


def test_a_difference_in_the_first_texts_is_found(misled):
    with pytest.raises(
        EngineMismatch, match=r"gigatoken 0\..* gives other ids .* from token 2 of the text 'abQ'"
    ):
        misled.encode(["x"] * 20 + ["abQ"])


def test_a_difference_that_comes_late_is_found_sooner_or_later(misled):
    misled.encode(["good"] * 64)
    batches = [[f"{number} {index} Q" for index in range(100)] for number in range(100)]

    def encode_all():
        for batch in batches:
            misled.encode(batch)

    with pytest.raises(EngineMismatch, match="gives other ids"):
        encode_all()


def test_a_difference_deep_in_a_long_text_is_found(misled):
    misled.encode(["good"] * 64)
    rng = random.Random(0)
    texts = ["".join(rng.choices("abcdef \n", k=300_000)) for _ in range(40)]
    misled.encode(texts)  # which is right
    with pytest.raises(EngineMismatch, match="gives other ids"):
        misled.encode([text[:100_000] + text[100_000:].replace("a", "Q") for text in texts])


def test_a_panic_of_the_engine_is_a_difference_too(monkeypatch):
    class PanicError(BaseException):
        pass

    class Panicking:
        def encode_batch(self, texts, parallel):
            raise PanicError("index out of bounds")

    with open_engine(byte_tokenizer(), engine="gigatoken") as engine:
        monkeypatch.setattr(engine, "_tokenizer", Panicking())
        with pytest.raises(EngineMismatch, match=r"gigatoken 0.* failed: index out of bounds"):
            engine.encode(["a"])


def test_a_thousandth_of_the_characters_is_compared_whatever_the_batches(monkeypatch):
    rng = random.Random(1)
    texts = ["".join(rng.choices("abc def\n", k=rng.choice((80, 400, 3000, 30_000)))) for _ in range(3000)]
    encoder = PlainTextEncoder(byte_tokenizer())
    compared: list[tuple[str, int]] = []
    monkeypatch.setattr(
        IdChecker,
        "compare_excerpt",
        lambda self, text, ids, start, size: compared.append((text, len(text), size)),
    )

    def sample(seed, size):
        compared.clear()
        checker = IdChecker(encoder, engine="it", seed=seed)
        for first in range(0, len(texts), size):
            batch = texts[first : first + size]
            lengths = np.array([len(text) for text in batch])
            checker.sample(batch, np.zeros(lengths.sum(), np.uint16), lengths)
        return list(compared)

    first = sample(0, 3000)
    assert sample(0, 7) == first
    assert sample(1, 3000) != first
    characters = sum(min(length, size) for seed in range(10) for _, length, size in sample(seed, 3000))
    assert 0.0007 < characters / 10 / sum(map(len, texts)) < 0.0013


def test_an_excerpt_of_one_endless_word_is_no_difference():
    tokenizer = merging_tokenizer(["aaa ab abab    ", "aaaaaaa"], vocabulary=262)
    encoder = PlainTextEncoder(tokenizer)
    checker = IdChecker(encoder, engine="it", seed=0)
    for text in ("a" * 20_001, "ab" * 10_000, " " * 20_001):
        ids = encoder.encode(text)
        for start in (0, 1, 5000, 10_000):
            checker.compare_excerpt(text, ids, start=start, size=1000)
            with pytest.raises(EngineMismatch):
                checker.compare_excerpt(text, ids[ids != ids[0]], start=start, size=1000)


def test_marks_that_are_newer_than_the_tokenizers_tables_keep_their_order():
    tokenizer = tokenizer_of_kind("Qwen 2")
    texts = ["plain", "a\u0c3c\u0300b", "", "e\u0301", "\U00016d63\U00016d68", "\U00011382\U000113c9", "end"]
    with open_engine(tokenizer, engine="gigatoken") as engine:
        assert _separate(engine.encode(texts)) == [ids_of(text, tokenizer) for text in texts]
        assert [may_hold_new_marks(text) for text in texts] == [False, True, False, False, True, True, False]
        own = engine._encode_exactly(texts)  # without our help
        assert _separate(own) != [ids_of(text, tokenizer) for text in texts]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["GPT-2", "Llama 3", "Qwen 2", "Llama 2"])
def test_every_character_has_the_ids_of_the_tokenizer(kind):
    encoder = PlainTextEncoder(tokenizer_of_kind(kind))
    points = [*range(0xD800), *range(0xE000, 0x34000), *range(0xE0000, 0xE0200)]  # the rest is unassigned
    with open_engine(tokenizer_of_kind(kind), engine="gigatoken") as engine:
        for first in range(0, len(points), 20_000):
            letters = [chr(point) for point in points[first : first + 20_000]]
            texts = [f"a{c}b 1{c}1 {c}{c}.{c} \n{c}a{c}\u0300b{c}\u0327 e\u0301{c}{c}\u093c" for c in letters]
            expected = encoder._backend.encode_batch_fast(texts, add_special_tokens=False)
            assert _separate(engine.encode(texts)) == [encoding.ids for encoding in expected]


def test_the_probe_shows_each_added_token_alone_and_within_words():
    texts = probe_texts(["<tool>"], seed=0)
    assert {"<tool>", "a <tool> b", "a<tool>b<tool><tool>c"} <= set(texts)
    assert texts == probe_texts(["<tool>"], seed=0) != probe_texts(["<tool>"], seed=1)
    assert all(len(text.encode()) >= len(text) for text in texts)  # none holds a half of a surrogate pair


def test_caches_that_have_grown_are_dropped_and_ids_stay(monkeypatch):
    resident = iter(range(0, 10**12, 300 * 1024**2))
    monkeypatch.setattr(engines, "_resident_bytes", lambda: next(resident))
    monkeypatch.setattr(engines, "_CACHE_CHARACTERS", 1000)
    monkeypatch.setattr(engines, "_CACHE_BYTES", 256 * 1024**2)
    with open_engine(byte_tokenizer(), engine="gigatoken") as engine:
        assert isinstance(engine, GigatokenEngine)
        begun = []
        begin = engine._begin
        monkeypatch.setattr(engine, "_begin", lambda: begun.append(1) or begin())
        for _ in range(10):
            assert engine.encode(["ab" * 300]).lengths.tolist() == [600]
    assert len(begun) == 4  # after each 1,200 characters


@pytest.mark.parametrize("engine", ["gigatoken", "tokenizers"])
def test_no_thread_is_left_behind(engine):
    before = set(threading.enumerate())
    with open_engine(byte_tokenizer(), engine=engine, workers=3) as opened:
        opened.encode(["a" * 100] * 100)
        assert any(thread.name.startswith("tokenize") for thread in set(threading.enumerate()) - before)
    assert set(threading.enumerate()) == before


def test_an_error_in_a_thread_reaches_the_caller(monkeypatch):
    with open_engine(byte_tokenizer(), engine="tokenizers", workers=2) as engine:
        monkeypatch.setattr(
            engine._encoder, "encode", lambda text: (_ for _ in ()).throw(MemoryError("no more"))
        )
        with pytest.raises(MemoryError, match="no more"):
            engine.encode(["a", "b"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Llama 3", "Qwen 2", "Llama 2"])
def test_long_documents_have_the_ids_of_the_tokenizer(kind):
    rng = random.Random(0)
    pieces = [
        "word ",
        "naïve ",
        "  \n",
        "\n\n\n",
        "12345",
        "e\u0301",
        "😀",
        "don't ",
        "你好",
        "\t",
        "." * 40,
        " " * 90,
    ]
    mixed = "".join(rng.choices(pieces, k=3_000_000))
    endless = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=1_000_000))
    encoder = PlainTextEncoder(tokenizer_of_kind(kind))
    with open_engine(tokenizer_of_kind(kind), engine="gigatoken", workers=2) as engine:
        batch = engine.encode([mixed, endless])
    assert _separate(batch) == [encoder.encode(mixed).tolist(), encoder.encode(endless).tolist()]


def test_shares_and_bounds_are_those_that_are_documented():
    assert engine_checks.SHARE == 0.001
    assert (engine_checks._SHORTEST_EXCERPT, engine_checks._LONGEST_EXCERPT) == (4096, 65536)
