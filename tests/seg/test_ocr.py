"""The OCR head against its equations in plain torch, and the names of its published checkpoints."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from polarpix.seg.ocr import OCRHead, gather_objects, join_maps


def test_objects_are_weighted_means_of_the_pixels() -> None:
    torch.manual_seed(0)
    features, scores = torch.randn(2, 5, 3, 4), torch.randn(2, 7, 3, 4)
    objects = gather_objects(features, scores)
    assert objects.shape == (2, 5, 7, 1)
    for c in range(7):
        weight = scores[1, c].exp() / scores[1, c].exp().sum()  # [h, w]
        torch.testing.assert_close(objects[1, :, c, 0], (features[1] * weight).sum(dim=(1, 2)))


def test_maps_are_joined_at_the_size_of_the_first() -> None:
    torch.manual_seed(0)
    maps = [torch.randn(1, 2, 8, 12), torch.randn(1, 3, 4, 6), torch.randn(1, 1, 2, 3)]
    joined = join_maps(maps)
    assert joined.shape == (1, 6, 8, 12)
    torch.testing.assert_close(joined[:, :2], maps[0])
    large = F.interpolate(maps[2], size=(8, 12), mode="bilinear", align_corners=False)
    torch.testing.assert_close(joined[:, 5:], large)


def test_the_head_step_by_step() -> None:
    torch.manual_seed(0)
    head = OCRHead(6, 4, mid=8, key=5).eval()
    for module in head.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    x = torch.randn(2, 6, 3, 7)

    def stage(prefix: str, conv: str, norm: str, x: torch.Tensor, padding: int = 0) -> torch.Tensor:
        """Convolution, normalisation with eps 1e-5, ReLU, by the names of the published checkpoints."""
        state = head.state_dict()
        x = F.conv2d(x, state[f"{prefix}.{conv}.weight"], state.get(f"{prefix}.{conv}.bias"), padding=padding)
        mean, var, weight, bias = (
            state[f"{prefix}.{norm}.0.{part}"].view(1, -1, 1, 1)
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.relu((x - mean) / (var + 1e-5).sqrt() * weight + bias)

    block = "ocr_distri_head.object_context_block"
    features = stage("conv3x3_ocr", "0", "1", x, padding=1)
    guess = head.aux_head[2](stage("aux_head", "0", "1", x))
    objects = torch.einsum("bcp,bdp->bdc", guess.flatten(2).softmax(2), features.flatten(2)).unsqueeze(3)
    query = stage(f"{block}.f_pixel", "2", "3", stage(f"{block}.f_pixel", "0", "1", features)).flatten(2)
    key = stage(f"{block}.f_object", "2", "3", stage(f"{block}.f_object", "0", "1", objects)).flatten(2)
    value = stage(f"{block}.f_down", "0", "1", objects).flatten(2)
    shares = torch.einsum("bkp,bkc->bpc", query, key).div(5**0.5).softmax(2)
    read = torch.einsum("bpc,bkc->bkp", shares, value).unflatten(2, (3, 7))
    context = stage(f"{block}.f_up", "0", "1", read)
    joined = stage("ocr_distri_head.conv_bn_dropout", "0", "1", torch.cat([context, features], 1))
    scores, first, behind = head(x)
    torch.testing.assert_close(first, guess)
    torch.testing.assert_close(behind, joined)
    torch.testing.assert_close(scores, F.conv2d(joined, head.cls_head.weight, head.cls_head.bias))


def test_only_the_published_convolutions_have_a_bias() -> None:
    head = OCRHead(6, 4, mid=8, key=5)
    biased = {
        name for name, module in head.named_modules() if isinstance(module, torch.nn.Conv2d) and module.bias is not None
    }
    assert biased == {"conv3x3_ocr.0", "cls_head", "aux_head.0", "aux_head.2"}


def test_training_drops_whole_channels() -> None:
    torch.manual_seed(0)
    head = OCRHead(6, 4, mid=8, key=5, dropout=0.5)
    _, _, features = head(torch.randn(2, 6, 3, 7))
    dropped = (features == 0).flatten(2).all(dim=2)  # [B, D]
    assert dropped.any()
    assert not dropped.all()
