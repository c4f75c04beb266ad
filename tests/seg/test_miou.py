from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling import args, getIouScoreForLabel
from cityscapesscripts.helpers.labels import id2label
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from polarpix.seg.classes import CITYSCAPES, cityscapes_label_ids
from polarpix.seg.miou import ConfusionMatrix, SegScores
from polarpix.types import ClassTable

C, IGNORE = 4, 9
shapes = st.tuples(st.integers(1, 6), st.integers(1, 6))


def scores(pred: np.ndarray, label: np.ndarray) -> SegScores:
    matrix = ConfusionMatrix(C, IGNORE)
    matrix.update(torch.from_numpy(pred), torch.from_numpy(label))
    return matrix.compute()


@settings(max_examples=100, deadline=None)
@given(data=st.data(), shape=shapes)
def test_scores_are_those_of_the_pixel_sets(data, shape):
    pred = data.draw(arrays(np.uint8, shape, elements=st.integers(0, C - 1)))
    label = data.draw(arrays(np.uint8, shape, elements=st.sampled_from([*range(C), IGNORE])))
    pixels = [p for p in np.ndindex(*shape) if label[p] != IGNORE]
    found = scores(pred, label)
    assert found.pixels == len(pixels)
    if not pixels:
        assert math.isnan(found.miou)
        assert math.isnan(found.pixel_accuracy)
        assert math.isnan(found.fw_iou)
        return
    ious, recalls, weighted = {}, {}, 0.0
    for c in range(C):
        truth = {p for p in pixels if label[p] == c}
        guess = {p for p in pixels if pred[p] == c}
        if truth | guess:
            ious[c] = len(truth & guess) / len(truth | guess)
            assert found.iou[c] == pytest.approx(ious[c])
            weighted += ious[c] * len(truth) / len(pixels)
        else:
            assert math.isnan(found.iou[c])
        if truth:
            recalls[c] = len(truth & guess) / len(truth)
    assert found.miou == pytest.approx(np.mean(list(ious.values())))
    assert found.mean_accuracy == pytest.approx(np.mean(list(recalls.values())))
    assert found.fw_iou == pytest.approx(weighted)
    assert found.pixel_accuracy == pytest.approx(np.mean([pred[p] == label[p] for p in pixels]))


def test_iou_agrees_with_the_official_cityscapes_evaluation(monkeypatch):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 19, (40, 50)).astype(np.uint8)
    pred = np.where(rng.random((40, 50)) < 0.6, truth, rng.integers(0, 19, (40, 50))).astype(np.uint8)
    truth[:5] = 255
    matrix = ConfusionMatrix(19)
    matrix.update(torch.from_numpy(pred), torch.from_numpy(truth))
    found = matrix.compute()

    counts = np.zeros((34, 34), np.int64)  # by label id
    np.add.at(counts, (cityscapes_label_ids(truth).ravel(), cityscapes_label_ids(pred).ravel()), 1)
    monkeypatch.setattr(args, "evalLabels", sorted(i for i in id2label if i >= 0))
    for name, iou in zip(CITYSCAPES.names, found.iou, strict=True):
        label = next(row.id for row in id2label.values() if row.name == name)
        assert iou == pytest.approx(getIouScoreForLabel(label, counts, args))


def test_rows_are_truth_and_counts_add_up_over_updates_and_merges():
    first, second = ConfusionMatrix(C, IGNORE), ConfusionMatrix(C, IGNORE)
    first.update(torch.tensor([1, 1]), torch.tensor([0, IGNORE]))
    first.update(torch.tensor([1]), torch.tensor([0]))
    second.update(torch.tensor([3]), torch.tensor([2]))
    first.merge(second)
    assert first.counts.dtype == torch.int64
    assert first.counts[0, 1] == 2
    assert first.counts[2, 3] == 1
    assert first.counts.sum() == 3
    first.reset()
    assert not first.counts.any()


def test_the_mean_is_over_the_data_set_not_over_images():
    matrix = ConfusionMatrix(2)
    matrix.update(torch.zeros(1, 100, dtype=torch.int64), torch.zeros(1, 100, dtype=torch.uint8))
    matrix.update(torch.tensor([[0, 1]]), torch.tensor([[1, 1]], dtype=torch.uint8))
    assert matrix.compute().iou == pytest.approx((100 / 101, 1 / 2))


def test_a_class_only_predicted_counts_as_0_and_an_absent_one_not_at_all():
    found = scores(np.array([0, 2]), np.array([0, 0]))
    assert found.iou[:1] == (0.5,)
    assert math.isnan(found.iou[1])
    assert found.iou[2] == 0
    assert found.miou == 0.25
    assert found.mean_accuracy == 0.5
    table = ClassTable(tuple("abcd"), ((0, 0, 0),) * 4)
    assert found.metrics(table) == {
        "mIoU": 0.25,
        "pixel_accuracy": 0.5,
        "mean_accuracy": 0.5,
        "fw_IoU": 0.5,
        "IoU/a": 0.5,
        "IoU/c": 0.0,
    }


@pytest.mark.parametrize(
    ("pred", "label", "match"),
    [
        ([4], [0], r"prediction holds 4\.\.4: must lie in 0\.\.3"),
        ([-1], [0], "prediction holds -1"),
        ([0], [5], "label holds 5"),
        ([0, 1], [0], "must agree"),
    ],
)
def test_values_that_would_land_in_another_cell_are_refused(pred, label, match):
    with pytest.raises(ValueError, match=match):
        ConfusionMatrix(C, IGNORE).update(torch.tensor(pred), torch.tensor(label))


def test_processes_are_summed(monkeypatch):
    matrix = ConfusionMatrix(2)
    matrix.update(torch.tensor([0, 1]), torch.tensor([0, 0]))
    matrix.all_reduce()
    assert matrix.counts.sum() == 2  # one process: nothing to add
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: "gloo")
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda counts: counts.mul_(3))
    matrix.all_reduce()
    assert matrix.counts.tolist() == [[3, 3], [0, 0]]
