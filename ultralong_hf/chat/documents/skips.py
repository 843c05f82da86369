"""Which files of a folder or an archive are not worth reading: caches, builds, and what .gitignore says."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from fnmatch import fnmatch

_FOLDERS = frozenset(
    """
    .git .hg .svn .bzr node_modules bower_components __pycache__ .venv venv .tox .nox .mypy_cache
    .pytest_cache .ruff_cache .cache .idea .vscode .next .nuxt .gradle .terraform site-packages __MACOSX
    dist build target .eggs .ipynb_checkpoints
    """.split()
)
_FILES = (
    ".DS_Store", "Thumbs.db", "*.min.js", "*.min.css", "*.map", "*.lock", "package-lock.json",
    "pnpm-lock.yaml", "*.pyc", "*.egg-info", ".env", ".env.*", ".netrc", "id_rsa*", "id_ed25519*", "*.pem",
    "*.key",
)  # fmt: skip


def is_skipped_folder(name: str) -> bool:
    """By a folder's own name."""
    return name in _FOLDERS or name.endswith(".egg-info")


class Skips:
    """Decides for paths such as "src/a.py". ignores: folder ("" is the top) -> text of its .gitignore."""

    def __init__(self, ignores: Mapping[str, str]) -> None:
        from pathspec import GitIgnoreSpec

        self._specs = {}
        for folder, text in ignores.items():
            try:
                self._specs[folder] = GitIgnoreSpec.from_lines(text.splitlines())
            except ValueError:
                continue  # a pattern that git would not read either

    def skips(self, path: str) -> bool:
        *folders, name = path.split("/")
        if any(map(is_skipped_folder, folders)) or any(fnmatch(name, pattern) for pattern in _FILES):
            return True
        for folder, spec in self._specs.items():
            if not folder or path.startswith(folder + "/"):
                inside = path[len(folder) + 1 :] if folder else path
                if spec.match_file(inside):
                    return True
        return False


def folder_of(path: str) -> str:
    return posixpath.dirname(path)
