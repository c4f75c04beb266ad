"""A published checkpoint with a page for it is evaluated and predicted with like an own weights file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
import yaml
from torch import Tensor

from polarpix import commands
from polarpix.backbones.publishers import as_published
from polarpix.config import PoseRun, SegDataConfig, SegRun
from polarpix.engine.adopt import open_weights, page_labels
from polarpix.errors import InputError
from polarpix.predict import load
from polarpix.seg.classes import CITYSCAPES

if TYPE_CHECKING:
    from polarpix.predict import SegPredictor


def published(state: dict[str, Tensor], key: str, folder: Path) -> Path:
    torch.save(as_published(state, key), folder / "published.pth")
    return folder / "published.pth"


@pytest.fixture
def seg_page(seg_folder: Path, tmp_path: Path) -> Path:
    """The page of the small run, without what it starts from."""
    page = yaml.safe_load((seg_folder / "config.yaml").read_text())
    (tmp_path / "page.yaml").write_text(yaml.safe_dump(page, sort_keys=False))
    return tmp_path / "page.yaml"


def test_a_published_file_predicts_as_the_run_it_was_written_from(
    seg: SegPredictor, seg_page: Path, tmp_path: Path
) -> None:
    file = published(seg.model.state_dict(), "vainf", tmp_path)
    again = load(file, "cpu", config=seg_page)
    image = torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).numpy()
    assert (again(image).prediction.label == seg(image).prediction.label).all()
    for name, tensor in seg.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], tensor)


def test_evaluation_of_a_published_file(
    seg, seg_page: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = published(seg.model.state_dict(), "vainf", tmp_path)
    assert commands.evaluate(str(file), config=str(seg_page), out=str(tmp_path / "eval")) == 0
    assert "mIoU" in capsys.readouterr().out
    assert (tmp_path / "eval" / "record.json").is_file()


def test_what_cannot_be_adopted(seg: SegPredictor, seg_page: Path, tmp_path: Path) -> None:
    file = published(seg.model.state_dict(), "vainf", tmp_path)
    with pytest.raises(InputError, match=r"checkpoint has no page inside: add --config PAGE \('polarpix models"):
        open_weights(file)
    with pytest.raises(InputError, match=r"which this network has not"):
        open_weights(file, seg_page, ["--model.backbone.attention", "none"])
    plain = {name: tensor for name, tensor in seg.model.state_dict().items() if ".attention." not in name}
    with pytest.raises(
        InputError, match=r"has no backbone\.net\.\S+attention\S+: set model.backbone.attention to none"
    ):
        open_weights(published(plain, "vainf", tmp_path), seg_page)
    with pytest.raises(InputError, match=r"no such weights file"):
        open_weights(tmp_path / "absent.pth", seg_page)


def test_labels_of_a_page_without_its_data() -> None:
    assert page_labels(PoseRun(name="a")).names[0] == "nose"
    assert len(page_labels(PoseRun(name="a")).names) == 17
    assert page_labels(SegRun(name="a", data=SegDataConfig(format="cityscapes"))) == CITYSCAPES
    assert page_labels(SegRun(name="a", data=SegDataConfig(classes=["x", "y"]))).names == ("x", "y")
    with pytest.raises(InputError, match=r"data\.classes is empty"):
        page_labels(SegRun(name="a"))
