"""An .onnx file looked through before onnxruntime opens it, without the onnx package: its messages, field by field.

Taken is what ``polarpix export`` writes: one graph of the standard operators, with its weights inside. Not taken are
weights in other files (their places may lead anywhere), operators and functions of other domains, graphs within graphs
(loops, which need not end), and tensors whose shape is not that of their bytes.

The format: https://protobuf.dev/programming-guides/encoding and onnx.proto of https://github.com/onnx/onnx.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

__all__ = ["check_onnx"]

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
Field = tuple[int, int | memoryview]

# Numbers of the fields that are taken, by message. Any other, such as those of later versions, is refused.
TAKEN = {
    "model": {1, 2, 3, 4, 5, 6, 7, 8, 14},
    "graph": {1, 2, 5, 10, 11, 12, 13, 16},  # without 14 quantization, 15 sparse initializers
    "node": {1, 2, 3, 4, 5, 6, 7, 9},  # without 8 overload
    "attribute": {1, 2, 3, 4, 5, 7, 8, 9, 10, 13, 20},  # without 6 and 11 graphs, 21 references, 22, 23 sparse tensors
    "tensor": {1, 2, 4, 5, 7, 8, 9, 10, 11, 12, 16},  # without 3 segments, 6 strings, 13 and 14 data elsewhere
}
ITEM_BYTES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8}
"""TensorProto.DataType -> bytes of a number; texts and complex numbers are not taken."""
MOST_DIMS = 16
STANDARD = (b"", b"ai.onnx")


def check_onnx(data: bytes) -> dict[str, str]:
    """The metadata of a file that holds nothing but what is taken.

    Raises:
        ValueError: says what else it holds, or that it is no such file.
    """
    graphs, metadata, domains = [], {}, 0
    for number, value in _fields(memoryview(data), "model"):
        if number == 7:
            graphs.append(_bytes(value))
        elif number == 8:
            domains += 1
            _standard(_bytes_of(_bytes(value), 1), "operators")
        elif number == 14:
            pair = dict(_message(_bytes(value)))
            key, text = (bytes(_bytes(pair.get(i, memoryview(b"")))).decode() for i in (1, 2))
            if key in metadata:
                raise ValueError(f"{key!r:.60} twice among the metadata")
            metadata[key] = text
    if len(graphs) != 1 or not domains:  # protobuf would make one graph of several
        raise ValueError(f"{len(graphs)} graphs in it, must be one, and the version of its operators")
    for number, value in _fields(graphs[0], "graph"):
        if number == 1:
            _check_node(_bytes(value))
        elif number == 5:
            _check_tensor(_bytes(value))
    return metadata


def _check_node(node: memoryview) -> None:
    for number, value in _fields(node, "node"):
        if number == 7:
            _standard(_bytes(value), "an operator")
        elif number == 5:
            for kind, inner in _fields(_bytes(value), "attribute"):
                if kind in (5, 10):
                    _check_tensor(_bytes(inner))


def _check_tensor(tensor: memoryview) -> None:
    """Dimensions, kind of number and the bytes of a tensor belong together."""
    dims: list[int] = []
    kind, raw, typed = 0, -1, 0
    for number, value in _fields(tensor, "tensor"):
        if number == 1:
            dims += [value] if isinstance(value, int) else list(_varints(value))
        elif number == 2 and isinstance(value, int):
            kind = value
        elif number == 9:
            raw = len(_bytes(value))
        elif number in (4, 5, 7, 10, 11):
            typed += 1 if isinstance(value, int) else len(value)
    if len(dims) > MOST_DIMS:
        raise ValueError(f"a tensor of {len(dims)} dimensions")
    if kind not in ITEM_BYTES:
        raise ValueError(f"a tensor of kind {kind}: numbers are taken")
    count = prod(dims)  # a negative dimension is a varint near 2^64
    if raw >= 0 and (raw != count * ITEM_BYTES[kind] or typed):
        raise ValueError(f"a tensor of shape {dims!s:.60} with {raw} bytes")
    if raw < 0 and typed < count:  # each number takes a byte at least
        raise ValueError(f"a tensor of shape {dims!s:.60} with {typed} bytes at most")


def _standard(domain: memoryview | bytes, words: str) -> None:
    if bytes(domain) not in STANDARD:
        raise ValueError(f"{words} of the domain {bytes(domain[:40])!r}: only ONNX's own are taken")


def _fields(message: memoryview, kind: str) -> Iterator[Field]:
    """The fields of a message of a kind of :data:`TAKEN`.

    Raises:
        ValueError: a field that is not taken.
    """
    for number, value in _message(message):
        if number not in TAKEN[kind]:
            raise ValueError(f"field {number} ({kind}): polarpix writes none (data in other files, loops, ...)")
        yield number, value


def _message(message: memoryview) -> Iterator[Field]:
    """Number and value of each field: whole numbers as such, all else as bytes.

    Raises:
        ValueError: not a message.
    """
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire == BYTES:
            length, at = _varint(message, at)
        elif wire in (FIXED32, FIXED64):
            length = 4 if wire == FIXED32 else 8
        else:
            raise ValueError("no ONNX file: an unknown kind of field")
        if length > len(message) - at:
            raise ValueError("no ONNX file, or cut off")
        yield number, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("no ONNX file, or cut off")
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("no ONNX file: a number without an end")


def _varints(packed: memoryview) -> Iterator[int]:
    at = 0
    while at < len(packed):
        value, at = _varint(packed, at)
        yield value


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("no ONNX file: a number in the place of a text or a message")
    return value


def _bytes_of(message: memoryview, number: int) -> memoryview:
    """The last field of a number; empty where there is none."""
    found = memoryview(b"")
    for key, value in _message(message):
        if key == number:
            found = _bytes(value)
    return found
