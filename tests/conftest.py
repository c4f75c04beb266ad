"""What many tests share: a small set of drawn figures, small pages, and one trained run of each task."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
import yaml

from polarpix import commands
from polarpix.demo.figures import FIGURE_CLASSES, write_figures
from polarpix.images import read_image
from polarpix.pages import load_page
from polarpix.psa import loops

if TYPE_CHECKING:
    from polarpix.export.run import Export
    from polarpix.predict import PosePredictor, SegPredictor

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before the kernels are imported, which happens inside functions

TinyPage = Callable[[str], dict[str, Any]]

BACKBONE = {
    "name": "test_resnet",
    "weights": None,
    "output_stride": 32,
    "attention": "psa_p",
    "attention_options": {},
    "places": None,
    "frozen_stages": 0,
    "freeze_norm": False,
}
OPTIM = {"name": "adamw", "lr": 0.01, "weight_decay": 0.0001, "schedule": "cosine", "warmup": 0.5}
ENGINE = {
    "epochs": 2,
    "batch_size": 4,
    "accelerator": "cpu",
    "devices": 1,
    "workers": 0,
    "pictures": 2,
}
PAGES: dict[str, dict[str, Any]] = {
    "pose": {
        "task": "pose",
        "name": "tiny",
        "monitor": "mean_error",
        "model": {
            "backbone": BACKBONE,
            "head": "deconv",
            "head_channels": [8, 8, 8],
            "input_size": [64, 64],
            "codec": "udp",
            "sigma": 1.5,
        },
        "data": {
            "train_annotations": "annotations/train.json",
            "train_images": "images/train",
            "val_annotations": "annotations/val.json",
            "val_images": "images/val",
            "test_annotations": "annotations/test.json",
            "test_images": "images/test",
        },
        "eval": {"pck": [0.2], "pck_reference": ["left_shoulder", "right_hip"]},
    },
    "seg": {
        "task": "seg",
        "name": "tiny",
        "monitor": "mIoU",
        "model": {"backbone": BACKBONE, "aspp_channels": 8, "low_channels": 8, "rates": [1, 1, 1], "dropout": 0.2},
        "data": {
            "format": "folder",
            "test": "test",
            "classes": list(FIGURE_CLASSES.names),
            "crop_size": [64, 64],
            "scale": [0.8, 1.25],
            "color": 0.1,
        },
    },
}


def find_chromium() -> str | None:
    """A Chromium on this machine."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, and say why, what needs a GPU, a C compiler or Chromium, or Triton's interpreter where it is not used."""
    absent = {
        "browser": "" if find_chromium() else "no Chromium on the PATH: install chromium",
        "compiler": loops.why_not(),
        "gpu": "" if torch.cuda.is_available() else "no CUDA device",
        "interpreter": "the kernels run on the GPU, not in Triton's interpreter" if torch.cuda.is_available() else "",
    }
    for item in items:
        for marker, reason in absent.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def chromium() -> str:
    """The program that tests of the marker `browser` drive."""
    found = find_chromium()
    assert found is not None
    return found


@pytest.fixture(scope="session")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 training, 5 validation and 3 test pictures of 64x64 with joints and part masks."""
    root = tmp_path_factory.mktemp("figures")
    write_figures(root, train=8, val=5, test=3, size=(64, 64), seed=2)
    return root


@pytest.fixture(scope="session")
def picture(figures: Path) -> npt.NDArray[np.uint8]:
    """A picture that is not square [48, 64, 3], so that turning it shows; for reading only."""
    return read_image(figures / "images" / "val" / "0000.jpg")[:48].copy()


@pytest.fixture(scope="session")
def video(picture: npt.NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """clip.mp4: five frames of that picture, each moved by 4 pixels, 12 a second; for reading only."""
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    film = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 12, (64, 48))
    for step in range(5):
        film.write(np.roll(picture, 4 * step, axis=1)[:, :, ::-1].copy())
    film.release()
    return path


@pytest.fixture(scope="session")
def tiny_page(figures: Path) -> TinyPage:
    """A page of "pose" or "seg" that trains on the figures in seconds; a new copy at each call."""

    def page(task: str) -> dict[str, Any]:
        found = copy.deepcopy(PAGES[task]) | {"optim": dict(OPTIM), "engine": dict(ENGINE)}
        found["data"]["root"] = str(figures)
        return found

    return page


@pytest.fixture(scope="session")
def write_page(tiny_page: TinyPage) -> Callable[[str, Path], Path]:
    """Writes that page into a folder, which also becomes the place of its runs; gives the file."""

    def write(task: str, folder: Path) -> Path:
        path = folder / f"{task}.yaml"
        path.write_text(yaml.safe_dump(tiny_page(task) | {"out": str(folder / "runs")}, sort_keys=False))
        return path

    return write


def train_once(page: Path) -> Path:
    assert commands.train(str(page)) == 0
    run = load_page(page)
    return Path(run.out) / run.task / run.name


@pytest.fixture(scope="session")
def pose_folder(write_page: Callable[[str, Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that ``polarpix train`` left behind for the pose page; for reading only."""
    return train_once(write_page("pose", tmp_path_factory.mktemp("pose")))


@pytest.fixture(scope="session")
def seg_folder(write_page: Callable[[str, Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that ``polarpix train`` left behind for the segmentation page; for reading only."""
    return train_once(write_page("seg", tmp_path_factory.mktemp("seg")))


@pytest.fixture(scope="session")
def pose(pose_folder: Path) -> PosePredictor:
    """The predictor of the small pose run."""
    from polarpix.predict import PosePredictor, load

    found = load(pose_folder, device="cpu")
    assert isinstance(found, PosePredictor)
    return found


@pytest.fixture(scope="session")
def seg(seg_folder: Path) -> SegPredictor:
    """The predictor of the small segmentation run."""
    from polarpix.predict import SegPredictor, load

    found = load(seg_folder / "weights" / "best.safetensors", device="cpu")
    assert isinstance(found, SegPredictor)
    return found


@pytest.fixture(scope="session")
def pose_export(pose_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """The small pose run as ONNX; for reading only."""
    from polarpix.export.run import export

    return export(pose_folder, "onnx", tmp_path_factory.mktemp("pose_export") / "pose.onnx")


@pytest.fixture(scope="session")
def seg_export(seg_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """The small segmentation run as ONNX, for images of any size, which it looks at in half the size."""
    from polarpix.export.run import export

    options = ["--eval.scales", "[0.5]"]
    return export(seg_folder, "onnx", tmp_path_factory.mktemp("seg_export") / "seg.onnx", options=options)
