"""A checksum inside a file, over the whole file: the runtimes' parsers are not made for damage, and some die of it.

The text of a seal stands among the metadata of an exported file. It is written with 64 zeros, then the SHA-256 of the
file as it is then takes their place. It finds what chance does to a file; who alters one on purpose writes a new seal,
which is why the files are also looked through before a runtime sees them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

__all__ = ["EXPORT_FORMAT", "MOST_BYTES", "blank_seal", "check_seal", "read_whole", "sealed"]

EXPORT_FORMAT = "polarpix-export-3"  # the first with a seal
ZEROS = b"0" * 64
MOST_BYTES = 2**30  # of one file: it is read at once, and the runtime holds a copy or two


def read_whole(path: Path) -> bytes:
    """The content of a file.

    Raises:
        ValueError: larger than :data:`MOST_BYTES`.
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise ValueError(f"{size / 1e9:.1f} GB, at most {MOST_BYTES / 1e9:.1f} GB are read")
    return path.read_bytes()


def blank_seal(suffix: str) -> str:
    """What to write among the metadata of a file; its kind is in it, for OpenVINO copies what an ONNX file says."""
    return f"{_mark(suffix).decode()}{ZEROS.decode()}"


def sealed(data: bytes, suffix: str) -> bytes:
    """A file with a blank seal, sealed."""
    mark = _mark(suffix)
    assert data.count(mark + ZEROS) == 1
    return data.replace(mark + ZEROS, mark + hashlib.sha256(data).hexdigest().encode())


def check_seal(data: bytes, suffix: str) -> None:
    """Refuse a file that is not as it was written.

    Raises:
        ValueError: no seal, several, or one that does not fit.
    """
    mark = _mark(suffix)
    at = data.find(mark) + len(mark)
    if data.count(mark) != 1:
        raise ValueError("cut off, altered, or not written by this polarpix: it holds no checksum")
    view, found = memoryview(data), hashlib.sha256()
    for part in (view[:at], ZEROS, view[at + len(ZEROS) :]):  # without a copy of the file
        found.update(part)
    if found.hexdigest().encode() != data[at : at + len(ZEROS)]:
        raise ValueError("altered since it was written: its SHA-256 does not fit")


def _mark(suffix: str) -> bytes:
    return f"polarpix-{suffix.lstrip('.')}-sha256-".encode()
