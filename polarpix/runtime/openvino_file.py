"""An .xml file of OpenVINO and the .bin beside it, looked through before the runtime opens them.

Taken is what ``polarpix export`` writes: layers of OpenVINO's own sets without a body of their own (as loops have,
which need not end), constants that lie within the .bin, and no document type, so that there is no entity to unfold or
to fetch.
"""

from __future__ import annotations

import hashlib
import json
import re
from math import prod
from typing import Any
from xml.parsers import expat

__all__ = ["check_openvino", "check_weights"]

TAGS = {"net", "layers", "layer", "data", "input", "output", "port", "dim", "edges", "edge", "rt_info", "attribute"}
OPSET = re.compile(r"opset\d{1,2}")
BITS = {
    "f64": 64,
    "f32": 32,
    "f16": 16,
    "bf16": 16,
    "boolean": 8,
    **{f"{sign}{bits}": bits for sign in "iu" for bits in (8, 16, 32, 64)},
}
DEEPEST = 12  # tags within tags; polarpix's own lie 6 deep


def check_openvino(text: bytes, weights: bytes) -> dict[str, str]:
    """The metadata of a network that holds nothing but what is taken.

    Args:
        text: of the .xml file.
        weights: the .bin file.

    Raises:
        ValueError: says what else it holds, or that it is no such file.
    """
    if b"\0" in text or text[:2] in (b"\xff\xfe", b"\xfe\xff"):  # in which OpenVINO might read otherwise
        raise ValueError("no XML file in UTF-8")
    reader = _Reader(len(weights))
    parser = expat.ParserCreate("UTF-8")
    parser.StartElementHandler, parser.EndElementHandler = reader.start, reader.end
    for name in ("StartDoctypeDecl", "EntityDecl", "ProcessingInstruction", "StartCdataSection", "ExternalEntityRef"):
        setattr(parser, f"{name}Handler", reader.refuse)
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        raise ValueError(f"no XML file: {error}") from None
    if reader.metadata is None:
        return {}
    found = json.loads(reader.metadata)
    if not isinstance(found, dict) or not all(isinstance(one, str) for one in found.values()):
        raise ValueError("its metadata are no texts by name")
    return found


def check_weights(weights: bytes, digest: str, name: str) -> None:
    """Refuse a .bin file that is not the one which was written with the .xml, whose metadata hold its SHA-256.

    Raises:
        ValueError: it is another, or altered.
    """
    if hashlib.sha256(weights).hexdigest() != digest:
        raise ValueError(f"{name} beside it is altered or another network's: its SHA-256 does not fit")


class _Reader:
    """What expat calls; ``size`` is that of the .bin file in bytes."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.way: list[str] = []
        self.layer = ""
        self.metadata: str | None = None

    def start(self, tag: str, values: dict[str, str]) -> None:
        inside = "rt_info" in self.way
        if tag not in TAGS and not inside:
            raise ValueError(f"a tag {tag!r:.40}: polarpix writes none (loops, document types, ...)")
        if len(self.way) >= DEEPEST:
            raise ValueError(f"tags more than {DEEPEST} deep")
        self.way.append(tag)
        if self.way == ["net", "rt_info", "polarpix"]:
            self.metadata = values.get("value", "")
        if inside:
            return
        if tag == "layer":
            self.layer = values.get("type", "")
            if not OPSET.fullmatch(values.get("version", "")):
                raise ValueError(f"a layer of the set {values.get('version')!r:.40}: only OpenVINO's own are taken")
        elif tag == "data" and self.layer == "Const":
            self.check_constant(values)

    def check_constant(self, values: dict[str, str]) -> None:
        kind, shape = values.get("element_type", ""), values.get("shape", "")
        if kind not in BITS:
            raise ValueError(f"a constant of kind {kind!r:.40}: numbers are taken")
        dims = [int(part) for part in shape.split(",") if part]
        offset, size = int(values.get("offset", -1)), int(values.get("size", -1))
        if offset < 0 or size < 0 or offset + size > self.size:
            raise ValueError(f"a constant at byte {offset:.12g} of {size:.12g}; the .bin file has {self.size} bytes")
        if len(dims) > 16 or min(dims, default=0) < 0 or prod(dims) * BITS[kind] != size * 8:
            raise ValueError(f"a constant of shape {shape:.60} in {size} bytes")

    def end(self, tag: str) -> None:
        self.way.pop()

    def refuse(self, *_: Any) -> None:
        raise ValueError("document types, entities and instructions are not taken")
