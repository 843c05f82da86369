"""Bytes of a file, plain or compressed, a block at a time, up to where a damaged one ends."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from ultralong_hf.data.reading.records import DAMAGED, ENDS_EARLY

_READ_BYTES = 128 * 1024  # compressed; what it unpacks to is held at once


class DamagedError(Exception):
    """The compressed file ends early, or is not what its suffix promises."""

    def __init__(self, message: str, word: str) -> None:
        super().__init__(message)
        self.word = word
        """One of those of `records`."""


def _gzip() -> Any:
    return zlib.decompressobj(wbits=31)


def _zstd() -> Any:
    import zstandard

    # Windows up to 2 GiB are read: files made by `zstd --long` need them.
    return zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj()


DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    ".gz": _gzip,
    ".bz2": bz2.BZ2Decompressor,
    ".xz": lzma.LZMADecompressor,
    ".zst": _zstd,
}
"""By suffix. Each object unpacks one member of a file: `decompress`, `eof`, `unused_data`."""


def read_blocks(path: str, suffix: str) -> Iterator[bytes]:
    """The unpacked bytes in blocks. All that can be unpacked comes before DamagedError is raised."""
    new = DECOMPRESSORS[suffix]
    member = new()
    with open(path, "rb", buffering=0) as file:
        while data := file.read(_READ_BYTES):
            while data:
                if member.eof:
                    data = data.lstrip(b"\0")  # members may be padded with zeros
                    if not data:
                        break
                    member = new()
                block = _unpack(member, data)
                data = member.unused_data if member.eof else b""
                if block:
                    yield block
        if not member.eof:
            raise DamagedError("the compressed data are cut off", ENDS_EARLY)


def _unpack(member: Any, data: bytes) -> bytes:
    try:
        block: bytes = member.decompress(data)
    except Exception as error:  # zlib.error, OSError, LZMAError or ZstdError, by kind
        raise DamagedError(" ".join(str(error).split()), DAMAGED) from error
    return block
