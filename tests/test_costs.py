"""Parameters and multiply-adds, against counts made by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from torch import nn

from polarpix.attention import build_attention
from polarpix.costs import cost_lines, network_costs, page_cost, page_costs, saved_by_collapse
from polarpix.errors import InputError
from polarpix.published import PUBLISHED

TinyPage = Callable[[str], dict[str, Any]]
PAPER = Path(__file__).resolve().parent.parent / "configs" / "paper"
COSTED = [name for name, row in PUBLISHED.items() if row.params]


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


def test_a_transposed_convolution_counts_at_every_output_pixel() -> None:
    """As in the tool of HRNet, whose counts SimpleBaseline and the paper print: four times what stride 2 needs."""
    with torch.device("meta"):
        network = nn.ConvTranspose2d(3, 8, 4, stride=2, padding=1, bias=False)
    assert network_costs(network, (10, 12)) == (3 * 8 * 16, 20 * 24 * 3 * 8 * 16)


@pytest.mark.parametrize("attention", ["psa_p", "psa_s", "psa_p_released", "psa_s_released", "psa_channel"])
def test_what_the_collapsed_form_saves(attention: str) -> None:
    """By hand, for C channels, h half of them and P pixels: three C x h products a pixel become three of C."""
    c, h, p = 32, 16, 10 * 12
    with torch.device("meta"):
        block = build_attention(attention, c, impl="reference")
        saved = saved_by_collapse([(block, torch.empty(1, c, 10, 12))] * 3)  # type: ignore[list-item]  # a PSA block
    by_hand = {
        "psa_s_released": 2 * c * h * p - c * p // 2 - 2 * c * h,  # its spatial values stay a map of h channels
        "psa_channel": c * h * p - c * p // 2 - c * h,
    }
    assert saved == 3 * by_hand.get(attention, 3 * c * h * p - c * p - 3 * c * h)
    assert block.impl == "reference"


@pytest.mark.parametrize(
    ("attention", "form", "layout"),
    [("psa_p", "paper", "parallel"), ("psa_s_released", "released", "sequential"), ("se", None, None)],
)
def test_a_page_says_its_form(
    tiny_page: TinyPage, tmp_path: Path, attention: str, form: str | None, layout: str | None
) -> None:
    page = tiny_page("pose")
    page["model"]["backbone"]["attention"] = attention
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(page))
    row = page_cost(tmp_path / "a.yaml")
    assert (row["form"], row["layout"], row["published"]) == (form, layout, None)
    assert (row["macs_collapsed"] < row["macs"]) == (form is not None)
    assert row["macs_collapsed"] <= row["macs"]


def test_pages_stand_beside_what_the_paper_prints(tiny_page: TinyPage, tmp_path: Path) -> None:
    folder = tmp_path / "paper" / "coco"
    folder.mkdir(parents=True)
    (folder / "hrnet_w32_none.yaml").write_text(yaml.safe_dump(tiny_page("pose")))
    (folder / "own.yaml").write_text(yaml.safe_dump(tiny_page("pose")))
    (folder / "udp_hrnet_w48_none.yaml").write_text(yaml.safe_dump(tiny_page("pose")))
    rows = page_costs(tmp_path)
    told = {Path(row["page"]).stem: row["published"] for row in rows}
    assert told["own"] is None
    assert told["hrnet_w32_none"]["params_printed"] == "28.5M"
    assert told["hrnet_w32_none"]["macs"] == 16 * 2**30
    assert told["hrnet_w32_none"]["figures"]["AP"] == 75.8
    lines = list(cost_lines(rows))
    assert "28.5M" in lines[1]
    assert "16.0G" in lines[1]
    assert sum("UDP prints 63.8M" in line for line in lines) == 1
    assert next(iter(cost_lines([]))).startswith("page")


@pytest.mark.parametrize("name", COSTED)
def test_costs_are_the_published_ones(name: str) -> None:
    """Parameters to the last printed digit, multiply-adds within 3%; a row that says why it cannot is within 1%."""
    row, found = PUBLISHED[name], page_cost(PAPER.parent / f"{name}.yaml")
    assert found["macs"] / (float(row.macs) * row.giga) == pytest.approx(1, abs=0.03)
    assert found["macs_collapsed"] <= found["macs"]
    assert found["form"] == (None if name.endswith("none") else "released")
    assert row.has_params(found["params"]) != bool(row.differs)
    assert found["params"] / 1e6 == pytest.approx(float(row.params), rel=0.01)


def test_every_page_of_the_paper_has_its_row() -> None:
    pages = {f"paper/{path.parent.name}/{path.stem}" for path in PAPER.glob("*/*.yaml")}
    assert pages == set(PUBLISHED)
