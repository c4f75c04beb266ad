"""OpenVINO files with entities, loops, and constants that lie elsewhere: cases of benchmarks/export_attacks.py."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from export_lies import Files, lies

from polarpix.runtime.seal import blank_seal, sealed

__all__ = ["openvino_attacks"]


def openvino_files(text: str, weights: bytes, texts: dict[str, str]) -> Files:
    """A network with other metadata, sealed."""
    from xml.sax.saxutils import quoteattr

    held = texts | {"weights": hashlib.sha256(weights).hexdigest(), "seal": blank_seal(".xml")}
    told = f"<polarpix value={quoteattr(json.dumps(held))} />"
    data = re.sub(r'<polarpix value="\{[^"]*" ?/>', lambda _: told, text).encode()
    return {".xml": sealed(data, ".xml") if blank_seal(".xml").encode() in data else data, ".bin": weights}


def openvino_attacks(good: Files, mark: Path) -> Iterator[tuple[str, Files]]:
    """Networks with entities, loops, and constants that lie elsewhere."""
    from polarpix.runtime.openvino_file import check_openvino

    text, weights = good[".xml"].decode(), good[".bin"]
    texts = {k: v for k, v in check_openvino(good[".xml"], weights).items() if k not in ("seal", "weights")}

    def changed(change: Callable[[str], str], held: bytes = weights) -> Files:
        return openvino_files(change(text), held, texts)

    def headed(doctype: str, use: str) -> Files:
        return changed(lambda t: t.replace("?>", f"?>{doctype}", 1).replace('name="image"', f'name="{use}"', 1))

    for name, told in lies(texts):
        yield f"metadata: {name}", openvino_files(text, weights, told)
    for place in ("/etc/hostname", str(mark), "http://127.0.0.1:1/x"):
        words = place.replace(str(mark.parent), "...")
        yield f"entity that is {words}", headed(f'<!DOCTYPE net [<!ENTITY x SYSTEM "file://{place}">]>', "&x;")
        yield f"document type in {words}", headed(f'<!DOCTYPE net SYSTEM "{place}">', "image")
    entities = '<!ENTITY a0 "ha">' + "".join(f'<!ENTITY a{k} "{f"&a{k - 1};" * 10}">' for k in range(1, 12))
    yield "a billion laughs", headed(f"<!DOCTYPE net [{entities}]>", "&a11;")
    yield "an instruction", changed(lambda t: t.replace("?>", '?><?xml-stylesheet href="x"?>', 1))
    yield (
        "tags 100,000 deep",
        changed(lambda t: t.replace("<rt_info>", "<rt_info>" + "<a>" * 100_000 + "</a>" * 100_000, 1)),
    )
    yield "UTF-16", {".xml": text.encode("utf-16"), ".bin": weights}
    yield "a .bin too short", changed(lambda t: t, weights[:-100])
    yield "an empty .bin", changed(lambda t: t, b"")
    for words, number in {"behind the .bin": len(weights), "-8": -8, "2^63": 2**63, "2^64 - 8": 2**64 - 8}.items():
        yield f"a constant at {words}", changed(lambda t, n=number: t.replace('offset="0"', f'offset="{n}"', 1))
        yield (
            f"a constant of {words} bytes",
            changed(lambda t, n=number: re.sub(r' size="\d+"', f' size="{n}"', t, count=1)),
        )
    for shape in ("99999999999", "-4", "4294967296,4294967296", "1," * 5000 + "1"):
        told = f'type="Const" version="opset1">\\1shape="{shape}"'
        yield (
            f"a constant of shape {shape[:30]}",
            changed(
                lambda t, s=told: re.sub(
                    r'type="Const" version="opset1">(\s*<data element_type="\w+" )shape="[^"]*"', s, t, count=1
                )
            ),
        )
    yield "a layer of an extension", changed(lambda t: t.replace('version="opset1"', 'version="extension"', 1))
    yield (
        "a loop",
        changed(
            lambda t: t.replace(
                '<layer id="3"', '<layer id="9999" type="Loop" version="opset5"><body/></layer><layer id="3"', 1
            )
        ),
    )
    yield "an edge to nowhere", changed(lambda t: re.sub(r'to-layer="\d+"', 'to-layer="99999"', t, count=1))
    yield "a circle", changed(lambda t: re.sub(r'<edge from-layer="\d+"', '<edge from-layer="60"', t, count=5))
    yield "no edges", changed(lambda t: re.sub(r"<edge .*?/>", "", t))
    yield (
        "another input size",
        changed(lambda t: re.sub(r'shape="\?,(64,64|\?,\?),3"', 'shape="?,99999,99999,3"', t, count=1)),
    )
