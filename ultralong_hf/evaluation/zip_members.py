"""One member of a zip file: found by its name, unpacked under our own, never more than it declares."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from ultralong_hf.errors import EvaluationError

MEMBER_MARK = "::"
_COPY_BYTES = 1024**2
_temporary: list[tempfile.TemporaryDirectory[str]] = []  # made at first use, removed when Python ends


def find_member(archive: Path, name: str) -> str:
    """The one member whose last part is `name`. Raises EvaluationError, also for encrypted ones and links."""
    with _open(archive) as opened:
        infos = [info for info in opened.infolist() if not info.is_dir()]
    found = [
        info
        for info in infos
        if PurePosixPath(info.filename).name == name and "__MACOSX" not in info.filename
    ]
    if len(found) != 1:
        there = ", ".join(sorted(info.filename for info in infos)[:8]) or "nothing"
        count = "no" if not found else f"{len(found)} files called"
        raise EvaluationError(f"{archive} holds {count} {name}; it holds {there}.")
    info = found[0]
    if info.flag_bits & 0x1:
        raise EvaluationError(f"{archive}: {info.filename} is encrypted and cannot be read.")
    if (info.external_attr >> 16) & 0o170000 == 0o120000:
        raise EvaluationError(f"{archive}: {info.filename} is a link, not a file.")
    return info.filename


def unpack_member(archive: Path, member: str, cache_dir: Path | None) -> Path:
    """The member as a file in `cache_dir` (kept for the next run) or in a temporary folder.

    The file's name is a digest and the member's last part: no path inside the archive is followed. Raises
    EvaluationError for a damaged member and one that does not fit onto the disk.
    """
    folder = cache_dir if cache_dir is not None else _temporary_folder()
    folder.mkdir(parents=True, exist_ok=True)
    stat = archive.stat()
    seen = f"{archive.resolve()} {stat.st_size} {stat.st_mtime_ns} {member}"
    target = folder / f"{hashlib.sha256(seen.encode()).hexdigest()[:16]}-{PurePosixPath(member).name}"
    if target.exists():
        return target
    with _open(archive) as opened:
        size = opened.getinfo(member).file_size
        if size > shutil.disk_usage(folder).free:
            raise EvaluationError(
                f"{archive}: {member} unpacks to {size:,} bytes; {folder} has no room for it."
            )
        partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
        try:
            _copy(opened, member, size, partial)
            os.replace(partial, target)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise EvaluationError(f"{archive}: {member} is damaged: {error}.") from error
        finally:
            partial.unlink(missing_ok=True)
    return target


def _copy(opened: zipfile.ZipFile, member: str, size: int, target: Path) -> None:
    written = 0
    with opened.open(member) as source, target.open("wb") as file:
        while block := source.read(_COPY_BYTES):
            written += len(block)
            if written > size:
                raise zipfile.BadZipFile(f"it holds more than the {size:,} bytes it declares")
            file.write(block)


def _open(archive: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(archive)
    except (zipfile.BadZipFile, OSError) as error:
        raise EvaluationError(f"{archive} is no readable zip file: {error}.") from error


def _temporary_folder() -> Path:
    if not _temporary:
        _temporary.append(tempfile.TemporaryDirectory(prefix="ultralong-data-"))
    return Path(_temporary[0].name)
