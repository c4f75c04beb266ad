"""Region mutual information against its formula in numpy, one neighbourhood after the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from polarpix.errors import InputError
from polarpix.seg.rmi import binary_cross_entropy, region_information, rmi_loss


def random_batch(classes: int = 3, size: tuple[int, int] = (21, 26)) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, classes, *size, generator=generator)
    label = torch.randint(0, classes, (2, *size), generator=generator).to(torch.uint8)
    label[:, :4, :9] = 255
    return logits, label


def slow_points(plane: np.ndarray) -> np.ndarray:
    """Neighbourhoods [N, 9] of the means over 4x4 cells of one padded plane [H, W]."""
    padded = np.pad(plane, 2)
    cells = np.array(
        [
            [padded[4 * i : 4 * i + 4, 4 * j : 4 * j + 4].mean() for j in range((plane.shape[1] + 4) // 4)]
            for i in range((plane.shape[0] + 4) // 4)
        ]
    )
    rows, columns = cells.shape
    return np.array([cells[i : i + 3, j : j + 3].ravel() for i in range(rows - 2) for j in range(columns - 2)])


def slow_information(truth: np.ndarray, probabilities: np.ndarray) -> float:
    total = 0.0
    for c in range(truth.shape[1]):
        for b in range(truth.shape[0]):
            y, p = slow_points(truth[b, c]), slow_points(probabilities[b, c])
            y, p = y - y.mean(axis=0), p - p.mean(axis=0)
            left = y.T @ y - y.T @ p @ np.linalg.inv(p.T @ p + 5e-4 * np.eye(9)) @ p.T @ y
            _, log_det = np.linalg.slogdet(left + 5e-4 * np.eye(9))
            total += 0.5 * log_det / 9 / truth.shape[0]
    return total


def test_the_formula_step_by_step() -> None:
    logits, label = random_batch()
    known = (label != 255).numpy()
    truth = np.stack([(label.numpy() == c) & known for c in range(3)], axis=1).astype(float)
    probabilities = 1 / (1 + np.exp(-logits.double().numpy())) * known[:, None] + 1e-6
    found = region_information(torch.tensor(truth), torch.tensor(probabilities))
    assert found.item() == pytest.approx(slow_information(truth, probabilities), rel=1e-6)
    p = np.clip(probabilities - 1e-6, 1e-12, 1 - 1e-12)
    entropy = -(truth * np.log(p) + (1 - truth) * np.log(1 - p)) * known[:, None]
    binary = entropy.sum() / (known.sum() + 1)
    assert binary_cross_entropy(logits, label).item() == pytest.approx(binary, rel=1e-5)
    assert rmi_loss(logits, label).item() == pytest.approx(0.5 * binary + 0.5 * found.item(), rel=1e-4)


def test_predictions_that_follow_the_labels_leave_less_open() -> None:
    _, label = random_batch()
    label = label[:, ::7, ::7].repeat_interleave(7, 1).repeat_interleave(7, 2)  # patches of one class
    right = torch.nn.functional.one_hot(label.long().clamp(max=2), 3).permute(0, 3, 1, 2).float()
    wrong = right.flip(3)
    assert region_information(right, 0.8 * right + 0.1) < region_information(right, 0.8 * wrong + 0.1) - 0.5


def test_the_gradient_is_that_of_the_formula() -> None:
    logits, label = random_batch(2, (12, 10))
    logits = logits.double().requires_grad_()
    truth = torch.nn.functional.one_hot(label.long().clamp(max=1), 2).permute(0, 3, 1, 2).double()
    region_information(truth, logits.sigmoid()).backward()
    assert logits.grad is not None
    place, step = (1, 0, 6, 5), 1e-4
    with torch.no_grad():
        up, down = logits.clone(), logits.clone()
        up[place] += step
        down[place] -= step
        values = [slow_information(truth.numpy(), x.sigmoid().numpy()) for x in (up, down)]
    assert logits.grad[place].item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-3)


def test_an_unlabelled_batch_moves_nothing() -> None:
    logits, label = random_batch()
    logits.requires_grad_()
    loss = rmi_loss(logits, torch.full_like(label, 255))
    loss.backward()
    assert torch.isfinite(loss)
    assert logits.grad is not None
    assert not logits.grad.any()


def test_pictures_too_small_for_a_region() -> None:
    logits, label = random_batch()
    with pytest.raises(InputError, match=r"loss rmi on 7x26 pixels: .* raise data\.crop_size"):
        rmi_loss(logits[:, :, :7], label[:, :7])
    assert torch.isfinite(rmi_loss(logits[:, :, :8], label[:, :8]))


def test_mixed_precision_does_not_reach_the_covariances() -> None:
    logits, label = random_batch()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = rmi_loss(logits, label)
    torch.testing.assert_close(mixed, rmi_loss(logits, label))
    assert torch.isfinite(rmi_loss(logits.bfloat16(), label))
