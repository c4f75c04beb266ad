"""Exported files made to run code, to read elsewhere, to never end or to fill the memory, with seals that fit.

The cases of benchmarks/fuzz_exports.py, by suffix. Who means harm can write a checksum as well as polarpix, so all but
the damaged files are sealed anew; what is refused here is refused for what it holds.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

from export_lies import Files
from onnx_attacks import COMPUTED, onnx_attacks
from openvino_attacks import openvino_attacks
from torch_attacks import torch_attacks

from polarpix.runtime.seal import EXPORT_FORMAT

__all__ = ["ATTACKS", "COMPUTED", "Files", "plain_attacks"]


def plain_attacks(suffix: str, others: dict[str, Files]) -> Iterator[tuple[str, Files]]:
    """What is no such file at all."""
    beside = {".bin": others[".xml"][".bin"]} if suffix == ".xml" else {}
    picture = b"\x89PNG\r\n\x1a\n" + bytes(5000)
    for words, data in {
        "empty": b"",
        "a text": b"task: seg\n" * 100,
        "a picture": picture,
        "a program": b"\x7fELF" + bytes(500),
        "a megabyte of zeros": bytes(10**6),
        "a page of HTML": b"<!doctype html><html><script>x</script></html>",
        "a pickle": pickle.dumps({EXPORT_FORMAT: 1}),
    }.items():
        yield words, {suffix: data, **beside}
    for other, files in others.items():
        if other != suffix:
            yield f"an {other} file", {suffix: files[other], **beside}


ATTACKS: dict[str, Callable[[Files, Path], Iterator[tuple[str, Files]]]] = {
    ".onnx": onnx_attacks,
    ".xml": openvino_attacks,
    ".pt2": torch_attacks,
}
