"""How much of an upload is read; whatever is beyond is refused with the number."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1024**2


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of one reading. The defaults take a book of 4M tokens and stop every bomb that we know."""

    uploads: int = 50
    """Files that are given at once."""
    file_bytes: int = 64 * MIB
    total_bytes: int = 256 * MIB
    """Of all uploads together, as they come."""
    pages: int = 20_000
    """Of a PDF; chapters of an EPUB."""
    characters: int = 40_000_000
    """Of the text of one upload, some 10M tokens."""
    members: int = 5_000
    """Files of an archive or a folder, nested ones included."""
    expanded_bytes: int = 256 * MIB
    """Of an archive's files together, unpacked; measured while unpacking, whatever the archive claims."""
    ratio: int = 200
    """Unpacked bytes to packed ones, beyond the first MiB. Text packs up to 20 times."""
    depth: int = 2
    """Archives inside archives: 1 is an archive that holds none."""
    seconds: float = 60.0
    """Of a file's process."""
    memory_bytes: int = 1024 * MIB
    """Of a file's process, its address space."""
