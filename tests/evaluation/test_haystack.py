import numpy as np
import pytest

from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation import haystack as module
from ultralong_hf.evaluation.haystack import Break, Haystack, build_haystack, read_texts

RING = Haystack(
    ids=np.arange(10, dtype=np.int32),
    breaks=np.array([0, 3, 8]),
    kinds=np.array([Break.LINE_START, Break.SENTENCE, Break.LINE_END]),
)


def test_windows_go_round_the_ring():
    assert RING.window(5, 3).tolist() == [2, 3, 4]
    assert RING.window(3, 5).tolist() == [8, 9, 0, 1, 2]
    assert RING.window(2, 23).tolist() == [9, *range(10), *range(10), 0, 1]


@pytest.mark.parametrize(
    ("position", "found"),
    [
        (0, (0, 0)),
        (2, (3, 1)),
        (5, (3, 1)),
        (6, (8, 2)),
        (9, (8, 2)),
        (-1, (-2, 2)),
        (-9, (-10, 0)),
        (-8, (-7, 1)),
        (19, (18, 2)),
    ],
)
def test_finds_the_nearest_break_round_the_ring(position, found):
    assert RING.nearest_break(position) == found


@pytest.mark.parametrize(
    ("position", "after", "before"),
    [
        (0, (0, 0), (0, 0)),
        (4, (8, 2), (3, 1)),
        (9, (10, 0), (8, 2)),
        (-1, (0, 0), (-2, 2)),
        (13, (13, 1), (13, 1)),
    ],
)
def test_finds_the_breaks_around_a_position(position, after, before):
    assert (RING.next_break(position), RING.previous_break(position)) == (after, before)


def test_the_end_of_the_ring_is_a_break():
    ring = Haystack(np.arange(10, dtype=np.int32), np.array([0, 3]), np.array([0, 1]))
    assert ring.nearest_break(9) == (10, Break.LINE_START)


def test_lines_begin_at_breaks(letters):
    haystack = build_haystack(["ab\n\n  c\n", "d"], letters, 100)
    assert letters.decode(haystack.ids.tolist()) == "ab\n\n  c\nd\n"
    assert haystack.breaks.tolist() == [0, 4, 8]
    assert not haystack.kinds.any()


def test_sentences_of_long_lines_are_breaks_too(letters, monkeypatch):
    monkeypatch.setattr(module, "LONG_LINE", 10)
    haystack = build_haystack(["One two. Three 3.5 four! Five\nsix. Seven\n"], letters, 100)
    text = letters.decode(haystack.ids.tolist())
    assert [text[at:].split()[0] for at in haystack.breaks] == ["One", "Three", "Five", "six.", "Seven"]
    assert haystack.kinds.tolist() == [0, 1, 1, 0, 1]


def test_breaks_of_merged_tokens_lie_between_lines(tokenizer, documents):
    haystack = build_haystack(documents, tokenizer, 10**6)
    lines = sum(document.count("\n") for document in documents)
    assert len(haystack.breaks) == lines
    for at in haystack.breaks[1:]:
        assert tokenizer.decode(haystack.ids[at - 1 : at].tolist()).endswith("\n")


def test_pieces_of_one_document_join_without_a_seam(tokenizer, documents, monkeypatch):
    whole = build_haystack(documents, tokenizer, 10**6)
    monkeypatch.setattr(module, "PIECE_CHARACTERS", 200)
    pieces = build_haystack(documents, tokenizer, 10**6)
    assert tokenizer.decode(pieces.ids.tolist()) == tokenizer.decode(whole.ids.tolist()) == "".join(documents)


def test_stops_reading_when_there_is_enough(letters):
    def endless():
        while True:
            yield "line\n" * 20

    assert 500 <= len(build_haystack(endless(), letters, 500).ids) < 500 + 8 * 100


def test_special_tokens_in_documents_are_plain_text(tokenizer):
    haystack = build_haystack(["before <|end|> after\n"], tokenizer, 100)
    assert tokenizer.eos_token_id not in haystack.ids
    assert tokenizer.decode(haystack.ids.tolist()) == "before <|end|> after\n"


def test_the_digest_tells_texts_apart(letters):
    digests = {build_haystack([text], letters, 100).digest for text in ("a\n", "b\n", "a\n")}
    assert len(digests) == 2


def test_reads_a_file_and_the_text_files_of_a_folder(tmp_path):
    (tmp_path / "b.txt").write_text("second\n")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.md").write_text("first\n")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0\xff")
    (tmp_path / "empty.txt").write_text("  \n")
    assert list(read_texts(tmp_path)) == ["first\n", "second\n"]
    assert list(read_texts(tmp_path / "b.txt")) == ["second\n"]


def test_refuses_what_holds_no_text(tmp_path, letters):
    binary = tmp_path / "x.bin"
    binary.write_bytes(b"\xff\xfe\0")
    with pytest.raises(EvaluationError, match="does not exist"):
        list(read_texts(tmp_path / "nowhere"))
    with pytest.raises(EvaluationError, match=r"x\.bin is no UTF-8 text"):
        list(read_texts(binary))
    with pytest.raises(EvaluationError, match="holds no UTF-8 text file"):
        list(read_texts(tmp_path))
    with pytest.raises(EvaluationError, match="holds no text"):
        build_haystack(["", "  \n"], letters, 10)


def test_refuses_a_tokenizer_without_offsets():
    class Slow:
        is_fast = False

    with pytest.raises(EvaluationError, match="Slow does not tell where its tokens lie"):
        build_haystack(["text"], Slow(), 10)
