"""Both segmentation heads and every loss at the edges: equal maps, 1e4, one pixel, empty batches, every dtype."""

import copy

import pytest
import torch
from torch import nn

from polarpix.seg.deeplab import DeepLabV3Plus
from polarpix.seg.loss import SEG_LOSSES, SIDE_LOSSES
from polarpix.seg.ocr import OCRHead

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


class Deep(DeepLabV3Plus):
    """The head on one map, which it takes for both of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return super().forward(x, x)


HEADS = {
    "deeplab": lambda: Deep(6, 6, 3, channels=4, low_channels=4, rates=(1, 2, 3), dropout=0.0),
    "separable": lambda: Deep(6, 6, 3, "deeplabv3plus_separable", channels=4, low_channels=4, rates=(1,), dropout=0.0),
    "ocr": lambda: OCRHead(6, 3, mid=4, key=4, dropout=0.0),
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def scores(head: nn.Module, x: torch.Tensor) -> torch.Tensor:
    found = head(x)
    return found[0] + found[1] if isinstance(found, tuple) else found


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_heads_stay_finite(name: str, dtype: torch.dtype) -> None:
    head = HEADS[name]().to(dtype)
    for x in (torch.full((2, 6, 5, 4), 2.0), torch.zeros(2, 6, 5, 4), 1e4 * torch.randn(2, 6, 5, 4).sign()):
        head.zero_grad()
        found = scores(head, x.to(dtype).requires_grad_())
        assert found.dtype == dtype
        assert found.isfinite().all()
        found.sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())
    head.eval()
    for shape in ((1, 6, 1, 1), (0, 6, 5, 4)):
        found = scores(head, torch.randn(shape).to(dtype))
        assert found.shape == (shape[0], 3, *shape[2:])
        assert found.isfinite().all()


@pytest.mark.parametrize("name", HEADS)
def test_heads_under_autocast_and_twice(name: str) -> None:
    head, x = HEADS[name]().eval(), torch.randn(2, 6, 5, 4)
    exact = scores(head, x)
    assert torch.equal(exact, scores(head, x))
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            torch.testing.assert_close(scores(head, x).float(), exact, atol=0.1, rtol=0.1)


@pytest.mark.parametrize("name", [*SEG_LOSSES, "side rmi"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_losses_stay_finite(name: str, dtype: torch.dtype) -> None:
    loss = SIDE_LOSSES["rmi"] if name == "side rmi" else SEG_LOSSES[name]
    label = torch.randint(0, 3, (2, 12, 12))
    label[0, :3] = 255
    equal, large = torch.zeros(2, 3, 12, 12), 1e4 * torch.randn(2, 3, 12, 12).sign()
    for logits, target in ((equal, label), (large, label), (large, torch.full_like(label, 255))):
        logits = logits.to(dtype).requires_grad_()
        found = loss(logits, target, 255)
        found.backward()
        assert found.isfinite()
        assert logits.grad is not None
        assert logits.grad.isfinite().all()


MANY = 2048  # channels of the deepest map of a ResNet
WIDE = {
    "deeplab": lambda: Deep(MANY, MANY, 3, channels=4, low_channels=4, rates=(1, 2, 3), dropout=0.0),
    "separable": lambda: Deep(
        MANY, MANY, 3, "deeplabv3plus_separable", channels=4, low_channels=4, rates=(1,), dropout=0.0
    ),
    "ocr": lambda: OCRHead(MANY, 3, mid=4, key=4, dropout=0.0),
}
CLOSE = {torch.float64: 1e-10, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}


@pytest.mark.parametrize("name", WIDE)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_many_channels_match_float64(name: str, dtype: torch.dtype) -> None:
    """Both heads over 2048 channels, forward and backward; finite at 1e4."""
    head = WIDE[name]().eval().to(dtype)
    exact = copy.deepcopy(head).double()
    x = torch.randn(1, MANY, 2, 3).to(dtype)

    def run(one: nn.Module, pixels: torch.Tensor) -> list[torch.Tensor]:
        pixels = pixels.clone().requires_grad_()
        found = scores(one, pixels)
        found.sum().backward()
        assert pixels.grad is not None
        return [found.detach().double(), pixels.grad.double()]

    for found, wanted in zip(run(head, x), run(exact, x.double()), strict=True):
        assert found.isfinite().all()
        assert (found - wanted).abs().max() <= CLOSE[dtype] * wanted.abs().max()
    head.zero_grad()
    large = run(head, (1e4 if dtype != torch.float16 else 1e2) * x.sign())  # float16 ends at 65504
    assert all(part.isfinite().all() for part in large)
    assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())
