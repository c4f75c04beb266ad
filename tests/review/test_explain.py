"""`polarpix explain`: gates of every kind of block on one page, and which of them do nothing."""

import copy
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from polarpix.errors import InputError
from polarpix.images import write_image
from polarpix.predict import PosePredictor, SegPredictor
from polarpix.psa import PolarizedSelfAttention
from polarpix.report_files import write_html
from polarpix.review import commands
from polarpix.review.explain import explain, views
from polarpix.review.explain_page import explain_report, gate_picture, short_names, summary_lines

Other = Callable[[nn.Module], SegPredictor]


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture with some structure."""
    path = tmp_path_factory.mktemp("photos") / "street.png"
    write_image(path, np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8))
    return path


@pytest.fixture
def other(seg: SegPredictor) -> Other:
    """The small segmentation predictor with another network."""

    def build(network: nn.Module) -> SegPredictor:
        predictor = copy.copy(seg)
        predictor.model = network.eval()  # type: ignore[assignment]  # all that is read of it is its blocks
        return predictor

    return build


def network(*blocks: PolarizedSelfAttention) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), *blocks)


def lively(**options: object) -> PolarizedSelfAttention:
    """A block whose gates are far from constant."""
    block = PolarizedSelfAttention(16, init="torch", **options)  # type: ignore[arg-type]  # options by name
    with torch.no_grad():
        for weight in block.parameters():
            if weight.dim() == 4:
                weight.normal_(std=1.0)
    return block


def zeroed(**options: object) -> PolarizedSelfAttention:
    """A block whose gates are 0.5 everywhere."""
    block = lively(**options)
    with torch.no_grad():
        for name in block._last_weights():
            block.get_parameter(name).zero_()
    return block


def test_a_block_with_zeroed_weights_is_flagged_and_no_other(other: Other, photo: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    predictor = other(network(lively(), zeroed(), lively()))
    blocks, kept, count = explain(predictor, views(predictor, [str(photo)]), drawn=1)
    assert [block.name for block in blocks] == ["1", "2", "3"]
    assert [block.constant(0.02) for block in blocks] == [[], ["channel", "spatial"], []]
    assert blocks[1].spatial[0].undecided == blocks[1].channel[0].undecided == 1
    assert (len(kept), count) == (1, 1)
    report = explain_report(blocks, kept, count, 0.02, "net", {"weights": "x"})
    assert report.sections[0].alert == "1 of 3 blocks have a constant gate."
    assert "Spatial gate constant in 1 of 3 blocks: 2." in report.sections[0].text
    write_html(report, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("CONSTANT") == 2 * 2  # both gates of one block, in caption and alternative text
    assert page.count("data:image/") == 4
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert "http" not in page


def test_all_four_functions_and_single_branches(other: Other, photo: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    options = [
        {"form": form, "layout": layout} for form in ("paper", "released") for layout in ("parallel", "sequential")
    ]
    blocks_of = [lively(**one) for one in options] + [lively(branches="channel"), lively(branches="spatial")]
    predictor = other(network(*blocks_of))
    write_image(tmp_path / "second.png", np.full((64, 30, 3), 90, np.uint8))
    pairs = views(predictor, [str(photo), str(tmp_path / "second.png")])
    blocks, kept, count = explain(predictor, pairs, drawn=1)
    assert [block.kind for block in blocks][:4] == [f"{o['form']}, {o['layout']}" for o in options]
    assert blocks[4].kind == "paper, parallel, channel only"
    assert (len(blocks[4].channel), len(blocks[4].spatial)) == (2, 0)
    assert (len(blocks[5].channel), len(blocks[5].spatial)) == (0, 2)
    assert (len(kept), count) == (1, 2)
    assert blocks[0].heats[0] is not None
    assert blocks[0].heats[0].shape == (40, 56)
    assert blocks[0].strips[0] is not None
    assert blocks[0].strips[0].shape == (16,)
    assert 0.5 <= blocks[2].spatial[0].low <= blocks[2].spatial[0].high <= 0.74  # sigmoid of a softmax
    text = " ".join(summary_lines(blocks, count, 0.02))
    assert "nearly constant by construction" in text
    assert "of 5 blocks" in text
    write_html(explain_report(blocks, kept, count, 0.02, "net", {}), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "no spatial gate" in page
    assert "no channel gate" in page
    own = explain(other(network(lively())), pairs[:1], 0)[0]
    assert "by construction" not in " ".join(summary_lines(own, 1, 0.02))


def test_a_constant_gate_looks_constant() -> None:
    image = np.full((20, 30, 3), 100, np.uint8)
    noise = (0.5 + np.random.default_rng(0).normal(0, 1e-4, (4, 6))).astype(np.float32)
    flat, bent = gate_picture(image, noise, None, 0.02), gate_picture(image, noise * 100, None, 0.02)
    assert flat.std(axis=(0, 1)).max() < 2
    assert bent.std(axis=(0, 1)).max() > 20
    strip = gate_picture(image, None, np.array([0.0, 1.0], np.float32), 0.02)
    assert strip.shape[0] > flat.shape[0]
    blue = (strip[-20] == (37, 99, 235)).all(axis=1)
    assert blue[0]  # the largest value stands left
    assert not blue[-1]


def test_names_without_what_all_share() -> None:
    assert short_names(["a.b.0.attention", "a.c.1.attention"]) == ["b.0", "c.1"]
    assert short_names(["a.b.attention"]) == ["a.b.attention"]
    assert short_names(["x", "y.x"]) == ["x", "y.x"]
    assert short_names(["a.0.z", "a.0.y.z"]) == ["z", "y.z"]


def test_crops_of_the_boxes(pose: PosePredictor, photo: Path) -> None:
    pairs = views(pose, [str(photo)], "2,3,20,30")
    blocks, kept, count = explain(pose, pairs, drawn=5)
    assert count == len(kept) == 1
    assert kept[0].name == "street.png, box 2,3,20,30"
    assert kept[0].image.shape == (64, 64, 3)
    assert len(blocks) == sum(isinstance(one, PolarizedSelfAttention) for one in pose.model.modules())
    assert explain(pose, views(pose, [str(photo)]), 1)[1][0].name == "street.png"


def test_what_cannot_be_explained(other: Other, seg: SegPredictor, photo: Path) -> None:
    plain = other(nn.Sequential(nn.Conv2d(3, 4, 1)))
    with pytest.raises(InputError, match="no polarized self-attention, so there are no gates"):
        explain(plain, views(plain, [str(photo)]), 1)
    with pytest.raises(InputError, match="takes no boxes"):
        views(seg, [str(photo)], "1,2,3,4")


def test_the_command(seg_folder: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "gates.html"
    assert commands.explain(str(seg_folder), [str(photo)], out=str(out), device="cpu", threshold=0.9999) == 0
    said = capsys.readouterr().out
    assert re.search(r"(\d+) of \1 blocks have a constant gate", said)  # nothing reaches so far
    assert "street.png" in out.read_text()
    for options, words in (({"threshold": 0.0}, "--threshold is 0"), ({"pictures": -1}, "--pictures is -1")):
        with pytest.raises(InputError, match=words):
            commands.explain(str(seg_folder), [str(photo)], out=str(out), **options)  # type: ignore[arg-type]  # as above
