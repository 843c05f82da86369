"""Whether an engine gives the ids that the model's own tokenizer gives: at the start, and throughout.

At the start it is shown edge cases and random strings (`probe_texts`). From then on about a thousandth of all
characters are tokenized twice; which ones follows from a hash of the text and the seed, and not from the
order of documents, the size of batches or the number of workers.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence

import numpy as np

from ultralong_hf.data.tokenization import PlainTextEncoder
from ultralong_hf.errors import EngineMismatch

SHARE = 0.001
"""Of the characters, how many are tokenized twice. `tokenizers` does 3 to 4 MB a second on a core."""
_SHORTEST_EXCERPT, _LONGEST_EXCERPT = 1 << 12, 1 << 16
_EDGE_TOKENS = 64
"""At the edges of an excerpt so many tokens may differ from those of the whole text."""
_COMPARED_WHOLE = 1 << 20
_HASHED_CHARACTERS = 128

_EDGE_CASES = [
    "",
    " ",
    "a",
    "  ",
    "\n",
    "\r\n",
    "\t\t  \t",
    " \n \n ",
    "\n\n  \n x",
    "   leading and trailing   ",
    "ab  cd   ef    gh",
    "a\r\n\r\nb\rc",
    "It's I'LL we'Ve 'Twas 'S ſ's 'ſ",
    "1 12 123 1234567890123 1,234.56 0x1F ² ½ Ⅷ ٣ ४",
    "def f(x):\n\treturn {'a': [x ** 2 for _ in range(10)]}  # !=\n",
    "https://example.org/a/b?c=d&e=%20#f  user@example.org",
    "| a | b |\n|---|---|\n\n\n$$\\frac{1}{2}$$ <p class='x'>&nbsp;</p>",
    "é e\u0301 Å A\u030a ﬁ ﬀ ß ẞ İ i̇ ŉ ǅ ʰ",
    "a\u0300\u0301\u0302b" + "e\u0301" * 50,
    "Grüße, Ёлки, Ελλάδα, ॐ नमस्ते, مرحبا, שלום, ภาษาไทย",
    "你好，世界。こんにちは 안녕하세요\u3000全角",
    "😀👨\u200d👩\u200d👧🏳️\u200d🌈👍🏽",
    "\u200b\u200d\ufeff\u00a0\u2028\u2029\u0085x",
    "\x00\x01\x1f\x7f",
    "\U0010ffff\ufffd\ue000\U00020000",
    "<s> </s> <unk> [UNK] <pad> <0x41> <|endoftext|> <|eot_id|> ▁ ▁a Ġ Ċ",
    "x" * 1000,
    "-" * 300 + "=" * 300 + " " * 300 + "\n" * 300,
]
_PIECES = [
    *"aAbZzeE019 '\"-_/\\.,!?()<>|\t\n\r",
    *["  ", "   ", "\r\n", "'s", "'LL", "é", "e\u0301", "ß", "ſ", "你", "好", "の", "한", "ا", "ש", "ॐ"],
    *["\u0300", "\u0903", "\u200d", "\u00a0", "\u3000", "\u2028", "😀", "👍🏽", "\x00", "\x1f", "½", "²"],
    *["٣", "Ⅷ", "ǅ", "ʰ", "▁", "Ġ", "—", "…", "€", "\ufffd", "\U00020000"],
]


def probe_texts(added_tokens: Sequence[str], seed: int) -> list[str]:
    """Texts that an engine must know: edge cases, each added token in and between words, random strings."""
    edges = list(_EDGE_CASES)
    for token in added_tokens:
        edges += [token, f"a {token} b", f"a{token}b{token}{token}c", f"  {token}  \n{token}\n", token[:-1]]
    rng = random.Random(seed)
    pieces = _PIECES + list(added_tokens[:20])
    strings = ["".join(_piece(rng, pieces) for _ in range(rng.choice((2, 4, 8, 32)))) for _ in range(2000)]
    return edges + strings


def _piece(rng: random.Random, pieces: Sequence[str]) -> str:
    if rng.random() < 0.9:
        return rng.choice(pieces)
    first, last = rng.choice(((0x20, 0x2FFF), (0x3000, 0xD7FF), (0xE000, 0x2FFFF)))
    return chr(rng.randint(first, last))


class IdChecker:
    """Compares an engine's ids with those of the model's own tokenizer.

    Each method raises EngineMismatch, which names the text and both ids, where they differ.
    """

    def __init__(self, encoder: PlainTextEncoder, *, engine: str, seed: int) -> None:
        self._encoder = encoder
        self._engine = engine
        self._seed = seed & 0xFFFFFFFF

    def compare(self, text: str, ids: np.ndarray) -> None:
        """The whole text."""
        self._compare(text, ids, self._encoder.encode(text))

    def compare_short(self, texts: list[str], ids: Sequence[np.ndarray]) -> None:
        """Each of the texts, which are short."""
        for text, theirs, own in zip(texts, ids, self._encoder.encode_short(texts), strict=True):
            self._compare(text, theirs, own)

    def _compare(self, text: str, ids: np.ndarray, own: np.ndarray) -> None:
        if not np.array_equal(own, ids):
            raise EngineMismatch(_describe(self._engine, text, ids, own))

    def sample(self, texts: Sequence[str], tokens: np.ndarray, lengths: np.ndarray) -> None:
        """About a thousandth of the characters: short texts whole, of a long one an excerpt of 4K to 64K."""
        ends = np.cumsum(lengths)
        for index, text in enumerate(texts):
            excerpt = min(max(_SHORTEST_EXCERPT, int(len(text) * SHARE)), _LONGEST_EXCERPT)
            number = self._hash(text)
            if number < 2**32 * SHARE * max(1.0, len(text) / excerpt):
                ids = tokens[ends[index] - lengths[index] : ends[index]]
                self.compare_excerpt(text, ids, start=number * 40503, size=excerpt)

    def compare_excerpt(self, text: str, ids: np.ndarray, *, start: int, size: int) -> None:
        """`size` characters from `start` (modulo what there is) on; a short text is compared whole.

        The tokenizer is given the excerpt alone, and its ids but for 64 at each cut must stand in `ids`. If
        they do not, which may be the cut's fault (one endless word), the whole text decides.
        """
        if len(text) <= size:
            return self.compare(text, ids)
        start %= len(text) - size + 1
        own = self._encoder.encode(text[start : start + size])
        inner = own[_EDGE_TOKENS if start else 0 : None if start + size == len(text) else -_EDGE_TOKENS]
        if len(inner) and _contains(ids, inner):
            return None
        if len(inner) or len(text) <= _COMPARED_WHOLE:
            self.compare(text, ids)
        return None

    def _hash(self, text: str) -> int:
        head = text[:_HASHED_CHARACTERS].encode("utf-8", "surrogatepass")
        return zlib.crc32(head, (self._seed + len(text)) & 0xFFFFFFFF)


def _contains(ids: np.ndarray, part: np.ndarray) -> bool:
    haystack, needle, place = ids.tobytes(), part.astype(ids.dtype).tobytes(), -1
    while (place := haystack.find(needle, place + 1)) >= 0:
        if place % ids.itemsize == 0:
            return True
    return False


def _describe(engine: str, text: str, ids: np.ndarray, own: np.ndarray) -> str:
    """Where the ids part, with the text that the tokenizer's own ids make there."""
    shorter = min(len(ids), len(own))
    unequal = np.flatnonzero(ids[:shorter] != own[:shorter])
    first = int(unequal[0]) if len(unequal) else shorter
    there = slice(max(first - 2, 0), first + 6)
    shown = text if len(text) <= 80 else text[:77] + "..."
    return (
        f"{engine} gives other ids than the tokenizer from token {first} of the text {shown!r} on: "
        f"{ids[there].tolist()} in place of {own[there].tolist()}."
    )
