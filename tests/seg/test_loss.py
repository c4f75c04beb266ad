from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from polarpix.errors import InputError
from polarpix.seg.loss import SEG_LOSSES, SIDE_LOSSES, cross_entropy, ohem_cross_entropy, seg_loss, training_loss
from polarpix.seg.model import SegOutputs
from polarpix.seg.rmi import binary_cross_entropy

PIXELWISE = [name for name in SEG_LOSSES if name != "rmi"]


def logits_for(probabilities: list[float]) -> torch.Tensor:
    """Logits [1, 2, 1, N] whose class 0 has these probabilities."""
    p = torch.tensor(probabilities, dtype=torch.float32)
    return torch.stack([p.log(), (1 - p).log()])[None, :, None, :]


def test_cross_entropy_is_the_mean_over_the_labelled_pixels():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 5, 6, generator=generator)
    label = torch.randint(0, 4, (2, 5, 6), generator=generator).to(torch.uint8)
    label[:, 0] = 200
    expected = F.cross_entropy(logits[:, :, 1:], label[:, 1:].long())
    torch.testing.assert_close(cross_entropy(logits, label, 200), expected)
    torch.testing.assert_close(cross_entropy(logits, label.long(), 200), expected)


@pytest.mark.parametrize("name", PIXELWISE)
def test_a_batch_without_labels_costs_0_and_moves_nothing(name):
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = seg_loss(name)(logits, torch.full((2, 4, 4), 255, dtype=torch.uint8), 255)
    assert loss.item() == 0
    loss.backward()
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("name", PIXELWISE)
def test_half_precision_logits_are_summed_in_single(name):
    logits = torch.zeros(1, 2, 300, 300, dtype=torch.float16)  # the sum of 90,000 losses passes 65,504
    logits[:, 1] = 3
    loss = seg_loss(name)(logits, torch.zeros(1, 300, 300, dtype=torch.uint8), 255)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(3.0486, abs=1e-3)


def test_ohem_keeps_the_pixels_below_the_threshold():
    probabilities = [0.9, 0.6, 0.2, 0.95, 0.1]
    label = torch.tensor([[[0, 0, 0, 0, 255]]], dtype=torch.uint8)
    loss = ohem_cross_entropy(logits_for(probabilities), label, threshold=0.7, min_kept=1)
    torch.testing.assert_close(loss, -torch.tensor([0.6, 0.2]).log().mean())


def test_ohem_keeps_the_hardest_where_too_few_are_hard():
    label = torch.zeros(1, 1, 4, dtype=torch.uint8)
    loss = ohem_cross_entropy(logits_for([0.99, 0.9, 0.8, 0.95]), label, threshold=0.7, min_kept=2)
    torch.testing.assert_close(loss, -torch.tensor([0.9, 0.8]).log().mean())
    everything = ohem_cross_entropy(logits_for([0.99, 0.9]), label[..., :2], threshold=0.7, min_kept=100)
    torch.testing.assert_close(everything, -torch.tensor([0.99, 0.9]).log().mean())


def test_ohem_keeps_a_sixteenth_when_nothing_is_said():
    label = torch.zeros(1, 1, 32, dtype=torch.uint8)
    loss = ohem_cross_entropy(logits_for([0.99] * 29 + [0.8, 0.9, 0.95]), label)
    torch.testing.assert_close(loss, -torch.tensor([0.8, 0.9]).log().mean())


def test_unknown_loss_lists_the_table():
    with pytest.raises(InputError, match="'dice': use one of ce, ohem, rmi"):
        seg_loss("dice")


@pytest.mark.parametrize("name", list(SEG_LOSSES))
def test_the_training_loss_weighs_its_outputs(name):
    torch.manual_seed(0)
    main, aux, low, high = torch.randn(4, 2, 3, 12, 12).unbind()
    label = torch.randint(0, 3, (2, 12, 12)).to(torch.uint8)
    label[:, :3] = 255
    side = {"ce": cross_entropy, "ohem": ohem_cross_entropy, "rmi": binary_cross_entropy}[name]
    assert SIDE_LOSSES[name] is side
    parts = [side(one, label, 255) for one in (aux, low, high)]
    found = training_loss(SegOutputs(main, aux, (low, high)), label, 255, name, 0.4, 0.05)
    torch.testing.assert_close(found, seg_loss(name)(main, label, 255) + 0.4 * parts[0] + 0.05 * (parts[1] + parts[2]))
    alone = seg_loss(name)(main, label, 255)
    torch.testing.assert_close(training_loss(SegOutputs(main, aux, (low, high)), label, 255, name, 0, 0), alone)
    torch.testing.assert_close(training_loss(SegOutputs(main), label, 255, name, 0.4, 0.05), alone)
