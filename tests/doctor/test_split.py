"""Sharing out the pictures of a COCO file: nothing lost, nothing in both, the same draw for the same seed."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polarpix.cli import run
from polarpix.doctor.choose import Choice
from polarpix.doctor.split import split_file, split_table
from polarpix.errors import InputError


def table(count: int) -> dict[str, Any]:
    """So many pictures with ids that skip, two instances on each but the first."""
    images = [{"id": 3 * i, "file_name": f"{'ab'[i % 2]}/{i}.jpg", "width": 9, "height": 9} for i in range(count)]
    notes = [{"id": i, "image_id": 3 * (i // 2), "category_id": 1} for i in range(2, 2 * count)]
    return {"images": images, "annotations": notes, "categories": [{"id": 1, "name": "a"}], "info": {"year": 2026}}


@given(
    count=st.integers(2, 40),
    share=st.floats(0.01, 0.99).map(str) | st.just("b/*"),
    seed=st.integers(0, 9),
    how=st.sampled_from(["random", "last"]),
)
def test_nothing_is_lost_and_nothing_in_both(count: int, share: str, seed: int, how: str) -> None:
    whole, pattern = table(count), share == "b/*"
    choice = Choice(share, "random" if pattern else how, seed)
    many = count // 2 if pattern else round(float(share) * count)
    if not 0 < many < count:
        with pytest.raises(InputError, match="train and val both need some"):
            split_table(whole, choice)
        return
    train, val = split_table(whole, choice)
    assert len(val["images"]) == many
    for part in (train, val):
        ids = {image["id"] for image in part["images"]}
        assert part["annotations"] == [note for note in whole["annotations"] if note["image_id"] in ids]
        assert (part["categories"], part["info"]) == (whole["categories"], whole["info"])
    both = sorted(image["id"] for part in (train, val) for image in part["images"])
    assert both == [image["id"] for image in whole["images"]]
    assert split_table(whole, choice) == (train, val)


def test_the_last_pictures_are_those_of_the_highest_ids() -> None:
    whole = table(5)
    whole["images"].reverse()
    _, val = split_table(whole, Choice("2", "last", seed=7))
    assert [image["id"] for image in val["images"]] == [12, 9]
    assert split_table(table(40), Choice("10")) != split_table(table(40), Choice("10", seed=1))


def test_files_are_written_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "all.json").write_text(json.dumps(table(10)))
    assert run(["data", "split", str(tmp_path / "all.json"), "--out", str(tmp_path / "parts"), "--val", "0.3"]) == 0
    assert "7 images" in capsys.readouterr().out
    val = json.loads((tmp_path / "parts" / "val.json").read_text())
    assert len(val["images"]) == 3
    with pytest.raises(InputError, match=r"train\.json: is there already"):
        split_file(tmp_path / "all.json", tmp_path / "parts", Choice("0.3"))
    with pytest.raises(InputError, match="is the name of none of the 10 pictures"):
        split_file(tmp_path / "all.json", tmp_path / "more", Choice("c/*"))
    assert not (tmp_path / "more").exists()


def test_pictures_beside_the_file_are_looked_at(pose_set: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[list[Path]] = []
    monkeypatch.setattr(Choice, "warn_of_neighbours", lambda self, files, source: looked.append(list(files)))
    split_file(pose_set.root / "annotations" / "train.json", pose_set.root / "parts", Choice("2"))
    assert looked == [[pose_set.image("train", i) for i in range(8)]]
