"""Archives that torch.export.load would run: cases of benchmarks/export_attacks.py."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from export_lies import Files, lies

from polarpix.runtime.torch_file import archive, check_torch_file, packed

__all__ = ["torch_attacks"]


class Payload:
    """An object whose reading, by pickle, makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


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
