"""Going on: which folder may, from which checkpoint, and what is said where it may not."""

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from polarpix.config import SegModelConfig, SegRun
from polarpix.demo.figures import FIGURE_CLASSES
from polarpix.engine.artifact import save_artifact
from polarpix.engine.resume import PARTS, check_checkpoint, prepare_folder
from polarpix.errors import InputError
from polarpix.page_parts import BackboneConfig
from polarpix.pages import load_page
from polarpix.types import ClassTable


def page(**change: Any) -> SegRun:
    run = SegRun(name="x", model=SegModelConfig(BackboneConfig("test_resnet")))
    for key, value in change.items():
        place: Any = run
        *sections, last = key.split("__")
        for section in sections:
            place = getattr(place, section)
        setattr(place, last, value)
    return run


@pytest.fixture
def started(tmp_path: Path) -> Path:
    """The folder of a run that was interrupted: page, checkpoint, weights."""
    assert prepare_folder(page(), FIGURE_CLASSES, tmp_path, resume=False) is None
    (tmp_path / "checkpoints").mkdir()
    torch.save(
        {part: {} for part in PARTS} | {"state_dict": {"a": torch.ones(2000)}}, tmp_path / "checkpoints/last.ckpt"
    )
    save_artifact(tmp_path / "weights/best.safetensors", {"a": torch.ones(1)}, page(), FIGURE_CLASSES, {})
    return tmp_path


def refused(folder: Path, words: str, run: SegRun, resume: bool = True, labels: ClassTable = FIGURE_CLASSES) -> None:
    """One line, and nothing in the folder is touched."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=words) as caught:
        prepare_folder(run, labels, folder, resume)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_goes_on_from_its_last_checkpoint(started: Path) -> None:
    refused(started, "already holds a run: add --resume", page(), resume=False)
    last = started / "checkpoints" / "last.ckpt"
    assert prepare_folder(page(engine__epochs=200, out="elsewhere"), FIGURE_CLASSES, started, resume=True) == last
    assert load_page(started / "config.yaml").engine.epochs == 200
    assert prepare_folder(page(model__backbone__weights="x.pth"), FIGURE_CLASSES, started, resume=True) == last


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"model__backbone__attention": "psa_s"},
            "trained with model.backbone.attention 'psa_p', the page says 'psa_s'",
        ),
        ({"model__aspp_channels": 16}, "trained with model.aspp_channels 256, the page says 16"),
        ({"optim__name": "sgd"}, "trained with optim.name 'adamw', the page says 'sgd': change it back"),
        ({"optim__lr": 0.5}, "trained with optim.lr 0.001, the page says 0.5"),
        ({"optim__decay_norm": False}, "trained with optim.decay_norm True, the page says False"),
    ],
)
def test_what_the_checkpoint_brings_along_must_not_change(started: Path, change: dict[str, Any], words: str) -> None:
    refused(started, words, page(**change))


def test_other_labels_are_refused(started: Path) -> None:
    refused(started, "other labels", page(), labels=ClassTable(("a", "b"), ((0, 0, 0), (1, 1, 1))))


def test_weights_without_a_checkpoint_are_not_written_over(started: Path) -> None:
    (started / "checkpoints" / "last.ckpt").unlink()
    for resume in (False, True):
        refused(started, r"best\.safetensors: is of a run without last\.ckpt", page(), resume)


def test_a_run_cut_off_at_the_end_of_its_first_epoch_starts_anew(started: Path) -> None:
    """Its weights are written before its last checkpoint is."""
    last, best = started / "checkpoints" / "last.ckpt", started / "checkpoints" / "best.ckpt"
    last.unlink()
    first = {part: {} for part in PARTS} | {"epoch": 0}
    torch.save(first, best)
    (started / "metrics.csv").write_text("epoch,mIoU\n0,0.5\n")
    refused(started, "already holds a run: add --resume", page(), resume=False)
    assert prepare_folder(page(), FIGURE_CLASSES, started, resume=True) is None
    (started / "metrics.csv").write_text("epoch,mIoU\n0,0.5\n1,0.4\n")  # further on, somebody took the checkpoint
    refused(started, r"is of a run without last\.ckpt", page())
    (started / "metrics.csv").unlink()
    for content in (first | {"epoch": 3}, {}):
        torch.save(content, best)
        refused(started, r"is of a run without last\.ckpt", page())


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-500])


def spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4000:4400] = bytes(400)  # inside a tensor
    path.write_bytes(bytes(data))


class Payload:
    """Makes a file when a pickle of it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch '{self.mark}'",)


def test_a_checkpoint_runs_nothing(started: Path, tmp_path: Path) -> None:
    mark, last = tmp_path / "ran", started / "checkpoints" / "last.ckpt"
    parts = {part: {} for part in PARTS}
    for content in (parts | {"extra": Payload(mark)}, parts | {"callbacks": {"x": Payload(mark)}}, Payload(mark)):
        torch.save(content, last)
        refused(started, "holds more than a training writes", page())
        last.write_bytes(pickle.dumps(content))
        refused(started, "damaged or cut off", page())
    assert not mark.exists()


def packed(path: Path) -> None:
    """The same archive, compressed."""
    with zipfile.ZipFile(path) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name, data in entries.items():
            new.writestr(name, data)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (packed, "is compressed"),
        (cut_off, "damaged or cut off"),
        (spoil, "damaged or cut off"),
        (lambda path: path.write_bytes(path.read_bytes()[:500]), "damaged or cut off"),
        (lambda path: path.write_bytes(b""), "damaged or cut off"),
        (lambda path: path.write_bytes(b"no checkpoint at all\n" * 99), "damaged or cut off"),
        (lambda path: torch.save({"a": torch.ones(2)}, path), "no checkpoint of a training"),
        (lambda path: torch.save([1], path), "no checkpoint of a training"),
    ],
)
def test_a_damaged_checkpoint_is_one_line(started: Path, damage: Callable[[Path], None], words: str) -> None:
    last = started / "checkpoints" / "last.ckpt"
    check_checkpoint(last)
    damage(last)
    refused(started, f"{words}.*choose another --name", page())
    (started / "checkpoints" / "best.ckpt").write_bytes(b"x")
    refused(started, r"copy \S+best\.ckpt over it", page())
