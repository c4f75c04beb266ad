"""What the servers get, read back by the tools of the sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling
from PIL import Image

from polarpix.config import SegRun
from polarpix.errors import InputError
from polarpix.seg.classes import VOC
from polarpix.seg.datasets import SegDataset, build_seg_dataset
from polarpix.seg.miou import ConfusionMatrix
from polarpix.seg.submission import Submission


def page_of(name: str, root: Path) -> SegRun:
    run = SegRun("tiny")
    run.data.format, run.data.root, run.data.test = name, str(root), "test"  # type: ignore[assignment]  # as on a page
    return run


def guesses(dataset: SegDataset, seed: int = 0) -> list[np.ndarray]:
    """Labels of which a third is wrong."""
    rng = np.random.default_rng(seed)
    found = []
    for position in range(len(dataset)):
        label = dataset[position].label.copy()
        wrong = (rng.random(label.shape) < 1 / 3) | (label == 255)
        label[wrong] = rng.integers(0, len(dataset.classes.names), int(wrong.sum()))
        found.append(label)
    return found


@pytest.mark.parametrize("name", ["voc", "voc_aug"])
@pytest.mark.parametrize("split", ["val", "test"])
def test_voc_gets_palette_pictures_in_its_folders(tiny_voc: Path, tmp_path: Path, name: str, split: str) -> None:
    run = page_of(name, tiny_voc)
    dataset = build_seg_dataset(run.data, split)
    submission = Submission(run, split, dataset, tmp_path)
    labels = guesses(dataset)
    for position, label in enumerate(labels):
        submission.write(position, label)
    folder = tmp_path / "results" / "VOC2012" / "Segmentation" / f"comp6_{split}_cls"
    listed = (tiny_voc / f"VOCdevkit/VOC2012/ImageSets/Segmentation/{split}.txt").read_text().split()
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"{stem}.png" for stem in listed)
    for stem, label in zip(listed, labels, strict=True):
        with Image.open(folder / f"{stem}.png") as picture:
            assert picture.mode == "P"
            np.testing.assert_array_equal(np.asarray(picture), label)
            palette = np.array(picture.getpalette()).reshape(-1, 3)
            np.testing.assert_array_equal(palette[: len(VOC.colors)], VOC.colors)
            assert palette[255].tolist() == [224, 224, 192]  # void


def test_cityscapes_gets_label_ids_that_its_own_tool_scores_alike(tiny_cityscapes: Path, tmp_path: Path) -> None:
    run = page_of("cityscapes", tiny_cityscapes)
    dataset = build_seg_dataset(run.data, "val")
    submission = Submission(run, "val", dataset, tmp_path)
    matrix = ConfusionMatrix(len(dataset.classes.names))
    for position, label in enumerate(guesses(dataset)):
        submission.write(position, label)
        matrix.update(torch.from_numpy(label), torch.from_numpy(dataset[position].label))
    args = evalPixelLevelSemanticLabeling.args
    args.evalInstLevelScore, args.JSONOutput, args.quiet = False, False, True
    args.predictionPath, args.predictionWalk = str(tmp_path), None
    truths = [str(label) for _, label in dataset.files]
    predictions = [evalPixelLevelSemanticLabeling.getPrediction(args, truth) for truth in truths]
    found = evalPixelLevelSemanticLabeling.evaluateImgLists(predictions, truths, args)
    scores = matrix.compute()
    assert found["averageScoreClasses"] == pytest.approx(scores.miou, abs=1e-9)
    for name, iou in zip(dataset.classes.names, scores.iou, strict=True):
        assert found["classScores"][name] == pytest.approx(iou, abs=1e-9, nan_ok=True)


def test_what_no_server_takes(tiny_voc: Path, tmp_path: Path) -> None:
    run = page_of("voc", tiny_voc)
    dataset = build_seg_dataset(run.data, "val")
    run.eval.centre_crop = 513
    with pytest.raises(InputError, match=r"whole pictures: add --eval\.centre_crop null"):
        Submission(run, "val", dataset, tmp_path)
    run.data.format = "camvid"
    with pytest.raises(InputError, match="'camvid', servers are known for voc, voc_aug, cityscapes"):
        Submission(run, "val", dataset, tmp_path)
