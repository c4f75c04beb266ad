"""Exported files made to run code, to read elsewhere, to never end or to fill the memory, with seals that fit.

The cases of benchmarks/fuzz_exports.py, by suffix. Who means harm can write a checksum as well as polarpix, so all but
the damaged files are sealed anew; what is refused here is refused for what it holds.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from polarpix.runtime.seal import EXPORT_FORMAT, blank_seal, sealed
from polarpix.runtime.torch_file import archive, check_torch_file, packed

COMPUTED = "a map of 64 GB that is computed"  # when it is run, not when it is opened
Files = dict[str, bytes]
"""Suffix -> content: the file, and for OpenVINO the .bin beside it."""


class Payload:
    """An object whose reading, by pickle, makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def lies(texts: dict[str, str]) -> Iterator[tuple[str, dict[str, str]]]:
    """What a file may say wrongly of itself."""
    run, labels = json.loads(texts["run"]), json.loads(texts["labels"])

    def page(**values: Any) -> dict[str, str]:
        return texts | {"run": json.dumps(run | values)}

    def sized(*size: Any) -> dict[str, str]:
        return (
            page(model=run["model"] | {"input_size": size})
            if run["task"] == "pose"
            else texts | {"size": json.dumps(size)}
        )

    for version in ("polarpix-export-2", "polarpix-export-99", "", "x" * 10_000):
        yield f"format {version[:20]!r}", texts | {"format": version}
    for key in ("run", "labels", "metrics", "calibration", "size"):
        yield f"{key} that is no JSON", texts | {key: "{"}
        yield f"{key} of another kind", texts | {key: '["x"]'}
        yield f"{key} nested 100,000 deep", texts | {key: "[" * 100_000}
    for key in ("task", "run", "labels", "udp", "polarpix"):
        yield f"no {key}", {k: v for k, v in texts.items() if k != key}
    yield "another task", texts | {"task": "seg" if run["task"] == "pose" else "pose"}
    yield "a task that is none", texts | {"task": "../x"}
    yield "a text of 20 million letters", texts | {"commit": "x" * 20_000_000}
    for size in ((-64, 64), (0, 0), (10**6, 10**6), (65, 64), (2**63, 2**63), ("x", 64), (1e400, 64), (64,)):
        yield f"size {size!s:.30}", sized(*size)
    names = labels["names"]
    short = {k: v[:-1] if isinstance(v, list) and len(v) == len(names) else v for k, v in labels.items()}
    short |= {k: [] for k in ("flip_pairs", "skeleton") if k in labels}
    if run["task"] == "pose":  # a label map does not tell how many classes there could be
        yield "a name too few", texts | {"labels": json.dumps(short)}
    yield "100,000 names", texts | {"labels": json.dumps(labels | {"names": [f"n{i}" for i in range(100_000)]})}
    curve = {"scores": [0.1, 0.9], "probabilities": [0.2, 0.8], "split": "val", "samples": 3}
    for words, change in {
        "a falling curve": {"probabilities": [0.8, 0.2]},
        "no numbers": {"scores": [float("nan"), 1.0]},
        "a covariance below 0": {"covariance": [-1.0, 0.0]},
        "texts": {"scores": ["a", "b"]},
    }.items():
        yield f"calibration with {words}", texts | {"calibration": json.dumps(curve | change)}


def onnx_file(model: Any, texts: dict[str, str]) -> Files:
    """A model with other metadata, sealed."""
    from onnx import helper

    helper.set_model_props(model, texts | {"seal": blank_seal(".onnx")})
    return {".onnx": sealed(model.SerializeToString(), ".onnx")}


def onnx_attacks(good: Files, mark: Path) -> Iterator[tuple[str, Files]]:
    """Models with more than a graph of weights and operators. ``mark`` is the file that nothing may touch or read."""
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load_from_string(good[".onnx"])
    texts = {one.key: one.value for one in model.metadata_props if one.key != "seal"}
    for name, told in lies(texts):
        yield f"metadata: {name}", onnx_file(model, told)

    def changed(change: Callable[[Any], Any]) -> Files:
        copied = onnx.ModelProto()
        copied.CopyFrom(model)
        change(copied)
        return onnx_file(copied, texts)

    def outside(place: str) -> Callable[[Any], None]:
        def change(m: Any) -> None:
            tensor = m.graph.initializer[0]
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in {"location": place, "offset": "0", "length": "4"}.items():
                tensor.external_data.add(key=key, value=value)

        return change

    for place in ("../../secret", str(mark), "/etc/hostname", "/dev/zero", "weights.bin"):
        yield f"weights in {place.replace(str(mark.parent), '...')}", changed(outside(place))
    yield (
        "weights elsewhere, unsaid",
        changed(lambda m: m.graph.initializer[0].external_data.add(key="location", value="x")),
    )
    for domain in ("com.microsoft", "custom", "ai.onnx.ml", "../lib.so"):
        yield f"an operator of {domain}", changed(lambda m, d=domain: setattr(m.graph.node[0], "domain", d))
        yield f"operators of {domain}", changed(lambda m, d=domain: m.opset_import.add(domain=d, version=1))
    yield "a function", changed(lambda m: m.functions.add(name="f", domain="x"))
    yield "two graphs", onnx_file(model, texts) | {".onnx": good[".onnx"] + b"\x3a\x02\x12\x00"}
    for words, dims in {"2^62": [2**31, 2**31], "-1": [-1], "2^63": [2**62, 2, 2], "10^12": [10**12]}.items():
        yield (
            f"weights of {words} numbers",
            changed(lambda m, d=dims: m.graph.initializer[0].dims.__setitem__(slice(0, 9), d)),
        )
    yield "weights of 100,000 dimensions", changed(lambda m: m.graph.initializer[0].dims.extend([1] * 100_000))
    yield "weights of texts", changed(lambda m: setattr(m.graph.initializer[0], "data_type", TensorProto.STRING))
    yield "sparse weights", changed(lambda m: m.graph.sparse_initializer.add(dims=[10**12]))

    value = helper.make_tensor_value_info
    always = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["c2"]), helper.make_node("Identity", ["v"], ["v2"])],
        "body",
        [value("i", TensorProto.INT64, []), value("c", TensorProto.BOOL, []), value("v", TensorProto.FLOAT, None)],
        [value("c2", TensorProto.BOOL, []), value("v2", TensorProto.FLOAT, None)],
    )

    def endless(m: Any) -> None:
        m.graph.initializer.append(always)
        last = m.graph.output[-1].name
        for node in m.graph.node:
            node.output[:] = [f"{one}_" if one == last else one for one in node.output]
        m.graph.node.append(helper.make_node("Loop", ["", "yes", f"{last}_"], [last], body=body))

    yield "a loop without an end", changed(endless)
    chain = [helper.make_node("If", ["yes"], ["z"], then_branch=body, else_branch=body)]
    yield "a branch", changed(lambda m: (m.graph.initializer.append(always), m.graph.node.extend(chain)))

    def huge(m: Any) -> None:
        m.graph.initializer.append(helper.make_tensor("far", TensorProto.INT64, [1], [2**34]))
        last = m.graph.output[-1].name
        for node in m.graph.node:
            node.output[:] = [f"{one}_" if one == last else one for one in node.output]
        m.graph.node.extend(
            [
                helper.make_node("ConstantOfShape", ["far"], ["zeros"]),
                helper.make_node("ReduceSum", ["zeros"], ["zero"], keepdims=0),
                helper.make_node("Add", [f"{last}_", "zero"], [last]),
            ]
        )

    yield COMPUTED, changed(huge)
    yield (
        "a node that takes its own result",
        changed(lambda m: m.graph.node[3].input.__setitem__(0, m.graph.node[3].output[0])),
    )
    yield "an input too many", changed(lambda m: m.graph.input.append(value("more", TensorProto.FLOAT, [1])))
    yield "an output too few", changed(lambda m: m.graph.output.pop())
    yield (
        "another input size",
        changed(lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[3], "dim_value", 4)),
    )


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


def torch_attacks(good: Files, mark: Path) -> Iterator[tuple[str, Files]]:
    """Archives that torch.export.load would run."""
    import torch

    parts, texts = check_torch_file(good[".pt2"])
    texts = {key: text for key, text in texts.items() if key != "seal"}
    run = f"__import__('os').system('touch {mark}')"
    stream = io.BytesIO()
    torch.save({"x": Payload(mark)}, stream)
    program = stream.getvalue()
    model_part, weights_part = "models/model.json", "data/weights/model_weights_config.json"
    constants_part = "data/constants/model_constants_config.json"

    def file(**changes: bytes) -> Files:
        return {".pt2": packed(parts | {k.replace("|", "/"): v for k, v in changes.items()}, texts)}

    def table(part: str, change: Callable[[Any], Any], more: dict[str, bytes] | None = None) -> Files:
        value = json.loads(parts[part])
        change(value)
        return file(**{part: json.dumps(value).encode()}, **(more or {}))

    def graph(change: Callable[[Any], Any]) -> Files:
        return table(model_part, lambda m: change(m["graph_module"]["graph"]))

    def first(m: Any) -> Any:
        return next(iter(m["config"].values()))

    for name, told in lies(texts):
        yield f"metadata: {name}", {".pt2": packed(parts, told)}
    yield "pickle in the sample inputs", file(**{"data/sample_inputs/model.pt": program})
    yield "pickle for all weights", file(**{"data/weights/model.pt": program})
    yield "pickle for all constants", file(**{"data/constants/model.pt": program})
    for part, kind in ((weights_part, "weights"), (constants_part, "constants")):
        stem = "weight_0" if kind == "weights" else "tensor_0"
        yield (
            f"pickle for one of the {kind}",
            table(part, lambda m: first(m).update(use_pickle=True), {f"data/{kind}/{stem}": program}),
        )
    for stem, data in {"opaque_obj_0": pickle.dumps(Payload(mark)), "custom_obj_0": program}.items():
        yield (
            f"a constant called {stem}",
            table(
                constants_part,
                lambda m, s=stem: first(m).update(path_name=s, use_pickle=True),
                {f"data/constants/{stem}": data},
            ),
        )
    for words, text in {
        "that is code": run,
        "that is code among symbols": f"Add(Integer(1), Symbol('s1', positive={run}))",
        "by an attribute": "Integer(1).__class__",
        "a power without end": "Pow(Integer(9), Pow(Integer(9), Integer(99)))",
        "nested 3,000 deep": "Add(" * 3000 + "Integer(1)" + ")" * 3000,
    }.items():
        size = {"as_expr": {"expr_str": text, "hint": {"as_int": 2}}}
        yield f"a size {words}", graph(lambda g, s=size: next(iter(g["tensor_values"].values()))["sizes"].append(s))
    yield "a guard", table(model_part, lambda m: m.update(guards_code=[run]))
    for words, name in {
        "an input that is code": f"image={run}",
        "an input's name of two lines": f"image\n{run}",
    }.items():
        yield (
            words,
            {
                ".pt2": packed(
                    parts | {model_part: parts[model_part].replace(b'"image"', json.dumps(name).encode())}, texts
                )
            },
        )
    for target in (
        "torch.os.system",
        "torch.hub.load",
        "torch.load",
        "torch.ops.load_library",
        "torch.ops.aten.from_file.default",
    ):
        yield f"operator {target}", graph(lambda g, t=target: g["nodes"][3].update(target=t))
    for target in (
        "math.__loader__.load_module",
        "torch.ops.aten.add.Tensor.__class__",
        "#x",
        "_operator.methodcaller",
    ):
        yield f"operator {target}", graph(lambda g, t=target: g["nodes"][3].update(target=t))
    yield "operator of a library", graph(lambda g: g["nodes"][3].update(target="torch.ops.quantized.add.default"))
    enum = {"__enum__": True, "fqn": "antigravity:x", "name": "x"}
    spec = json.dumps([1, {"type": "builtins.dict", "context": json.dumps([enum]), "children_spec": []}])
    yield (
        "inputs that import a module",
        table(model_part, lambda m: m["graph_module"]["module_call_graph"][0]["signature"].update(in_spec=spec)),
    )
    yield (
        "a graph within the graph",
        graph(
            lambda g: g["nodes"][3]["inputs"].append(
                {"name": "x", "arg": {"as_graph": {"name": "x", "graph": g["nodes"][0]}}}
            )
        ),
    )
    yield "a library", file(**{"data/aotinductor/model/x.so": b"\x7fELF" + bytes(99)})
    sizes = [{"as_int": 10**6}] * 2
    yield (
        "weights of 10^12 numbers",
        table(weights_part, lambda m: first(m)["tensor_meta"].update(sizes=sizes, strides=[{"as_int": 0}] * 2)),
    )
    yield (
        "weights of 10^12 numbers, without bytes",
        table(
            weights_part,
            lambda m: first(m)["tensor_meta"].update(sizes=sizes, strides=sizes),
            {"data/weights/weight_0": b""},
        ),
    )
    yield (
        "weights of negative size",
        table(weights_part, lambda m: first(m)["tensor_meta"]["sizes"].append({"as_int": -1})),
    )
    yield (
        "weights behind their bytes",
        table(weights_part, lambda m: first(m)["tensor_meta"].update(storage_offset={"as_int": 2**40})),
    )
    yield (
        "weights in another file",
        table(weights_part, lambda m: first(m).update(path_name="../../../../etc/hostname")),
    )
    yield "a member that leads out", {".pt2": with_entry(good[".pt2"], "../../outside.txt", b"x")}
    yield "an absolute member", {".pt2": with_entry(good[".pt2"], str(mark), b"x")}
    yield "a member twice", {".pt2": with_entry(good[".pt2"], "archive/models/model.json", b"{}")}
    yield (
        "compressed gigabyte of zeros",
        {".pt2": with_entry(good[".pt2"], "archive/data/weights/weight_99999", bytes(10**9), 8)},
    )
    yield "a file of torch 2.7", {".pt2": old_archive(program, json.dumps(texts).encode())}
    yield "a pickle alone", {".pt2": program}
    yield "a bare archive", {".pt2": archive({"x": b""}).getvalue()}


def with_entry(data: bytes, name: str, content: bytes, packing: int = 0) -> bytes:
    """The archive with one entry more."""
    import warnings

    stream = io.BytesIO(data)
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "a", packing) as file:
        warnings.simplefilter("ignore")  # of a name that is there
        file.writestr(name, content)
    return stream.getvalue()


def old_archive(program: bytes, metadata: bytes) -> bytes:
    """What torch before 2.8 wrote, whose weights are a pickle."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("version", "8.20")
        file.writestr("extra_files/polarpix.json", metadata)
        for name in ("exported_program.json", "state_dict.pt", "constants.pt", "example_inputs.pt"):
            file.writestr(f"serialized_{name}", b"{}" if name.endswith("json") else program)
    return stream.getvalue()


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
