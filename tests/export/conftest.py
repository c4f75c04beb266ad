"""A network that stands in for a pose network: its maps are those of no training, but smooth."""

import pytest
import torch
from torch import Tensor, nn


class Maps(nn.Module):
    """Smooth maps of a crop, as many as a codec reads."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(outputs, 3, 5, 5, generator=generator) * 0.05)

    def forward(self, image: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, outputs, H / 4, W / 4]."""
        return nn.functional.conv2d(nn.functional.avg_pool2d(image, 4), self.weight, padding=2)


@pytest.fixture
def maps() -> type[Maps]:
    """That network, called with the number of its maps."""
    return Maps
