from __future__ import annotations

import pytest
import torch
from torch import Tensor

from polarpix.config import SegEvalConfig, SegModelConfig
from polarpix.errors import InputError
from polarpix.page_parts import BackboneConfig
from polarpix.seg.model import build_seg_model
from polarpix.seg.multiscale import predict_probabilities
from polarpix.seg.sliding import whole

CROP = (8, 8)


def pixelwise(image: Tensor) -> Tensor:
    return image * 2


def image_of(seed: int = 0, size: tuple[int, int] = (12, 16)) -> Tensor:
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("mode", ["whole", "sliding"])
@pytest.mark.parametrize("flip", [False, True])
def test_scale_1_of_a_pixelwise_network_is_the_whole_image(mode, flip):
    found = predict_probabilities(pixelwise, image_of(), SegEvalConfig(mode=mode, flip=flip), CROP)
    torch.testing.assert_close(found, whole(pixelwise, image_of()))


def test_flip_averages_with_the_mirrored_answer():
    def shifting(image: Tensor) -> Tensor:
        return image.roll(1, dims=3)

    image = image_of()
    found = predict_probabilities(shifting, image, SegEvalConfig(flip=True), CROP)
    expected = (image.roll(1, dims=3).softmax(1) + image.roll(-1, dims=3).softmax(1)) / 2
    torch.testing.assert_close(found, expected)


def test_every_scale_is_looked_at_and_counts_equally():
    seen = []

    def network(image: Tensor) -> Tensor:
        """Sure of class 0 on large images and of class 1 on others."""
        seen.append(tuple(image.shape[2:]))
        logits = torch.zeros(1, 2, *image.shape[2:])
        logits[:, 0 if image.shape[3] > 16 else 1] = 50
        return logits

    found = predict_probabilities(network, image_of(), SegEvalConfig(scales=[0.5, 1.0, 1.75]), CROP)
    assert seen == [(6, 8), (12, 16), (21, 28)]
    torch.testing.assert_close(found[0, :, 5, 5], torch.tensor([1 / 3, 2 / 3]))
    assert found.shape == (1, 2, 12, 16)


def test_scaled_answers_lie_on_the_image():
    ramp = torch.linspace(-3, 3, 64).expand(1, 1, 32, 64)
    image = torch.cat([ramp, 0 * ramp, -ramp], dim=1)  # [1, 3, 32, 64]
    truth = whole(pixelwise, image)
    for scale in (0.5, 0.75, 2.0):
        found = predict_probabilities(pixelwise, image, SegEvalConfig(scales=[scale]), CROP)
        assert (found - truth)[..., 4:-4].abs().max() < 0.01  # one pixel of shift would be 0.047


def test_the_window_is_the_crop_unless_it_is_named():
    seen = set()

    def network(image: Tensor) -> Tensor:
        seen.add(tuple(image.shape[2:]))
        return pixelwise(image)

    predict_probabilities(network, image_of(), SegEvalConfig(mode="sliding", scales=[0.25, 1, 2]), CROP)
    assert seen == {CROP}
    seen.clear()
    predict_probabilities(network, image_of(), SegEvalConfig(mode="sliding", window=(5, 6)), CROP)
    assert seen == {(5, 6)}


def test_a_tiny_image_survives_a_small_scale():
    found = predict_probabilities(pixelwise, image_of(size=(1, 1)), SegEvalConfig(scales=[0.25]), CROP)
    assert found.shape == (1, 3, 1, 1)


@pytest.mark.parametrize(
    ("protocol", "match"),
    [
        (SegEvalConfig(scales=[]), "scales"),
        (SegEvalConfig(scales=[1.0, 0.0]), "scales"),
        (SegEvalConfig(mode="tiles"), "'tiles': use whole or sliding"),  # type: ignore[arg-type]
    ],
)
def test_impossible_protocols_are_refused(protocol, match):
    with pytest.raises(InputError, match=match):
        predict_probabilities(pixelwise, image_of(), protocol, CROP)


def hierarchical() -> torch.nn.Module:
    torch.manual_seed(0)
    backbone = BackboneConfig(name="test_resnet", attention="none")
    return build_seg_model(SegModelConfig(backbone, head="hierarchical_ocr", ocr_channels=(8, 4)), 3).eval()


@torch.no_grad()
def test_a_hierarchical_network_is_given_the_scales_to_fuse():
    network, image = hierarchical(), image_of(size=(64, 96))
    found = predict_probabilities(network, image, SegEvalConfig(scales=[0.5, 1.0, 2.0]), CROP)
    torch.testing.assert_close(found, network(image, scales=[0.5, 1.0, 2.0]).softmax(1))
    mean = sum(network(image, scales=[1.0]) for _ in range(2)) / 2
    assert not torch.allclose(found, mean.softmax(1))
    flipped = predict_probabilities(network, image, SegEvalConfig(scales=[1.0, 2.0], flip=True), CROP)
    both = [network(x, scales=[2.0, 1.0]).softmax(1) for x in (image, image.flip(3))]
    torch.testing.assert_close(flipped, (both[0] + both[1].flip(3)) / 2)


@torch.no_grad()
def test_a_hierarchical_network_fuses_inside_of_each_window():
    network, image = hierarchical(), image_of(size=(64, 64))
    protocol = SegEvalConfig(mode="sliding", window=(64, 64), scales=[0.5, 1.0])
    torch.testing.assert_close(predict_probabilities(network, image, protocol, CROP), network(image).softmax(1))


def test_a_hierarchical_network_needs_scale_1():
    with pytest.raises(InputError, match=r"eval\.scales is \[0\.5, 2\.0\]"):
        predict_probabilities(hierarchical(), image_of(size=(64, 64)), SegEvalConfig(scales=[0.5, 2.0]), CROP)
