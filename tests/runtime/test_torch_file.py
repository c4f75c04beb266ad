"""A .pt2 file runs nothing: whatever torch.export.load would run is refused, and shown to run without the check."""

import contextlib
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from polarpix.errors import InputError
from polarpix.export.trace import traced
from polarpix.runtime.seal import EXPORT_FORMAT
from polarpix.runtime.sessions import open_session
from polarpix.runtime.torch_file import archive, check_torch_file, packed, plain_file

MODEL, WEIGHTS = "models/model.json", "data/weights/model_weights_config.json"
TEXTS = {"format": EXPORT_FORMAT, "labels": "Ohr, länglich"}


class Net(torch.nn.Module):
    """Sizes that are computed, a text for an operator, a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 3)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = torch.nn.functional.pad(image.float(), (0, 1), mode="reflect")
        x = torch.cat([x, x + torch.tensor([1.0, 2.0, 3.0, 4.0])])
        return (torch.nn.functional.gelu(self.linear(x), approximate="tanh").reshape(image.shape[0] * 2, 3),)


class Payload:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


@pytest.fixture(scope="module")
def file() -> bytes:
    torch.manual_seed(0)
    program = traced(Net(), (torch.zeros(2, 3),), 1)
    stream = io.BytesIO()
    torch.export.save(program, stream)
    return plain_file(stream.getvalue(), TEXTS)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    (tmp_path / "inside").mkdir()
    return tmp_path / "ran"


def test_what_goes_in_comes_out(file: bytes, tmp_path: Path) -> None:
    parts, texts = check_torch_file(file)
    assert {k: v for k, v in texts.items() if k != "seal"} == TEXTS
    assert not parts["data/sample_inputs/model.pt"]
    assert b"stack_trace" not in parts[MODEL]
    (tmp_path / "a.pt2").write_bytes(file)
    session, told = open_session(tmp_path / "a.pt2", "cpu")
    assert told == TEXTS
    assert (session.inputs, session.outputs) == (((None, 3),), ((None, 3),))
    torch.manual_seed(0)
    net, x = Net(), torch.randn(5, 3)
    torch.testing.assert_close(torch.from_numpy(session(x.numpy())[0]), net(x)[0].detach())
    with pytest.raises(InputError, match=r"a\.pt2: its graph cannot be run"):
        session(x[:, :2].numpy())


def rewritten(file: bytes, part: str, change: Callable[[Any], Any], more: dict[str, bytes] | None = None) -> bytes:
    parts, _ = check_torch_file(file)
    value = json.loads(parts[part])
    change(value)
    return packed(parts | {part: json.dumps(value).encode()} | (more or {}), TEXTS)


def first(config: Any) -> Any:
    return next(iter(config["config"].values()))


def size(text: str) -> Callable[[Any], Any]:
    sym = {"as_expr": {"expr_str": text, "hint": {"as_int": 2}}}
    return lambda m: next(iter(m["graph_module"]["graph"]["tensor_values"].values()))["sizes"].__setitem__(0, sym)


def hostile(file: bytes, mark: Path) -> dict[str, tuple[bytes, bool]]:
    """What the refusal says -> the file, and whether torch alone runs the code in it."""
    code = f"__import__('os').system('touch {mark}')"
    stream = io.BytesIO()
    torch.save({"x": Payload(mark)}, stream)
    program = stream.getvalue()
    parts, _ = check_torch_file(file)

    def with_part(name: str, content: bytes) -> bytes:
        return packed(parts | {name: content}, TEXTS)

    def node(**values: Any) -> bytes:
        return rewritten(file, MODEL, lambda m: m["graph_module"]["graph"]["nodes"][1].update(values))

    def signature(model: Any) -> Any:
        return model["graph_module"]["module_call_graph"][0]["signature"]

    enum = json.dumps([{"__enum__": True, "fqn": "this:x", "name": "x"}])
    spec = json.dumps([1, {"type": "builtins.dict", "context": enum, "children_spec": []}])
    big = [{"as_int": 10**6}] * 2
    constants = "data/constants/model_constants_config.json"
    opaque = {"data/constants/opaque_obj_0": pickle.dumps(Payload(mark))}
    named = parts[MODEL].replace(b'"image"', json.dumps(f"image={code}").encode())
    return {
        "pickled sample inputs": (with_part("data/sample_inputs/model.pt", program), True),
        r"a part 'archive/data/weights/model\.pt'": (with_part("data/weights/model.pt", program), True),
        r"a part 'archive/data/constants/model\.pt'": (with_part("data/constants/model.pt", program), True),
        "a part 'archive/data/aotinductor": (with_part("data/aotinductor/model/x.so", b"\x7fELF"), False),
        "a part 'archive/data/constants/opaque": (
            rewritten(file, constants, lambda m: first(m).update(path_name="opaque_obj_0", use_pickle=True), opaque),
            True,
        ),
        r"linear\.weight: pickled": (
            rewritten(file, WEIGHTS, lambda m: first(m).update(use_pickle=True), {"data/weights/weight_0": program}),
            True,
        ),
        "guards_code in its graph": (rewritten(file, MODEL, lambda m: m.update(guards_code=[code])), False),
        r"a size .__import__.*more than numbers": (rewritten(file, MODEL, size(code)), True),
        r"a size .Pow.*more than numbers": (rewritten(file, MODEL, size("Pow(Integer(2), Integer(3))")), False),
        r"a size .Integer\(1\)\.__class__.*more than": (rewritten(file, MODEL, size("Integer(1).__class__")), False),
        r"a size .*: not in order|too many": (rewritten(file, MODEL, size("Add(" * 900)), False),
        "no plain word": (packed(parts | {MODEL: named}, TEXTS), True),
        r"an operator 'torch\.os\.system'": (node(target="torch.os.system"), False),
        r"an operator 'torch\.ops\.aten\.from_file": (node(target="torch.ops.aten.from_file.default"), False),
        r"an operator 'torch\.ops\.aten\.add\.__class__'": (node(target="torch.ops.aten.add.__class__"), False),
        "'as_graph' in its graph": (node(inputs=[{"name": "x", "arg": {"as_graph": {}}}]), False),
        "with more inside": (rewritten(file, MODEL, lambda m: signature(m).update(in_spec=spec)), False),
        r"linear\.weight: of shape \[1000000": (
            rewritten(file, WEIGHTS, lambda m: first(m)["tensor_meta"].update(sizes=big, strides=big),
                      {"data/weights/weight_0": b""}), False),
        "a size of -1": (
            rewritten(file, WEIGHTS, lambda m: first(m)["tensor_meta"].update(storage_offset={"as_int": -1})), False),
    }  # fmt: skip


def test_what_torch_would_run_is_refused(file: bytes, mark: Path) -> None:
    path = mark.parent / "inside" / "a.pt2"
    for words, (data, runs) in hostile(file, mark).items():
        path.write_bytes(data)
        with pytest.raises(InputError, match=rf"a\.pt2: not a readable torch\.export file \(.*{words}") as caught:
            open_session(path, "cpu")
        assert "\n" not in str(caught.value)
        assert not mark.exists(), words
        if runs:  # else the refusal would guard against nothing
            with contextlib.suppress(Exception):
                torch.export.load(io.BytesIO(data)).module()
            assert mark.exists(), words
            mark.unlink()


def test_archives_that_lie_are_refused(file: bytes, tmp_path: Path) -> None:
    def appended(name: str, content: bytes, packing: int = zipfile.ZIP_STORED) -> bytes:
        stream = io.BytesIO(file)
        with zipfile.ZipFile(stream, "a", packing) as more:
            more.writestr(name, content)
        return stream.getvalue()

    flipped = bytearray(file)
    flipped[file.index(b"torch.ops.aten")] ^= 1
    cases = {
        r"a part '\.\./\.\./outside\.txt'": appended("../../outside.txt", b"x"),
        "a part '/etc/x'": appended("/etc/x", b"x"),
        "or only one": appended("other/models/model.json", b"{}"),
        "compressed or encrypted": appended("archive/data/weights/weight_99", bytes(10**6), zipfile.ZIP_DEFLATED),
        "cut off, altered, or no archive": bytes(flipped),
        "no archive of torch": file[: len(file) // 2],
        r"no extra/polarpix\.json": archive({}).getvalue(),
        "no checksum|does not fit": appended("archive/data/weights/weight_99", bytes(8)),
    }
    for words, data in cases.items():
        with pytest.raises(ValueError, match=words):
            check_torch_file(data)
    older = packed({"models/model.json": b"{}"}, TEXTS | {"format": "polarpix-export-2"})
    assert check_torch_file(older)[0] == {}
    (tmp_path / "a.pt2").write_bytes(older)
    with pytest.raises(InputError, match=r"not exported by this polarpix \(format 'polarpix-export-2', must be"):
        open_session(tmp_path / "a.pt2")
