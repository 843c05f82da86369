"""Files that are ZIP archives inside: looked over before they are unpacked, measured while they are."""

from __future__ import annotations

import io
import re
import stat
import zipfile
from collections.abc import Iterator

from ultralong_hf.chat.documents.limits import MIB, Limits
from ultralong_hf.errors import UploadError

_PIECE = 256 * 1024
_ENCRYPTED = 0x1


class Budget:
    """What one upload may unpack to; the archives inside it spend from the same."""

    def __init__(self, packed: int, limits: Limits) -> None:
        self.limits, self._packed = limits, packed
        self._unpacked = self._members = 0

    def unpack(self, size: int) -> None:
        self._unpacked += size
        self.check_size(self._unpacked, "unpacks to more than")

    def list_members(self, count: int) -> None:
        self._members += count
        if self._members > self.limits.members:
            raise UploadError(
                f"it holds {self._members:,} files or more; the limit is {self.limits.members:,}."
            )

    def check_size(self, size: int, verb: str) -> None:
        limits = self.limits
        if size > limits.expanded_bytes:
            raise UploadError(
                f"the archive {verb} {size / MIB:,.0f} MiB; the limit is {limits.expanded_bytes / MIB:,.0f}."
            )
        if size > MIB and size > limits.ratio * self._packed:
            raise UploadError(
                f"the archive {verb} {size / max(1, self._packed):,.0f} times its size; "
                f"the limit is {limits.ratio}."
            )


class PackedFile:
    """A ZIP archive whose files are read within the limits, all of them together."""

    def __init__(self, data: bytes, limits: Limits, budget: Budget | None = None) -> None:
        self._budget = budget or Budget(len(data), limits)
        try:
            self._archive = zipfile.ZipFile(io.BytesIO(data))
        except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError) as error:
            raise UploadError("the archive is damaged: its list of files cannot be read.") from error
        self._budget.list_members(len(self._archive.infolist()))
        self._budget.check_size(sum(info.file_size for info in self._archive.infolist()), "claims to hold")

    def names(self) -> list[str]:
        return [info.filename for info in self._archive.infolist()]

    def entries(self) -> Iterator[zipfile.ZipInfo]:
        """Files, without folders."""
        yield from (info for info in self._archive.infolist() if not info.is_dir())

    def read(self, entry: str | zipfile.ZipInfo) -> bytes:
        """Raises UploadError for a file that is not there, encrypted, damaged or too large."""
        try:
            info = self._archive.getinfo(entry) if isinstance(entry, str) else entry
            if info.flag_bits & _ENCRYPTED:
                raise UploadError("it is protected by a password: pack it without one.")
            pieces = []
            with self._archive.open(info) as file:
                while piece := file.read(_PIECE):
                    self._budget.unpack(len(piece))
                    pieces.append(piece)
        except UploadError:
            raise
        except KeyError as error:
            raise UploadError("a part of the file that must be there is missing: it is damaged.") from error
        except Exception as error:  # zlib, lzma, struct and zipfile's own, by the kind of damage
            raise UploadError("the archive is damaged: a file in it cannot be unpacked.") from error
        return b"".join(pieces)


def is_symlink(info: zipfile.ZipInfo) -> bool:
    return stat.S_ISLNK(info.external_attr >> 16)


def is_special(info: zipfile.ZipInfo) -> bool:
    """A device, a pipe or a socket."""
    kind = stat.S_IFMT(info.external_attr >> 16)
    return kind not in (0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)


def refuse_entities(xml: bytes, what: str) -> None:
    """Raises UploadError where XML defines entities; no document of the kinds that we read needs them."""
    flat = xml.replace(b"\0", b"")  # UTF-16 and UTF-32 too
    if re.search(rb"<!ENTITY", flat, re.IGNORECASE):
        raise UploadError(f"{what} defines XML entities, which are refused: they can grow without bound.")
