from __future__ import annotations

import numpy as np
import pytest

from ultralong_hf.data.planning.sketches import SKETCH_BYTES, similarity_path, sketch_tokens


def numbers(sketch):
    """The 64 numbers of each sketch."""
    return np.concatenate([sketch & 15, sketch >> 4], axis=1).astype(int) - 8


def sketches_of(*documents, dtype=np.uint32):
    lengths = np.array([len(document) for document in documents])
    return sketch_tokens(np.array([t for document in documents for t in document], dtype=dtype), lengths)


def likeness(sketch):
    """Cosine of the first two."""
    first, second = numbers(sketch)
    return first @ second / np.sqrt((first @ first) * (second @ second))


def test_a_sketch_is_of_its_document_alone():
    rng = np.random.default_rng(0)
    documents = [rng.integers(0, 50_000, size).tolist() for size in (1, 30, 500, 0, 9000)]
    together = sketches_of(*documents)
    assert together.shape == (5, SKETCH_BYTES)
    assert together.dtype == np.uint8
    for number, document in enumerate(documents):
        assert sketches_of(document).tolist() == together[number : number + 1].tolist()
    assert (numbers(together)[3] == 0).all(), "no tokens, nothing"
    assert sketches_of(*documents, dtype=np.uint16).tolist() == together.tolist()


def test_order_and_number_of_a_token_do_not_matter():
    assert sketches_of([5, 6, 7], [7, 6, 6, 5, 5, 5])[0].tolist() == sketches_of([5, 6, 7])[0].tolist()
    assert likeness(sketches_of([5, 6, 7], [7, 6, 6, 5, 5, 5])) == pytest.approx(1)


def test_sketches_are_alike_as_far_as_documents_share_tokens():
    rng = np.random.default_rng(0)
    tokens = rng.permutation(100_000)
    for shared, bounds in ((1000, (0.99, 1.0)), (500, (0.3, 0.7)), (0, (-0.35, 0.35))):
        sketch = sketches_of(tokens[:1000], tokens[1000 - shared : 2000 - shared])
        assert bounds[0] <= likeness(sketch) <= bounds[1]


def test_long_documents_are_sampled_over_their_whole_length():
    tokens = np.random.default_rng(0).permutation(100_000)
    sketch = sketches_of(tokens[:60_000], np.concatenate([tokens[:30_000], tokens[60_000:90_000]]))
    assert 0.2 < likeness(sketch) < 0.8


def test_a_path_takes_every_document_once():
    rng = np.random.default_rng(0)
    for count in (0, 1, 2, 511, 512, 513, 1025, 3000):
        path = similarity_path(rng.integers(0, 256, (count, SKETCH_BYTES), dtype=np.uint8))
        assert np.sort(path).tolist() == list(range(count))


def test_a_path_of_equal_documents_is_one_too():
    assert np.sort(similarity_path(np.full((2000, SKETCH_BYTES), 136, np.uint8))).tolist() == list(
        range(2000)
    )


def test_a_path_goes_from_topic_to_topic():
    """Documents of 20 topics: half of its topic's 100 words in each, among 200 of 300 words of all topics."""
    rng = np.random.default_rng(0)
    topic = rng.permutation(np.repeat(np.arange(20), 100))
    documents = [
        np.concatenate([rng.choice(300, 200), 1000 + 100 * t + rng.choice(100, 50, replace=False)])
        for t in topic
    ]
    path = similarity_path(sketches_of(*documents))
    assert np.mean(np.diff(topic[path]) == 0) > 0.5  # 0.05 at random
    assert similarity_path(sketches_of(*documents)).tolist() == path.tolist()


def test_the_path_of_real_files_joins_those_of_one_package():
    """Python's own modules: email, json and their like, by folder."""
    import asyncio
    import email
    import json
    import unittest
    from pathlib import Path

    texts, package = [], []
    for module in (asyncio, email, json, unittest):
        for path in sorted(Path(module.__file__).parent.glob("*.py")):
            words = path.read_text(encoding="utf-8").split()
            if len(words) > 100:
                texts.append([hash_word(word) for word in words])
                package.append(module.__name__)
    path = similarity_path(sketches_of(*texts))
    package = np.array(package)[path]
    by_chance = sum(np.mean(package == name) ** 2 for name in set(package))
    assert len(texts) > 40
    assert np.mean(package[1:] == package[:-1]) > 1.5 * by_chance


def hash_word(word):
    return int.from_bytes(word.encode(), "little") % 65_521
