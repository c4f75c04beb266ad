"""ONNX files with more than a graph of weights and operators: cases of benchmarks/export_attacks.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from export_lies import Files, lies

from polarpix.runtime.seal import blank_seal, sealed

__all__ = ["COMPUTED", "onnx_attacks"]

COMPUTED = "a map of 64 GB that is computed"  # when it is run, not when it is opened


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
