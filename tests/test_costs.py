"""Parameters and multiply-adds, against counts made by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from torch import nn

from polarpix.costs import network_costs, page_costs
from polarpix.errors import InputError

TinyPage = Callable[[str], dict[str, Any]]


def test_a_convolution_by_hand() -> None:
    with torch.device("meta"):
        network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1))
    params, macs = network_costs(network, (10, 12))
    assert params == 3 * 8 * 9 + 16 + 8 * 4 + 4
    assert macs == 10 * 12 * (3 * 8 * 9 + 8 * 4)


def test_a_published_network() -> None:
    """ResNet-50 at 224x224: 25,557,032 parameters and 4.09 G multiply-adds, as torchvision's table of models has it."""
    with torch.device("meta"):
        network = timm.create_model("resnet50")
    params, macs = network_costs(network, (224, 224))
    assert params == 25_557_032
    assert macs / 1e9 == pytest.approx(4.09, abs=0.005)


def test_attention_adds_to_a_page(tiny_page: TinyPage, tmp_path: Path) -> None:
    for name, attention in (("a", "none"), ("b", "psa_p")):
        page = tiny_page("pose")
        page["model"]["backbone"]["attention"] = attention
        page["model"]["backbone"]["weights"] = "never/read.pth"
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(page))
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "c.yaml").write_text(yaml.safe_dump(tiny_page("seg")))
    (tmp_path / "schema.yaml").write_text("names: [nose]\n")
    plain, attended, seg = page_costs(tmp_path)
    assert [row["page"] for row in (plain, attended, seg)] == [
        str(tmp_path / n) for n in ("a.yaml", "b.yaml", "deep/c.yaml")
    ]
    assert attended["params"] > plain["params"] > 0
    assert attended["macs"] > plain["macs"] > 0
    assert (plain["input"], seg["input"], seg["task"]) == ([64, 64], [64, 64], "seg")
    assert page_costs(tmp_path / "none") == []


def test_a_page_that_is_not_in_order(tiny_page: TinyPage, tmp_path: Path) -> None:
    page = tiny_page("pose")
    page["model"]["backbone"]["name"] = "resnet5"
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(page))
    with pytest.raises(InputError, match="resnet5"):
        page_costs(tmp_path)
