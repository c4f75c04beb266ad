"""Exported files opened, and everything that can be wrong with one."""

import builtins
from pathlib import Path
from typing import Any

import pytest

from polarpix.errors import InputError
from polarpix.export.formats import FORMATS
from polarpix.export.run import Export
from polarpix.runtime.sessions import SESSIONS, open_session
from polarpix.zoo import EXPORTED


@pytest.mark.parametrize("suffix", SESSIONS)
def test_damaged_and_missing_files_are_named(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    with pytest.raises(InputError, match=r"no such file: give one that 'polarpix export' has written"):
        open_session(path)
    path.write_bytes(b"nothing of the kind")
    if suffix == ".xml":
        with pytest.raises(InputError, match=r"a\.bin: no such file: the weights of a\.xml lie beside it"):
            open_session(path)
        path.with_suffix(".bin").touch()
    with pytest.raises(InputError, match=rf"a\{suffix}: not a readable .* file \(.+\): copy or export it again"):
        open_session(path)


def test_other_suffixes_and_devices_are_refused(pose_export: Export, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"give a file that ends in \.onnx, \.pt2, \.xml"):
        open_session(tmp_path / "a.tflite")
    with pytest.raises(InputError, match=r"device 'tpu': this onnxruntime has .*CPUExecutionProvider"):
        open_session(pose_export.file, "tpu")
    (tmp_path / "a.pt2").touch()
    with pytest.raises(InputError, match="device 'tpu' cannot be used"):
        open_session(tmp_path / "a.pt2", "tpu")


def test_the_endings_are_one_table() -> None:
    """What writes, what opens and what tells a name of an exported file from others know the same endings."""
    assert sorted(SESSIONS) == sorted(EXPORTED) == sorted(one.suffix for one in FORMATS.values())


def test_a_foreign_network_is_refused(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, save

    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "foreign",
        [value("x", TensorProto.FLOAT, [1])],
        [value("y", TensorProto.FLOAT, [1])],
    )
    save(helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "a.onnx")
    with pytest.raises(InputError, match=r"not exported by this polarpix \(format None"):
        open_session(tmp_path / "a.onnx")


@pytest.mark.parametrize(("suffix", "package"), [(".onnx", "onnxruntime"), (".pt2", "torch"), (".xml", "openvino")])
def test_a_missing_runtime_is_named(suffix: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"a{suffix}"
    path.touch()
    real = builtins.__import__

    def refusing(name: str, *arguments: Any, **named: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ImportError(name)
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", refusing)
    with pytest.raises(InputError, match=f"needs {package}: pip install {package}"):
        open_session(path)


def test_a_flipped_bit_is_seen_before_the_runtime(pose_export: Export, tmp_path: Path) -> None:
    """In weights too, where no parser could find it."""
    whole = pose_export.file.read_bytes()
    path = tmp_path / "a.onnx"
    for at in (len(whole) // 2, len(whole) - 2):
        data = bytearray(whole)
        data[at] ^= 1
        path.write_bytes(bytes(data))
        with pytest.raises(InputError, match=r"a\.onnx: not a readable ONNX file \(.*\): copy or export it again"):
            open_session(path, "cpu")
    path.write_bytes(whole)
    session, _ = open_session(path, "cpu")
    assert session.inputs == ((None, 64, 64, 3), (None, 2, 3))
    assert session.outputs == ((None, 14, 2), (None, 14), (None, 14, 2, 2))
