"""What a file is: by its first bytes, and by its name only among kinds of text."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import PurePosixPath

from ultralong_hf.errors import UploadError

_SOURCE = frozenset(
    """
    py pyi ipynb js mjs cjs jsx ts tsx java kt kts scala go rs c h cc cpp cxx hpp hh cs m mm swift rb
    php pl pm lua r jl hs ml mli fs ex exs erl clj lisp el scm dart zig nim v sv vhd sh bash zsh fish
    ps1 bat sql proto thrift graphql css scss less vue svelte toml yaml yml json jsonl ini cfg conf
    properties xml xsd xsl gradle cmake mk tf bzl tex bib rst asm s cu cuh f f90 diff patch
    """.split()
)
_MARKDOWN = ("md", "markdown", "mdx")
_HTML = ("html", "htm", "xhtml", "svg")
_BEGINS_AS_HTML = re.compile(
    rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype\s+html|html|svg)[\s>]", re.I | re.S
)
# First bytes of kinds that hold no text that we read, and what to do about each.
_FOREIGN = (
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office file (.doc, .xls, .ppt): save it as DOCX or PDF."),
    (b"{\\rtf", "an RTF file: save it as DOCX or PDF."),
    (b"\x1f\x8b", "a gzip archive: pack the files as ZIP."),
    (b"BZh", "a bzip2 archive: pack the files as ZIP."),
    (b"\xfd7zXZ", "an xz archive: pack the files as ZIP."),
    (b"\x28\xb5\x2f\xfd", "a zstandard archive: pack the files as ZIP."),
    (b"7z\xbc\xaf", "a 7z archive: pack the files as ZIP."),
    (b"Rar!", "a RAR archive: pack the files as ZIP."),
    (b"\x89PNG", "a picture: only text is read."),
    (b"\xff\xd8\xff", "a picture: only text is read."),
    (b"GIF8", "a picture: only text is read."),
    (b"RIFF", "a picture or a recording: only text is read."),
    (b"OggS", "a recording: only text is read."),
    (b"ID3", "a recording: only text is read."),
    (b"\x7fELF", "a program: only text is read."),
    (b"MZ\x90", "a program: only text is read."),
    (b"\xca\xfe\xba\xbe", "a program: only text is read."),
    (b"SQLite format 3", "a database: export it as text."),
)
_OFFICE = {"xl/": "a spreadsheet: save it as CSV or PDF.", "ppt/": "slides: save them as PDF."}


def detect(data: bytes, name: str) -> str:
    """PDF, DOCX, EPUB, ZIP, HTML, Markdown, source or text. Raises UploadError for what is none of them."""
    if not data.strip(b"\0\t\n\r "):
        raise UploadError("the file is empty.")
    if b"%PDF-" in data[:1024]:
        return "PDF"
    if data.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _kind_of_zip(data)
    if data[257:262] == b"ustar":
        raise UploadError("a tar archive: pack the files as ZIP.")
    for first, what in _FOREIGN:
        if data.startswith(first):
            raise UploadError(what)
    return _kind_of_text(data, PurePosixPath(name).suffix.lower().lstrip("."))


def mismatch(kind: str, name: str) -> str | None:
    """A remark where the name promises another kind than the file is."""
    suffix = PurePosixPath(name).suffix.lower()
    promised = {".pdf": "PDF", ".docx": "DOCX", ".epub": "EPUB", ".zip": "ZIP"}.get(suffix)
    wrong = promised not in (None, kind) or (promised is None and kind in ("PDF", "DOCX", "EPUB", "ZIP"))
    if not wrong or kind in ("folder",):
        return None
    return f"named {suffix or 'without an extension'}, but it is {kind}; it was read as {kind}"


def _kind_of_zip(data: bytes) -> str:
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        names = set(archive.namelist())
    except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError) as error:
        raise UploadError("the archive is damaged: its list of files cannot be read.") from error
    if "META-INF/container.xml" in names:
        return "EPUB"
    if "[Content_Types].xml" in names:
        for folder, what in _OFFICE.items():
            if any(name.startswith(folder) for name in names):
                raise UploadError(what)
        return "DOCX"
    if "content.xml" in names and "META-INF/manifest.xml" in names:
        raise UploadError("an OpenDocument file: save it as DOCX or PDF.")
    return "ZIP"


def _kind_of_text(data: bytes, suffix: str) -> str:
    if suffix in _HTML or (
        suffix in ("", "pdf", "docx", "epub", "zip") and _BEGINS_AS_HTML.match(data[:4096])
    ):
        return "HTML"
    if suffix in _MARKDOWN:
        return "Markdown"
    return "source" if suffix in _SOURCE else "text"
