"""Detectors as their libraries have them, with random weights from a folder; nothing is fetched."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import numpy.typing as npt
import pytest
import torch

from polarpix import detectors
from polarpix.detectors import Detector, find_detector, load_detector
from polarpix.errors import InputError
from polarpix.predict import SegPredictor
from polarpix.sources import Frame, Medium
from polarpix.types import KeypointSchema

CPU = torch.device("cpu")
BODY = KeypointSchema(("nose", "left_hip", "right_hip"), (), (), (0.1,) * 3, "test")
MOUSE = KeypointSchema(("snout", "tail"), (), (), (0.1,) * 2, "test", category="mouse")


@pytest.fixture(scope="module")
def ssd(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """torchvision's smallest detector with random weights, and the folder where torch keeps what it fetched."""
    from torchvision.models import get_model, get_model_weights

    torch.manual_seed(0)
    model = get_model("ssdlite320_mobilenet_v3_large", weights=None, weights_backbone=None, num_classes=91).eval()
    for layer in model.head.classification_head.module_list:
        layer[1].bias.data[1::91] += 6.0  # persons everywhere
    home = tmp_path_factory.mktemp("torch")
    name = next(iter(get_model_weights("ssdlite320_mobilenet_v3_large"))).url.rpartition("/")[2]
    (home / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(model.state_dict(), home / "hub" / "checkpoints" / name)
    return model, home / "hub" / "checkpoints" / name


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny RT-DETR and D-FINE networks with their processors, as transformers saves them."""
    from transformers import (
        DFineConfig,
        DFineForObjectDetection,
        RTDetrConfig,
        RTDetrForObjectDetection,
        RTDetrImageProcessor,
        RTDetrResNetConfig,
    )
    from transformers.models.hgnet_v2.configuration_hgnet_v2 import HGNetV2Config

    torch.manual_seed(0)
    names = {0: "person", 1: "bicycle", 2: "dog"}
    small: dict[str, Any] = {
        "encoder_hidden_dim": 32,
        "d_model": 32,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "num_queries": 12,
        "decoder_layers": 2,
        "decoder_attention_heads": 2,
        "encoder_attention_heads": 2,
        "id2label": names,
        "label2id": {label: index for index, label in names.items()},
    }
    resnet = RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    channels = [16, 24, 32]
    rtdetr = RTDetrForObjectDetection(
        RTDetrConfig(backbone_config=resnet, encoder_in_channels=channels, decoder_in_channels=[32] * 3, **small)
    )
    hgnet = HGNetV2Config(
        stem_channels=[3, 8, 8],
        stage_in_channels=[8, 16, 24, 32],
        stage_mid_channels=[8, 8, 8, 8],
        stage_out_channels=[16, 24, 32, 32],
        stage_num_blocks=[1, 1, 1, 1],
        stage_numb_of_layers=[1, 1, 1, 1],
        stage_downsample=[False, True, True, True],
        stage_light_block=[False, False, True, True],
        stage_kernel_size=[3, 3, 5, 5],
        embedding_size=8,
        hidden_sizes=[16, 24, 32, 32],
        depths=[1, 1, 1, 1],
        out_features=["stage2", "stage3", "stage4"],
    )
    dfine = DFineForObjectDetection(
        DFineConfig(backbone_config=hgnet, encoder_in_channels=[24, 32, 32], decoder_in_channels=[32] * 3, **small)
    )
    root = tmp_path_factory.mktemp("hub")
    for name, model in (("rtdetr", rtdetr), ("dfine", dfine)):
        for key, value in model.named_parameters():
            if "class_embed" in key and key.endswith("bias"):
                value.data.copy_(torch.tensor([2.0, -2.0, -2.0]))  # persons everywhere
        model.save_pretrained(root / name)
        RTDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(root / name)
    return {"rtdetr": root / "rtdetr", "dfine": root / "dfine"}


def check_rows(rows: npt.NDArray[np.float32], shape: tuple[int, ...], threshold: float) -> None:
    """Rows of x, y, width, height, score inside an image, best first."""
    assert rows.shape[1] == 5
    assert (rows[:, 2:4] > 0).all()
    assert (rows[:, :2] >= 0).all()
    assert (rows[:, 0] + rows[:, 2] <= shape[1] + 1e-3).all()
    assert (rows[:, 1] + rows[:, 3] <= shape[0] + 1e-3).all()
    assert (rows[:, 4] >= threshold).all()
    assert (np.diff(rows[:, 4]) <= 0).all()


@pytest.mark.parametrize("way", ["file", "hub"])
def test_torchvision(
    way: str, ssd: tuple[Any, Path], picture: npt.NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, file = ssd
    monkeypatch.setenv("TORCH_HOME", str(file.parents[2]))
    name = "ssdlite320_mobilenet_v3_large" + (f"={file}" if way == "file" else "")
    found = load_detector(name, BODY, CPU, category="", threshold=0.3)
    (rows,) = found([picture])
    with torch.no_grad():
        truth = model([torch.from_numpy(picture).permute(2, 0, 1) / 255])[0]
    chosen = (truth["labels"] == 1) & (truth["scores"] >= 0.3)
    assert chosen.any()
    corners = truth["boxes"][chosen].numpy()
    np.testing.assert_allclose(rows[:, :2] + rows[:, 2:4], corners[:, 2:], atol=1e-3)
    np.testing.assert_allclose(rows[:, :2], corners[:, :2], atol=1e-3)
    check_rows(rows, picture.shape, 0.3)


@pytest.mark.parametrize("name", ["rtdetr", "dfine"])
def test_transformers(name: str, folders: dict[str, Path], picture: npt.NDArray[np.uint8]) -> None:
    found = load_detector(str(folders[name]), BODY, CPU, threshold=0.3)
    assert found.category == "person"
    images = [picture, np.ascontiguousarray(picture[:30, :50])]
    together = found(images)
    for rows, image in zip(together, images, strict=True):
        assert len(rows)
        check_rows(rows, image.shape, 0.3)
        np.testing.assert_allclose(rows, found([image])[0], atol=1e-3)
    dog = load_detector(str(folders[name]), BODY, CPU, category="2", threshold=0.3)
    assert dog.category == "dog"
    rows = dog([picture])[0]
    assert rows.shape != together[0].shape or not np.allclose(rows, together[0])


class Fixed(Detector):
    """Finds the same on every image; keeps how many came at once."""

    def __init__(self) -> None:
        super().__init__(torch.nn.Identity(), {"person": 1, "mouse": 7}, CPU)
        self.category, self.batches = "person", list[int]()

    def find(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        self.batches.append(len(images))
        corners = torch.tensor([[-4.0, 2, 20, 30], [1, 1, 9, 9], [3, 3, 3, 8], [5, 5, 90, 90], [70, 0, 90, 9]])
        scores = torch.tensor([0.6, 0.9, 0.9, 0.8, 0.9])
        return [(corners, scores, torch.tensor([1, 7, 1, 1, 1])) for _ in images]


def test_boxes_are_cut_to_the_image_and_sorted(picture: npt.NDArray[np.uint8]) -> None:
    detector = Fixed()
    np.testing.assert_allclose(detector([picture])[0], [[5, 5, 59, 43, 0.8], [0, 2, 20, 28, 0.6]])
    detector.threshold = 0.7
    assert len(detector([picture])[0]) == 1
    detector.category = "mouse"
    np.testing.assert_allclose(detector([picture])[0], [[1, 1, 8, 8, 0.9]])


def test_frames_of_a_webcam_are_looked_at_one_by_one(picture: npt.NDArray[np.uint8]) -> None:
    def frames(kind: Any) -> Iterator[Frame]:
        return iter([Frame(picture, Medium(kind, "0"), index) for index in range(9)])

    detector = Fixed()
    assert [frame.index for frame, rows in detector.stream(frames("video")) if len(rows) == 2] == list(range(9))
    assert detector.batches == [1] * 9
    detector.device, detector.batches = torch.device("cuda"), []
    assert [frame.index for frame, _ in detector.stream(frames("video"))] == list(range(9))
    assert detector.batches == [8, 1]
    detector.batches = []
    assert len(list(detector.stream(frames("webcam")))) == 9
    assert detector.batches == [1] * 9


def test_which_class_is_looked_for(folders: dict[str, Path]) -> None:
    place = str(folders["rtdetr"])
    assert load_detector(place, BODY, CPU).threshold == 0.5
    dog = KeypointSchema(("nose", "tail"), (), (), (0.1,) * 2, "test", category="dog")
    assert load_detector(place, dog, CPU).category == "dog"
    assert load_detector(place, MOUSE, CPU, category="bicycle").category == "bicycle"
    with pytest.raises(InputError, match="knows no 'mouse': choose with --category one of person, bicycle, dog"):
        load_detector(place, MOUSE, CPU)
    with pytest.raises(InputError, match="knows no 'cat'"):
        load_detector(place, BODY, CPU, category="cat")


def one_line(error: pytest.ExceptionInfo[InputError], *words: str) -> None:
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_a_segmentation_network_takes_no_detector(seg: SegPredictor) -> None:
    with pytest.raises(InputError, match="--detector yolo: a segmentation network takes no boxes: leave it out"):
        find_detector(seg, "yolo", "", "cpu")


def test_what_cannot_be_loaded(
    folders: dict[str, Path], ssd: tuple[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError) as error:
        load_detector("yolo", BODY, CPU)
    one_line(error, "--detector yolo: no such detector: choose one of fasterrcnn_mobilenet_v3_large_320_fpn")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError) as error:
        load_detector(str(tmp_path / "empty"), BODY, CPU)
    one_line(error, "cannot be loaded", "check the name and the network")
    with pytest.raises(InputError) as error:
        load_detector(f"fcos_resnet50_fpn={tmp_path / 'gone.pth'}", BODY, CPU)
    one_line(error, "gone.pth: cannot be read", "check the path")
    with pytest.raises(InputError) as error:
        load_detector(f"fcos_resnet50_fpn={ssd[1]}", BODY, CPU)
    one_line(error, "holds no weights of fcos_resnet50_fpn")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(InputError) as error:
        load_detector(f"ssdlite320_mobilenet_v3_large={tmp_path / 'text.pth'}", BODY, CPU)
    one_line(error, "text.pth: holds no weights")

    def offline(*_: Any, **__: Any) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(InputError) as error:
        load_detector("ssdlite320_mobilenet_v3_large", BODY, CPU)
    one_line(error, "its weights cannot be fetched (Name or service not known): check the network", "=FILE")


def test_no_network_for_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError) as error:
        load_detector("nobody/nothing-here", BODY, CPU)
    one_line(error, "--detector nobody/nothing-here: cannot be fetched", "refused", "check the network")


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError) as error:
        load_detector("PekingU/rtdetr_r18vd", BODY, CPU)
    one_line(error, r"needs transformers: pip install 'polarpix[detect]'")
    assert "ssd300_vgg16" in detectors.TORCHVISION
