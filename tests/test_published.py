"""The figures of the paper: rows in order, and a page finds its own."""

from pathlib import Path

import pytest

from polarpix.published import PUBLISHED, Published, published_row


@pytest.mark.parametrize("name", PUBLISHED)
def test_rows_are_whole(name: str) -> None:
    row = PUBLISHED[name]
    assert row.table == {"voc": 3, "cityscapes": 5}.get(name.split("/")[1], 4 if "udp" in name else 2)
    assert bool(row.params) == bool(row.macs) == (row.table != 5)
    assert row.giga == (2**30 if row.table in (2, 4) else 10**9)
    assert all(50 < value < 100 for value in row.figures.values())
    assert next(iter(row.figures)) == ("AP" if row.table in (2, 4) else "mIoU")
    assert ("PSA" in row.row) == ("psa" in name)


def test_a_page_finds_its_row_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = PUBLISHED["paper/coco/hrnet_w32_none"]
    assert published_row(Path("configs/paper/coco/hrnet_w32_none.yaml")) is row
    assert published_row(tmp_path / "paper" / "coco" / "hrnet_w32_none.yaml") is row
    (tmp_path / "paper" / "coco").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "paper" / "coco")
    assert published_row(Path("hrnet_w32_none.yaml")) is row
    assert published_row(Path("hrnet_w32.yaml")) is None
    assert published_row(tmp_path / "hrnet_w32_none.yaml") is None


def test_counts_agree_to_the_last_printed_digit() -> None:
    row = Published(2, "x", params="70.0", macs="35.2", giga=2**30)
    assert row.has_params(69_951_000)
    assert not row.has_params(70_051_000)
    assert Published(3, "x", params="5.22").has_params(5_224_999)
    assert not Published(3, "x", params="5.22").has_params(5_226_000)
    told = row.as_dict()
    assert (told["params"], told["macs"]) == (70_000_000, round(35.2 * 2**30))
    assert (told["params_printed"], told["macs_printed"], told["differs"]) == ("70.0M", "35.2G", None)
    bare = Published(5, "x").as_dict()
    assert bare["params"] is bare["macs"] is bare["params_printed"] is bare["macs_printed"] is None
