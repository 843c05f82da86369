import numpy as np
from tiny_tokenizers import byte_tokenizer, ids_of

from ultralong_hf.data.showing.row_text import row_text

PIECES = [
    {"offset": 0, "length": 8, "document": 0, "is_separator": False, "name": "a.txt", "tokens": [4, 12]},
    {"offset": 8, "length": 3, "document": 1, "is_separator": True, "name": "b.txt", "tokens": [0, 3]},
    {"offset": 11, "length": 2, "document": 1, "is_separator": False, "name": "b.txt", "tokens": [0, 2]},
]


def lines(**options):
    tokenizer = byte_tokenizer()
    tokens = np.array(ids_of("abcdefgh<s>xy", tokenizer))
    return list(row_text(PIECES, tokens, tokenizer, **options))


def test_separators_and_documents_are_marked_and_told_apart():
    assert lines(tokens_per_end=None) == [
        "⟦a.txt, its tokens 4 to 12, from token 0⟧",
        "abcdefgh",
        "⟦separator '<s>', token 8⟧",
        "⟦b.txt, its tokens 0 to 2, from token 11⟧",
        "xy",
    ]


def test_of_a_long_document_both_ends_are_shown_and_the_rest_is_counted():
    assert lines(tokens_per_end=3)[1:4] == ["abc", "⟦2 tokens not shown⟧", "fgh"]


def test_a_document_of_twice_the_ends_is_shown_whole():
    assert lines(tokens_per_end=4)[1:3] == ["abcdefgh", "⟦separator '<s>', token 8⟧"]
