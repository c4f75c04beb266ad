"""The pose task: batches from files, a loss that falls, one path for evaluation and pictures."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from polarpix.config import PoseRun
from polarpix.errors import InputError
from polarpix.pages import make_run
from polarpix.pose.task import PoseData, PoseTask, collate, gather, run_codec

TinyPage = Callable[[str], dict[str, Any]]


@pytest.fixture
def run(tiny_page: TinyPage) -> PoseRun:
    """The tiny page."""
    found = make_run(tiny_page("pose"))
    assert isinstance(found, PoseRun)
    return found


def test_a_training_batch(run: PoseRun) -> None:
    batch = next(iter(PoseData(run).train_dataloader()))
    assert batch.image.shape == (4, 3, 64, 64)
    assert batch.image.dtype == torch.uint8
    assert batch.image.is_contiguous(memory_format=torch.channels_last)
    assert batch.target.shape == (4, 14, 16, 16)
    assert batch.weight.shape == (4, 14)
    assert batch.to_image.shape == (4, 2, 3)
    assert batch.target.dtype == batch.weight.dtype == batch.to_image.dtype == torch.float32
    assert len(set(batch.index.tolist())) == 4
    assert 0 < float(batch.target.amax()) <= 1
    assert not batch.target[batch.weight == 0].any()


def test_samples_depend_on_seed_epoch_and_position_alone(run: PoseRun) -> None:
    crops = PoseData(run).train_dataloader().dataset
    same, again, later, other = (crops[key] for key in ((0, 1), (0, 1), (1, 1), (0, 2)))  # type: ignore[index]  # Key
    np.testing.assert_array_equal(same[0], again[0])
    np.testing.assert_array_equal(same[1], again[1])
    assert (same[0] != later[0]).any()
    assert (same[0] != other[0]).any()
    assert same[4] == later[4] == 1


def test_evaluation_batches_visit_all_unaugmented(run: PoseRun) -> None:
    data = PoseData(run)
    first, second = (torch.cat([batch.image for batch in data.val_dataloader()]) for _ in range(2))
    assert len(first) == len(data.dataset("val")) == 9
    assert torch.equal(first, second)


def test_targets_and_decoding_agree_through_the_task(run: PoseRun) -> None:
    """The targets of the validation split, decoded and mapped back, are its annotations."""
    data = PoseData(run)
    codec = run_codec(run)
    for batch in data.val_dataloader():
        points, _ = codec.decode(batch.target)
        image = points @ batch.to_image[:, :, :2].transpose(1, 2) + batch.to_image[:, None, :, 2]
        for row, index in enumerate(batch.index.tolist()):
            seen = batch.weight[row].bool()
            truth = torch.from_numpy(data.dataset("val").instances[index].keypoints)
            assert (image[row][seen] - truth[seen]).norm(dim=-1).max() < 0.6


def test_the_loss_falls(run: PoseRun) -> None:
    torch.manual_seed(0)
    data = PoseData(run)
    task = PoseTask(run, data.labels)
    task.log = lambda *_, **__: None  # type: ignore[method-assign]  # there is no trainer
    batch = next(iter(data.train_dataloader()))
    optimizer = torch.optim.Adam(task.parameters(), lr=0.01)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = task.training_step(batch, 0)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_pictures_show_truth_and_prediction(run: PoseRun) -> None:
    data = PoseData(run)
    task = PoseTask(run, data.labels).eval()
    few, more = task.pictures(data.dataset("val"), 1), task.pictures(data.dataset("val"), 4)
    assert few.dtype == np.uint8
    assert few.ndim == 3
    assert more.shape[0] * more.shape[1] > few.shape[0] * few.shape[1]
    assert task.pictures(data.dataset("val"), 99).shape[0] > more.shape[0]


def test_locating_needs_no_labels(run: PoseRun) -> None:
    task = PoseTask(run, PoseData(run).labels).eval()
    image = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    shift = torch.tensor([[1.0, 0, 10], [0, 1, 20]])
    with torch.no_grad():
        here, *_ = task.locate(image, torch.eye(2, 3).expand(2, 2, 3))
        there, *_ = task.locate(image, shift.expand(2, 2, 3))
    torch.testing.assert_close(there, here + torch.tensor([10.0, 20.0]))


def test_metric_names_are_those_of_the_protocol(run: PoseRun) -> None:
    task = PoseTask(run, PoseData(run).labels)
    assert {"AP", "AR", "mean_error", "PCK@0.2", "PCK@0.2/neck"} <= set(task.metric_names)
    run.eval.boxes = "boxes.json"
    assert "mean_error" not in task.metric_names


def test_a_reference_that_the_skeleton_does_not_have(run: PoseRun) -> None:
    run.eval.pck_reference = ["neck", "tail"]
    with pytest.raises(InputError, match=r"eval\.pck_reference is \['neck', 'tail'\]: give two of head_top, neck"):
        _ = PoseTask(run, PoseData(run).labels).metric_names


def test_a_split_of_another_skeleton(run: PoseRun, figures: Path, tmp_path: Path) -> None:
    page = json.loads((figures / "annotations" / "val.json").read_text())
    page["categories"][0]["keypoints"][0] = "hat"
    run.data.val_annotations = str(tmp_path / "val.json")
    (tmp_path / "val.json").write_text(json.dumps(page))
    data = PoseData(run)
    data.dataset("train")
    with pytest.raises(InputError, match=r"val\.json: its keypoints \(hat, neck, .*not those of .*train\.json"):
        data.dataset("val")


def test_a_split_that_the_page_does_not_name(run: PoseRun) -> None:
    run.data.test_images = None
    with pytest.raises(InputError, match="test_images is empty on this page"):
        PoseData(run).dataset("test")


def test_one_process_gathers_its_own() -> None:
    parts = [(torch.arange(2), torch.zeros(2, 3, 2), torch.zeros(2, 3))]
    assert gather(parts) is parts


def test_collating_keeps_the_order() -> None:
    items = [
        (
            np.full((4, 4, 3), i, np.uint8),
            np.zeros((1, 2, 2), np.float32),
            np.ones(1, np.float32),
            np.eye(2, 3, dtype=np.float32),
            i,
        )
        for i in (5, 2)
    ]
    batch = collate(items)
    assert batch.index.tolist() == [5, 2]
    assert batch.image[:, 0, 0, 0].tolist() == [5, 2]
