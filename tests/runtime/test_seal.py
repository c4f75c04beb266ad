"""The checksum inside a file: every byte counts, itself included."""

import random
from pathlib import Path

import pytest

from polarpix.runtime import seal as module
from polarpix.runtime.seal import blank_seal, check_seal, read_whole, sealed

FILE = b"before " + blank_seal(".onnx").encode() + b" behind"


def test_a_sealed_file_is_as_it_was_written() -> None:
    data = sealed(FILE, ".onnx")
    assert len(data) == len(FILE)
    check_seal(data, ".onnx")
    both = sealed(data + blank_seal(".xml").encode(), ".xml")  # as OpenVINO copies what an ONNX file says
    check_seal(both, ".xml")
    with pytest.raises(ValueError, match="altered since it was written"):
        check_seal(both, ".onnx")


def test_every_flip_cut_and_insertion_is_seen() -> None:
    data = sealed(FILE, ".onnx")
    rng = random.Random(0)
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match=r"altered since|no checksum"):
            check_seal(bytes(flipped), ".onnx")
    for at in range(len(data)):
        for other in (data[:at], data[:at] + rng.randbytes(1) + data[at:], data[:at] + data[at + 1 :]):
            with pytest.raises(ValueError, match=r"altered since|no checksum"):
                check_seal(other, ".onnx")
    for none in (b"", b"x" * 200, FILE, data + data):
        with pytest.raises(ValueError, match=r"altered since|no checksum"):
            check_seal(none, ".onnx")


def test_a_file_is_read_up_to_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(FILE)
    assert read_whole(tmp_path / "a") == FILE
    monkeypatch.setattr(module, "MOST_BYTES", 10)
    with pytest.raises(ValueError, match=r"at most 0\.0 GB are read"):
        read_whole(tmp_path / "a")
