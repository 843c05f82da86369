"""Bytes -> text that can be shown and read: encodings told, what cannot be seen taken out."""

from __future__ import annotations

import codecs
import re

from ultralong_hf.errors import UploadError

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # begins like UTF-16's, so it comes first
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SAMPLE = 65_536
# Control characters other than tab and line end; marks that reorder what a reader sees (U+202A-2E,
# U+2066-69); tag characters, which no screen shows and every model reads; noncharacters and lone surrogates.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\u202a-\u202e\u2066-\u2069\ufffe\uffff\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)
# Windows' device names, which open a device whatever the folder.
_DEVICE = re.compile(r"^(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
LONGEST_NAME = 120


def decode(data: bytes) -> tuple[str, list[str]]:
    """(text, warnings). Raises UploadError for what is no text."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _decode_as(data[len(mark) :], encoding)
    if b"\0" in data[:_SAMPLE]:
        return _decode_as(data, _utf16_without_mark(data[:_SAMPLE]))
    try:
        return clean(data.decode("utf-8"))
    except UnicodeDecodeError:
        return _decode_legacy(data)


def clean(text: str) -> tuple[str, list[str]]:
    """(text with "\\n" as line end and without what cannot be seen, warnings)."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\u2028", "\n").replace("\u2029", "\n")
    text, removed = _UNSEEN.subn("", text)
    return text, [f"{removed:,} control or invisible characters were taken out"] if removed else []


def display_name(name: str) -> str:
    """A file's own name, fit to be shown: no folder, nothing that reorders or hides, at most 120 characters.

    >>> display_name("C:\\\\temp\\\\report\\u202efdp.exe")
    'reportfdp.exe'
    """
    own = clean(name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1])[0]
    return _shorten(" ".join(own.split())) or "unnamed"


def member_name(name: str) -> str:
    """A path inside an archive or a folder, fit to be shown. Raises UploadError for one that leads out."""
    path = name.replace("\\", "/")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/") or re.match(r"^[A-Za-z]:", path) or ".." in parts:
        raise UploadError(
            f"the archive holds a file whose path leads out of it ({_shorten(clean(path)[0])!r}): "
            "it was not unpacked."
        )
    if any(_DEVICE.match(part) for part in parts):
        raise UploadError(
            f"the archive holds a file named as a device ({_shorten(clean(path)[0])!r}): it was not unpacked."
        )
    return "/".join(_shorten(" ".join(clean(part)[0].split())) or "unnamed" for part in parts) or "unnamed"


def _shorten(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME // 2]}…{name[-LONGEST_NAME // 3 :]}"


def _decode_as(data: bytes, encoding: str) -> tuple[str, list[str]]:
    text = data.decode(encoding, errors="replace")
    bad = text.count("\ufffd")
    if bad > max(8, len(text) // 50):
        raise UploadError("it begins like a text, but most of it is not: it is damaged, or no text.")
    text, warnings = clean(text)
    if bad:
        warnings.append(f"{bad:,} characters are no valid {encoding} and stand as �")
    return text, warnings


def _utf16_without_mark(sample: bytes) -> str:
    """By where the zero bytes stand; binary data has them anywhere."""
    pairs = max(1, len(sample) // 2)
    high, low = sample[0::2].count(0) / pairs, sample[1::2].count(0) / pairs
    if low > 0.6 and high < 0.1:
        return "utf-16-le"
    if high > 0.6 and low < 0.1:
        return "utf-16-be"
    if sample.count(0) <= max(3, len(sample) // 100):
        return "utf-8"
    raise UploadError("it holds binary data, no text.")


def _decode_legacy(data: bytes) -> tuple[str, list[str]]:
    """Neither marked nor UTF-8: an older encoding, guessed."""
    bad = len(data[:_SAMPLE].translate(None, bytes(b for b in range(256) if b >= 32 or b in b"\t\n\r\f\x1b")))
    if bad > len(data[:_SAMPLE]) // 50:
        raise UploadError("it holds binary data, no text.")
    replaced = data.decode("utf-8", errors="replace")
    if replaced.count("\ufffd") <= len(replaced) // 500:
        text, warnings = clean(replaced)
        return text, [*warnings, f"{replaced.count(chr(0xFFFD)):,} bytes are no valid UTF-8 and stand as �"]
    from charset_normalizer import from_bytes

    best = from_bytes(data[:_SAMPLE]).best()
    encoding = best.encoding if best else "cp1252"
    text, warnings = clean(data.decode(encoding, errors="replace"))
    return text, [*warnings, f"the encoding is not UTF-8 and was guessed: {encoding}"]
