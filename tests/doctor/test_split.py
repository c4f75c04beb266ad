"""Sharing out the pictures of a COCO file: nothing lost, nothing in both, the same draw for the same seed."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polarpix.doctor.commands import split
from polarpix.doctor.split import split_file, split_table
from polarpix.errors import InputError


def table(count: int) -> dict[str, Any]:
    """So many pictures with ids that skip, two instances on each but the first."""
    images = [{"id": 3 * i, "file_name": f"{i}.jpg", "width": 9, "height": 9} for i in range(count)]
    notes = [{"id": i, "image_id": 3 * (i // 2), "category_id": 1} for i in range(2, 2 * count)]
    return {"images": images, "annotations": notes, "categories": [{"id": 1, "name": "a"}], "info": {"year": 2026}}


@given(
    count=st.integers(2, 40),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 9),
    how=st.sampled_from(["random", "last"]),
)
def test_nothing_is_lost_and_nothing_in_both(count: int, share: float, seed: int, how: str) -> None:
    whole = table(count)
    if not 0 < round(share * count) < count:
        with pytest.raises(InputError, match="both files need some"):
            split_table(whole, share, how, seed)
        return
    train, val = split_table(whole, share, how, seed)
    assert len(val["images"]) == round(share * count)
    for part in (train, val):
        ids = {image["id"] for image in part["images"]}
        assert part["annotations"] == [note for note in whole["annotations"] if note["image_id"] in ids]
        assert (part["categories"], part["info"]) == (whole["categories"], whole["info"])
    both = sorted(image["id"] for part in (train, val) for image in part["images"])
    assert both == [image["id"] for image in whole["images"]]
    assert split_table(whole, share, how, seed) == (train, val)


def test_the_last_pictures_and_a_number_of_them() -> None:
    _, val = split_table(table(5), 2, "last", seed=7)
    assert [image["id"] for image in val["images"]] == [9, 12]
    assert split_table(table(40), 10, "random", 0) != split_table(table(40), 10, "random", 1)


def test_files_are_written_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "all.json").write_text(json.dumps(table(10)))
    assert split(str(tmp_path / "all.json"), out=str(tmp_path / "parts"), val=0.3) == 0
    assert "7 images" in capsys.readouterr().out
    val = json.loads((tmp_path / "parts" / "val.json").read_text())
    assert len(val["images"]) == 3
    with pytest.raises(InputError, match=r"train\.json: is there already"):
        split_file(tmp_path / "all.json", tmp_path / "parts", 0.3)
    with pytest.raises(InputError, match="--how is 'x': use random or last"):
        split_file(tmp_path / "all.json", tmp_path / "more", 0.3, "x")
    assert not (tmp_path / "more").exists()
