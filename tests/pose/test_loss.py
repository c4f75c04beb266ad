"""Losses on heatmaps, against values worked out by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polarpix.errors import InputError
from polarpix.pose.loss import POSE_LOSSES, heatmap_mse, heatmap_offset, heatmap_ohkm, pose_loss


def maps(*values: float) -> torch.Tensor:
    """[1, K, 2, 2], each heatmap constant."""
    return torch.tensor(values).reshape(1, -1, 1, 1).expand(1, len(values), 2, 2)


def test_mse_by_hand() -> None:
    pred, target = maps(1.0, 2.0, 3.0), maps(0.0, 0.0, 0.0)
    assert heatmap_mse(pred, target, torch.ones(1, 3)) == pytest.approx(0.5 * (1 + 4 + 9) / 3)
    assert heatmap_mse(pred, target, torch.tensor([[1.0, 0.0, 1.0]])) == pytest.approx(0.5 * (1 + 9) / 3)
    assert heatmap_mse(pred, target, torch.tensor([[2.0, 0.0, 0.0]])) == pytest.approx(0.5 * 4 / 3)
    one_pixel = torch.zeros(1, 1, 2, 2)
    one_pixel[0, 0, 1, 0] = 2.0
    assert heatmap_mse(one_pixel, torch.zeros(1, 1, 2, 2), torch.ones(1, 1)) == pytest.approx(0.5 * 4 / 4)


def test_offset_loss_by_hand() -> None:
    """Two keypoints of three maps; the offsets of the second lie outside of its disk and do not count."""
    pred = maps(0.5, 1.0, -1.0, 2.0, 9.0, 9.0)
    target = maps(1.0, 0.0, 1.0, 0.0, 0.0, 0.0)
    want = 0.5 * (0.25 + 4) / 2 + 0.5 * 1 / 2 + 0.5 * 4 / 2
    assert heatmap_offset(pred, target, torch.ones(1, 2)) == pytest.approx(want)
    hidden = heatmap_offset(pred, target, torch.tensor([[1.0, 0.0]]))
    assert hidden == pytest.approx(want - 0.5 * 4 / 2)
    half = target.clone()
    half[0, 0, 0] = 0.0  # half of the disk
    assert heatmap_offset(maps(0, 1, 0, 0, 0, 0), half, torch.ones(1, 2)) == pytest.approx(
        0.25 / 2 + 0.25 / 2 + 0.25 / 2
    )


def test_ohkm_takes_the_hardest() -> None:
    pred, target = maps(1.0, 2.0, 3.0), maps(0.0, 0.0, 0.0)
    assert heatmap_ohkm(pred, target, torch.ones(1, 3), hardest=2) == pytest.approx(0.5 * (4 + 9) / 2)
    assert heatmap_ohkm(pred, target, torch.tensor([[1.0, 1.0, 0.0]]), hardest=1) == pytest.approx(0.5 * 4)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31), k=st.integers(1, 12), hardest=st.integers(1, 12))
def test_ohkm_lies_between_mean_and_worst(seed: int, k: int, hardest: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    pred, target = (torch.randn(3, k, 4, 5, generator=draw) for _ in range(2))
    weight = torch.randint(0, 2, (3, k), generator=draw).float()
    mean = float(heatmap_mse(pred, target, weight))
    hard = float(heatmap_ohkm(pred, target, weight, hardest))
    worst = float(heatmap_ohkm(pred, target, weight, 1))
    assert mean <= hard + 1e-6
    assert hard <= worst + 1e-6
    assert float(heatmap_ohkm(pred, target, weight, k)) == pytest.approx(mean, rel=1e-5)


@pytest.mark.parametrize("name", POSE_LOSSES)
def test_what_is_not_labelled_teaches_nothing(name: str) -> None:
    each = 3 if name == "offset" else 1
    pred = torch.randn(2, 3 * each, 4, 4, requires_grad=True)
    weight = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    target = weight.repeat_interleave(each, 1)[..., None, None].expand_as(pred)  # empty where nothing is labelled
    pose_loss(name)(pred, target, weight).backward()
    assert pred.grad is not None
    taught = (pred.grad.abs().sum(dim=(2, 3)) > 0).reshape(2, 3, each)
    assert taught.tolist() == [[[True] * each, [False] * each, [True] * each], [[False] * each] * 3]


def test_half_precision_is_summed_in_full() -> None:
    pred = torch.full((1, 1, 64, 64), 300.0, dtype=torch.float16)
    loss = heatmap_mse(pred, torch.zeros(1, 1, 64, 64), torch.ones(1, 1))
    assert loss.dtype == torch.float32
    assert loss == pytest.approx(45000.0)


def test_what_does_not_fit() -> None:
    with pytest.raises(InputError, match="loss is 'l1': choose one of mse, ohkm, offset"):
        pose_loss("l1")
    with pytest.raises(ValueError, match=r"both must be \[B, K, h, w\]"):
        heatmap_mse(torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 2, 2), torch.ones(1, 1))
