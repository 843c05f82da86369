"""Archives and folders -> a list of files to read. Runs in the reader's process."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from ultralong_hf.chat.documents.formats import detect
from ultralong_hf.chat.documents.limits import Limits
from ultralong_hf.chat.documents.readers.packed import Budget, PackedFile, is_special, is_symlink
from ultralong_hf.chat.documents.skips import Skips, folder_of, is_skipped_folder
from ultralong_hf.chat.documents.text import decode, member_name
from ultralong_hf.errors import UploadError

_LONGEST_IGNORE = 64 * 1024


@dataclass
class Members:
    """Files of an archive or a folder: (name inside it, file to read), sorted by name."""

    files: list[tuple[str, str]] = field(default_factory=list)
    skipped: int = 0
    """Caches, builds, and what .gitignore names."""
    links: int = 0
    """Symbolic links, devices, pipes: never followed."""
    too_deep: int = 0
    """Archives inside archives beyond the limit."""

    @property
    def warnings(self) -> list[str]:
        told = (
            (self.skipped, "files of caches, builds and .gitignore are left out"),
            (self.links, "links and special files are left out"),
            (self.too_deep, "archives inside archives are left out: they are nested too deep"),
        )
        return [f"{count:,} {what}" for count, what in told if count]


def unpack(data: bytes, into: Path, limits: Limits) -> Members:
    """The archive's files under numbers of ours in `into`; their own names are never used as paths.

    Raises UploadError for an archive that is damaged, too large, or holds a path that leads out of it.
    """
    members, budget = Members(), Budget(len(data), limits)
    _unpack_level(PackedFile(data, limits, budget), "", into, members, budget, depth=1, limits=limits)
    members.files.sort()
    return members


def _unpack_level(
    archive: PackedFile,
    prefix: str,
    into: Path,
    members: Members,
    budget: Budget,
    *,
    depth: int,
    limits: Limits,
) -> None:
    entries = {member_name(info.filename): info for info in archive.entries()}
    skips = Skips(
        {
            folder_of(name): _ignore_text(archive.read(info))
            for name, info in entries.items()
            if name.rpartition("/")[2] == ".gitignore" and info.file_size <= _LONGEST_IGNORE
        }
    )
    for name, info in entries.items():
        if is_symlink(info) or is_special(info):
            members.links += 1
        elif skips.skips(name):
            members.skipped += 1
        else:
            _unpack_member(archive, info, prefix + name, into, members, budget, depth=depth, limits=limits)


def _unpack_member(
    archive: PackedFile,
    info: zipfile.ZipInfo,
    name: str,
    into: Path,
    members: Members,
    budget: Budget,
    *,
    depth: int,
    limits: Limits,
) -> None:
    data = archive.read(info)
    if _is_archive(data, name):
        if depth >= limits.depth:
            members.too_deep += 1
            return
        inner = PackedFile(data, limits, budget)
        _unpack_level(inner, f"{name}/", into, members, budget, depth=depth + 1, limits=limits)
        return
    file = into / f"{len(members.files):06d}"
    file.write_bytes(data)
    members.files.append((name, str(file)))


def _is_archive(data: bytes, name: str) -> bool:
    try:
        return data.startswith(b"PK") and detect(data, name) == "ZIP"
    except UploadError:
        return False  # its reader will say why


def list_folder(top: Path, limits: Limits) -> Members:
    """The regular files under `top`, no link followed. Raises UploadError for too many."""
    members, ignores, found = Members(), {}, []
    todo = [""]
    while todo:
        folder = todo.pop()
        with os.scandir(top / folder) as entries:
            for entry in entries:
                name = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_symlink() or not (entry.is_dir() or entry.is_file()):
                    members.links += 1
                elif entry.is_dir():
                    if is_skipped_folder(entry.name):
                        members.skipped += 1
                    else:
                        todo.append(name)
                else:
                    found.append(name)
                    if entry.name == ".gitignore" and entry.stat().st_size <= _LONGEST_IGNORE:
                        ignores[folder] = _ignore_text(Path(entry.path).read_bytes())
        if len(found) + len(todo) > 20 * limits.members:
            raise UploadError(f"the folder holds more than {20 * limits.members:,} files.")
    skips = Skips(ignores)
    kept = sorted(name for name in found if not skips.skips(name))
    members.skipped += len(found) - len(kept)
    if len(kept) > limits.members:
        raise UploadError(f"the folder holds {len(kept):,} files; the limit is {limits.members:,}.")
    members.files = [(name, str(top / name)) for name in kept]
    return members


def _ignore_text(data: bytes) -> str:
    try:
        return decode(data)[0]
    except UploadError:
        return ""
