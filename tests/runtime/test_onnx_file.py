"""An ONNX file is refused for what polarpix does not write, before a runtime sees it."""

import random
from collections.abc import Callable
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from polarpix.export.run import Export
from polarpix.runtime.onnx_file import check_onnx

value = helper.make_tensor_value_info


def network() -> Any:
    """y = x * w + 1, with a constant of typed numbers and a value of an attribute."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, [2], bytes(8), raw=True)
    one = helper.make_node("Constant", [], ["one"], value=helper.make_tensor("", TensorProto.FLOAT, [2], [1.0, 1.0]))
    nodes = [one, helper.make_node("Mul", ["x", "w"], ["m"]), helper.make_node("Add", ["m", "one"], ["y"])]
    ends = ([value("x", TensorProto.FLOAT, ["b", 2])], [value("y", TensorProto.FLOAT, ["b", 2])])
    model = helper.make_model(
        helper.make_graph(nodes, "g", *ends, [weight]), opset_imports=[helper.make_opsetid("", 18)]
    )
    helper.set_model_props(model, {"format": "x", "labels": "Ohr, länglich"})
    return model


def body() -> Any:
    return helper.make_graph([], "body", [], [])


def outside(model: Any) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../secret")


CHANGES: dict[str, Callable[[Any], Any]] = {
    r"field 13 \(tensor\)": outside,
    r"field 14 \(tensor\)": lambda m: setattr(m.graph.initializer[0], "data_location", TensorProto.EXTERNAL),
    "an operator of the domain b'com.microsoft'": lambda m: setattr(m.graph.node[1], "domain", "com.microsoft"),
    "operators of the domain b'custom'": lambda m: m.opset_import.add(domain="custom", version=1),
    r"field 25 \(model\)": lambda m: m.functions.add(name="f"),
    r"field 20 \(model\)": lambda m: m.training_info.add(),
    r"field 15 \(graph\)": lambda m: m.graph.sparse_initializer.add(dims=[10**12]),
    r"field 6 \(attribute\)": lambda m: m.graph.node.append(helper.make_node("Loop", [], ["z"], body=body())),
    "kind 8: numbers": lambda m: setattr(m.graph.initializer[0], "data_type", TensorProto.STRING),
    r"shape \[3\] with 8 bytes": lambda m: m.graph.initializer[0].dims.__setitem__(0, 3),
    r"shape \[18446744073709551615\]": lambda m: m.graph.initializer[0].dims.__setitem__(0, -1),
    "tensor of 17 dimensions": lambda m: m.graph.initializer[0].dims.extend([1] * 16),
    r"shape \[1000000\] with 8 bytes at most": lambda m: m.graph.node[0].attribute[0].t.dims.__setitem__(0, 10**6),
    "the version of its operators": lambda m: m.ClearField("opset_import"),
    "0 graphs": lambda m: m.ClearField("graph"),
}


def test_plain_files_are_taken(pose_export: Export, seg_export: Export) -> None:
    assert check_onnx(network().SerializeToString()) == {"format": "x", "labels": "Ohr, länglich"}
    for file in (pose_export.file, seg_export.file):
        told = {one.key: one.value for one in onnx.load(file).metadata_props}
        assert check_onnx(file.read_bytes()) == told


@pytest.mark.parametrize("words", CHANGES)
def test_what_is_not_written_is_refused(words: str) -> None:
    model = network()
    CHANGES[words](model)
    with pytest.raises(ValueError, match=words):
        check_onnx(model.SerializeToString())


def test_two_graphs_and_doubled_metadata_are_refused() -> None:
    """Protobuf makes one message of two, so that what was looked at would not be what is read."""
    data = network().SerializeToString()
    with pytest.raises(ValueError, match="2 graphs"):
        check_onnx(data + onnx.ModelProto(graph=onnx.GraphProto(name="more")).SerializeToString())
    twice = onnx.ModelProto()
    twice.metadata_props.add(key="format", value="y")
    with pytest.raises(ValueError, match="'format' twice"):
        check_onnx(data + twice.SerializeToString())


def test_no_bytes_end_otherwise_than_in_a_value_error() -> None:
    data, rng = network().SerializeToString(), random.Random(0)
    for _ in range(3000):
        changed = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            changed[rng.randrange(len(data))] = rng.randrange(256)
        try:
            check_onnx(bytes(changed[: rng.randint(0, len(data))]))
        except ValueError:
            continue
    for junk in (b"\x0f" * 9, b"\xff" * 99, b"\x3a\xff\xff\xff\xff\x0f", b"\x38\x01", b"\x0d\x00"):
        with pytest.raises(ValueError, match="ONNX"):
            check_onnx(junk)
