"""Every codec through every format: opened again, run on other batches, with its metadata."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from polarpix.errors import InputError
from polarpix.export import formats as module
from polarpix.export.formats import FORMATS, Signature, check_packages, convert_to_openvino, files_of
from polarpix.export.graph import PoseGraph
from polarpix.export.trace import traced
from polarpix.pose.codec import CODECS, build_codec
from polarpix.runtime.sessions import EXPORT_FORMAT, open_session

SIGNATURE = Signature(("image", "to_image"), ("keypoints", "scores", "covariance"), ("batch",))
METADATA = {"format": EXPORT_FORMAT, "labels": '{"names": ["Ohr, l\\u00e4nglich"]}'}


def drawn(batch: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch)
    image = torch.randint(0, 256, (batch, 48, 64, 3), dtype=torch.uint8, generator=generator)
    return image, torch.randn(batch, 2, 3, generator=generator)


@pytest.mark.parametrize("codec", CODECS)
def test_all_formats_decode_every_codec(codec: str, tmp_path: Path, maps: Callable[[int], nn.Module]) -> None:
    coder = build_codec(codec, (48, 64), (12, 16), 2.0)
    graph = PoseGraph(maps(3 * coder.channels_per_keypoint), coder, (1, 0, 2), shift_flipped=False)
    program = traced(graph, drawn(2), 1)
    onnx = tmp_path / "network.onnx"
    for kind, form in FORMATS.items():
        path = tmp_path / f"network{form.suffix}"
        if kind == "openvino" and codec != "udp":
            convert_to_openvino(onnx, METADATA, path)  # as writing it does with an ONNX file of its own
        else:
            form.write(program, SIGNATURE, METADATA, path)
        assert all(part.is_file() for part in files_of(path))
        session, metadata = open_session(path, "cpu")
        assert metadata == METADATA, kind
        for batch in (1, 3):
            with torch.no_grad():
                points, scores, spread = graph(*drawn(batch))
            found = session(*(one.numpy() for one in drawn(batch)))
            np.testing.assert_allclose(found[0], points.numpy(), atol=2e-3, err_msg=kind)
            np.testing.assert_allclose(found[1], scores.numpy(), atol=1e-5, err_msg=kind)
            np.testing.assert_allclose(found[2], spread.numpy(), rtol=1e-3, atol=1e-3, err_msg=kind)
    left = {path.name for path in tmp_path.iterdir()} - {"network.onnx"}
    assert left == {"network.bin", "network.pt2", "network.xml"}


def test_free_axes_have_names_and_operators_are_plain(tmp_path: Path, maps: Callable[[int], nn.Module]) -> None:
    import onnx

    coder = build_codec("gaussian", (48, 64), (12, 16), 2.0)
    program = traced(PoseGraph(maps(3), coder, None, shift_flipped=False), drawn(2), 1)
    FORMATS["onnx"].write(program, SIGNATURE, METADATA, tmp_path / "a.onnx")
    model = onnx.load(tmp_path / "a.onnx")
    onnx.checker.check_model(model, full_check=True)
    shapes = [[dim.dim_param or dim.dim_value for dim in one.type.tensor_type.shape.dim] for one in model.graph.input]
    assert shapes == [["batch", 48, 64, 3], ["batch", 2, 3]]
    assert [one.name for one in model.graph.output] == ["keypoints", "scores", "covariance"]
    assert {node.domain for node in model.graph.node} == {""}
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 18)]


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "openvino" else object())
    check_packages("onnx")
    with pytest.raises(InputError, match=r"--to openvino needs openvino: pip install 'polarpix\[export\]'"):
        check_packages("openvino")
