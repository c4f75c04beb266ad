"""What `polarpix models --check` says of files: publisher, network, outputs, block, pages; and what it refuses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from torch import nn

from polarpix import cli
from polarpix.backbones.publishers import PUBLISHERS, as_published
from polarpix.checkpoints import Checkpoint, attention_words, backbone_name, checkpoint_text, describe_checkpoint
from polarpix.config import PoseModelConfig, SegModelConfig
from polarpix.errors import InputError
from polarpix.page_parts import BackboneConfig
from polarpix.pose.model import build_pose_model
from polarpix.seg.model import build_seg_model

TinyPage = Callable[[str], dict[str, Any]]


def save(network: nn.Module, key: str, folder: Path, wrapper: str = "module.") -> Path:
    state = {wrapper + name: tensor for name, tensor in as_published(network.state_dict(), key).items()}
    torch.save({"state_dict": state}, folder / "theirs.pth")
    return folder / "theirs.pth"


@pytest.fixture
def pages(tiny_page: TinyPage, tmp_path: Path) -> Path:
    """Pose pages of ResNet-18 with three kinds of attention, for 17 keypoints, and one for masks."""
    folder = tmp_path / "pages"
    folder.mkdir()
    for attention in ("none", "psa_p", "psa_s_released"):
        page = tiny_page("pose")
        page["model"]["backbone"] |= {"name": "resnet18", "attention": attention}
        (folder / f"pose_{attention}.yaml").write_text(yaml.safe_dump(page))
    page = tiny_page("seg")
    page["model"]["backbone"] |= {"name": "resnet18.tv_in1k", "attention": "none"}
    (folder / "seg.yaml").write_text(yaml.safe_dump(page))
    (folder / "schema.yaml").write_text("names: [a]\n")
    return folder


def pose(attention: str, outputs: int = 17, widths: tuple[int, ...] = (8, 8, 8)) -> nn.Module:
    config = PoseModelConfig(BackboneConfig("resnet18", attention=attention), head_channels=list(widths))
    return build_pose_model(config, outputs)


def names(found: tuple[str, ...]) -> list[str]:
    return [Path(one).stem for one in found]


def test_a_network_without_attention_fits_its_page_and_starts_those_with(pages: Path, tmp_path: Path) -> None:
    found = describe_checkpoint(save(pose("none"), "simplebaseline", tmp_path), pages)
    assert found.publisher.network == "SimpleBaseline pose network"
    assert (found.backbone, found.outputs, found.attention) == ("resnet18", 17, "none")
    assert names(found.fits) == ["pose_none"]
    assert names(found.starts) == ["pose_psa_p", "pose_psa_s_released"]
    assert found.params == sum(p.numel() for p in pose("none").parameters())


def test_a_block_of_one_form_fits_that_page_alone(pages: Path, tmp_path: Path) -> None:
    found = describe_checkpoint(save(pose("psa_s_released"), "mmpose", tmp_path), pages)
    assert "released form, sequential (psa_s_released), 8 blocks" in found.attention
    assert (names(found.fits), found.starts) == (["pose_psa_s_released"], ())


def test_another_head_fits_nothing(pages: Path, tmp_path: Path) -> None:
    found = describe_checkpoint(save(pose("none", 5), "simplebaseline", tmp_path), pages)
    assert (found.fits, found.starts, found.outputs) == ((), (), 5)


def test_a_classifier_starts_the_pages_of_its_backbone(pages: Path, tmp_path: Path) -> None:
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "image.pth")
    found = describe_checkpoint(tmp_path / "image.pth", pages)
    assert (found.fits, names(found.starts)) == ((), ["pose_none", "pose_psa_p", "pose_psa_s_released", "seg"])
    text = checkpoint_text(found)
    assert "--model.backbone.weights" in text
    assert "1000 classes" in text


@pytest.mark.parametrize(
    ("attention", "words"),
    [
        ("none", "none"),
        ("psa_p", "polarized self-attention, paper form, parallel or sequential (their weights are alike), 8 blocks"),
        ("psa_p_released", "polarized self-attention, released form, parallel (psa_p_released), 8 blocks"),
        ("psa_s_released", "polarized self-attention, released form, sequential (psa_s_released), 8 blocks"),
        ("se", "another block than polarized self-attention, 8 of them"),
    ],
)
def test_attention_in_words(attention: str, words: str) -> None:
    with torch.device("meta"):
        assert attention_words(pose(attention).state_dict()) == words


@pytest.mark.parametrize(
    ("name", "known"),
    [
        *((name, name) for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "mobilenetv2_100")),
        *(("hrnet_w18_small", "hrnet_w16"), ("resnext50_32x4d", ""), ("mobilenetv2_050", ""), ("regnety_002", "")),
    ],
)
def test_backbones_are_told_by_their_weights(name: str, known: str) -> None:
    with torch.device("meta"):
        config = SegModelConfig(BackboneConfig(name, attention="none"), aspp_channels=8)
        assert backbone_name(build_seg_model(config, 3).state_dict()) == known


def test_the_answer_is_one_screen(pages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = save(pose("none", 51), "simplebaseline", tmp_path)
    assert cli.run(["models", "--check", str(file), "--folder", str(pages)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 24
    assert lines[0] == str(file)
    said = dict(line.split(maxsplit=1) for line in lines[1:])
    assert said["outputs"] == "51 maps: 17 keypoints with offsets (model.codec udp_offset)"
    assert said["use"] == f"--model.weights {file}"
    assert said["variant"].startswith("--model.backbone.variant bgr")


def test_long_lists_are_cut() -> None:
    found = Checkpoint("f", PUBLISHERS["vainf"], "resnet50", 21, "none", 9, 10**6, tuple("abcdef"), ())
    assert "fits       a, b, c, d and 2 more\n" in checkpoint_text(found)
    assert "starts     no other page" in checkpoint_text(found)
    assert "21 classes" in checkpoint_text(found)


def test_what_is_no_checkpoint(pages: Path, tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("hello")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    for name, message in {
        "absent.pth": "no such weights file",
        "text.pth": "truncated or not a torch file",
        "other.pth": "1 weights of a network that nobody known here has published",
    }.items():
        with pytest.raises(InputError, match=message) as error:
            describe_checkpoint(tmp_path / name, pages)
        assert "\n" not in str(error.value)
