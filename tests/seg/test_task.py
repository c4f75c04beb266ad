"""The segmentation task: batches from files, a loss that falls, metrics over the whole split."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from polarpix.config import SegRun
from polarpix.engine.artifact import load_artifact, load_state
from polarpix.errors import InputError
from polarpix.images import read_label
from polarpix.pages import make_run
from polarpix.seg.task import SegData, SegTask, collate

TinyPage = Callable[[str], dict[str, Any]]


@pytest.fixture
def run(tiny_page: TinyPage, tmp_path: Path) -> SegRun:
    """The tiny page, its runs below a folder of the test's own."""
    found = make_run(tiny_page("seg") | {"out": str(tmp_path / "runs")})
    assert isinstance(found, SegRun)
    return found


def test_a_training_batch(run: SegRun) -> None:
    run.data.crop_size = (48, 80)
    batch = next(iter(SegData(run).train_dataloader()))
    assert batch.image.shape == (4, 3, 48, 80)
    assert batch.label.shape == (4, 48, 80)
    assert batch.image.dtype == batch.label.dtype == torch.uint8
    assert batch.image.is_contiguous(memory_format=torch.channels_last)
    assert set(batch.label.unique().tolist()) <= {*range(7), 255}


def test_samples_depend_on_seed_epoch_and_position_alone(run: SegRun) -> None:
    crops: Any = SegData(run).train_dataloader().dataset
    same, again, later = (crops[key] for key in ((0, 1), (0, 1), (1, 1)))
    for a, b in zip(same, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (same[0] != later[0]).any()
    run.seed = 1
    assert (same[0] != SegData(run).train_dataloader().dataset[(0, 1)][0]).any()  # type: ignore[index]  # a Key


def test_class_uniform_sampling_shows_rare_classes(run: SegRun) -> None:
    run.data.crop_size, run.data.uniform = (24, 24), 1.0

    def seen(run: SegRun) -> int:
        """Crops with a foot in them (class 6), over four epochs."""
        crops: Any = SegData(run).train_dataloader().dataset
        return sum(6 in crops[epoch, position][1] for epoch in range(4) for position in range(len(crops)))

    uniform = seen(run)
    assert [path.suffix for path in (Path(run.out) / "cache").iterdir()] == [".json"]
    assert uniform == seen(run)  # by what was kept
    run.data.uniform = 0.0
    assert uniform > seen(run)


def test_evaluation_shows_whole_pictures(run: SegRun, figures: Path) -> None:
    data = SegData(run)
    labels = [batch.label[0].numpy() for batch in data.val_dataloader()]
    files = sorted((figures / "labels" / "val").iterdir())
    assert len(labels) == len(files) == 5
    for label, file in zip(labels, files, strict=True):
        np.testing.assert_array_equal(label, read_label(file))


def test_the_loss_falls_and_ignores_the_padding(run: SegRun) -> None:
    torch.manual_seed(0)
    data = SegData(run)
    task = SegTask(run, data.labels)
    task.log = lambda *_, **__: None  # type: ignore[method-assign]  # there is no trainer
    batch = next(iter(data.train_dataloader()))
    optimizer = torch.optim.Adam(task.parameters(), lr=0.01)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = task.training_step(batch, 0)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    ignored = torch.full_like(batch.label, 255)
    ignored[0, :8] = 0
    torch.manual_seed(0)
    few = task.training_step(type(batch)(batch.image, ignored, batch.index), 0)
    assert torch.isfinite(few)


def test_metrics_are_those_of_the_whole_split(run: SegRun, seg_folder: Path) -> None:
    """Counted again by hand, pixel by pixel, from the maps that the task predicts."""
    data = SegData(run)
    task = SegTask(run, data.labels).eval()
    artifact = load_artifact(seg_folder)
    load_state(task.model, artifact)
    counts = np.zeros((7, 7), np.int64)
    with torch.no_grad():
        for batch in data.val_dataloader():
            found = task.model(task.inputs(batch.image)).argmax(1)
            np.add.at(counts, (batch.label.numpy().ravel(), found.numpy().ravel()), 1)
    hit, union = counts.diagonal(), counts.sum(0) + counts.sum(1) - counts.diagonal()
    assert artifact.metrics["mIoU"] == pytest.approx((hit / union)[union > 0].mean(), abs=1e-6)
    assert artifact.metrics["pixel_accuracy"] == pytest.approx(hit.sum() / counts.sum(), abs=1e-6)
    assert set(artifact.metrics) <= set(task.metric_names)


def test_pictures_show_truth_and_prediction(run: SegRun) -> None:
    data = SegData(run)
    task = SegTask(run, data.labels).eval()
    few, more = task.pictures(data.dataset("val"), 1), task.pictures(data.dataset("val"), 99)
    assert few.dtype == np.uint8
    assert more.shape[0] * more.shape[1] > few.shape[0] * few.shape[1]


def test_a_split_that_the_page_does_not_name(run: SegRun) -> None:
    run.data.test = None
    with pytest.raises(InputError, match=r"data\.test is empty on this page"):
        SegData(run).dataset("test")


def test_collating_keeps_the_order() -> None:
    batch = collate([(np.full((4, 6, 3), i, np.uint8), np.full((4, 6), i, np.uint8), i) for i in (5, 2)])
    assert batch.index.tolist() == [5, 2]
    assert batch.image[:, 2, 3, 5].tolist() == batch.label[:, 0, 0].tolist() == [5, 2]


def cityscapes_data(root: Path, out: Path, **data: Any) -> SegData:
    """The tiny Cityscapes with its coarse pictures, in crops of 32x32."""
    page = {"format": "cityscapes", "root": str(root), "crop_size": [32, 32], "coarse": "train_extra", **data}
    run = make_run({"task": "seg", "name": "tiny", "out": str(out), "data": page})
    assert isinstance(run, SegRun)
    return SegData(run)


def test_coarse_pictures_lengthen_an_epoch_that_is_not_drawn_by_class(tiny_cityscapes: Path, tmp_path: Path) -> None:
    data = cityscapes_data(tiny_cityscapes, tmp_path)
    crops: Any = data.loader("train", 1).dataset
    assert len(crops) == 3 + 2
    assert {crops[0, position][2] for position in range(5)} == set(range(5))
    shown: Any = data.loader("val", 1).dataset
    assert len(shown) == 2


def test_coarse_pictures_are_drawn_by_their_classes(tiny_cityscapes: Path, tmp_path: Path) -> None:
    def drawn(**data: Any) -> set[int]:
        crops: Any = cityscapes_data(tiny_cityscapes, tmp_path, uniform=1.0, **data).loader("train", 1).dataset
        assert len(crops) == 3
        return {crops[epoch, position][2] for epoch in range(60) for position in range(3)}

    assert drawn() == set(range(5))
    assert drawn(coarse_classes=[]) == set(range(3))


def test_the_centre_crop_is_what_is_evaluated(run: SegRun) -> None:
    run.eval.centre_crop = 40
    batch = next(iter(SegData(run).val_dataloader()))
    assert batch.image.shape == (1, 3, 40, 40)
    assert batch.label.shape == (1, 40, 40)
