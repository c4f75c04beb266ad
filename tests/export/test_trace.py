"""The traced program: plain operations, of networks and attention of every kind."""

import io

import pytest
import torch
from torch import Tensor, nn

from polarpix.attention import build_attention
from polarpix.errors import InputError
from polarpix.export import trace as module
from polarpix.export.trace import trace, traced
from polarpix.predict import PosePredictor


@pytest.mark.parametrize("name", ["psa_p", "psa_s", "psa_p_released", "psa_s_released"])
def test_attention_is_traced_collapsed_and_for_any_size(name: str) -> None:
    block = build_attention(name, 16).eval()
    program = traced(block, (torch.randn(2, 16, 7, 10),), 1)
    operators = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert all(one.startswith(("aten.", "<built-in")) for one in operators), operators
    assert "aten.conv2d.default" not in operators  # no map of h rows but that of the released sequential form
    for batch in (1, 3):
        x = torch.randn(batch, 16, 7, 10)
        torch.testing.assert_close(program.module()(x), block(x), atol=1e-5, rtol=1e-4)


def test_pooling_that_rounds_up_can_be_saved() -> None:
    class Pooled(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            image = image.permute(0, 3, 1, 2)
            cells = nn.functional.avg_pool2d(image, 2, ceil_mode=True)
            return image.mean((2, 3), keepdim=True).expand(-1, -1, *cells.shape[2:])

    program = traced(Pooled(), (torch.randn(2, 3, 7, 9).permute(0, 2, 3, 1),), 3)
    stream = io.BytesIO()
    torch.export.save(program, stream)
    stream.seek(0)
    again = torch.export.load(stream).module()
    for shape, cells in (((1, 8, 11, 3), (4, 6)), ((3, 5, 6, 3), (3, 3))):
        assert again(torch.randn(*shape)).shape[2:] == cells


def test_what_cannot_be_traced_is_said(pose: PosePredictor, monkeypatch: pytest.MonkeyPatch) -> None:
    class Loop(nn.Module):
        def forward(self, image: Tensor, to_image: Tensor) -> Tensor:
            return image if float(to_image.sum()) > 0 else to_image

    monkeypatch.setattr(module, "graph_of", lambda predictor: Loop())
    with pytest.raises(InputError, match=r"test_resnet with attention psa_p cannot be traced \(.+\)$"):
        trace(pose, None)
