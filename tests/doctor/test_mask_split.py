"""Sharing out sets of masks: no picture lost or in two splits, each with its own label, nothing overwritten."""

import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polarpix.cli import run
from polarpix.config import SegDataConfig
from polarpix.doctor import mask_split
from polarpix.doctor.choose import Choice
from polarpix.doctor.mask_split import link_or_copy, split_masks
from polarpix.errors import InputError
from polarpix.images import write_image, write_label
from polarpix.seg.datasets import build_seg_dataset

NAMES = st.text("ab01_ .ä", min_size=1, max_size=4).filter(lambda name: name.strip(" .") == name)
FORMS: dict[str, Callable[[str], tuple[str, str]]] = {
    "camvid": lambda split: (split, f"{split}annot"),
    "folder": lambda split: (f"images/{split}", f"labels/{split}"),
}


def contents(root: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {file.relative_to(root).as_posix(): file.read_bytes() for file in root.rglob("*") if file.is_file()}


def write_set(root: Path, form: str, splits: dict[str, list[str]]) -> dict[str, bytes]:
    """Files that say whose picture and whose label they are; gives all of them."""
    for split, names in splits.items():
        for kind, place in zip(("image", "label"), FORMS[form](split), strict=True):
            (root / place).mkdir(parents=True)
            for name in names:
                ending = "png" if kind == "label" else "jpg"
                (root / place / f"{name}.{ending}").write_text(f"{kind} of {split}/{name}")
    return contents(root)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(
    names=st.lists(NAMES, min_size=2, max_size=8, unique=True),
    cut=st.integers(0, 8),
    form=st.sampled_from(["camvid", "folder"]),
    val=st.sampled_from(["0.3", "1", "a*", "?,0*"]),
    hidden=st.booleans(),
)
def test_no_picture_is_lost_or_in_two_and_labels_stay(
    names: list[str], cut: int, form: str, val: str, hidden: bool, tmp_path: Path
) -> None:
    root = Path(tempfile.mkdtemp(dir=tmp_path)) / "old"
    before = write_set(root, form, {"train": names[:cut], "val": names[cut:], "test": ["t", *names[:1]]})
    if hidden:
        shutil.rmtree(root / FORMS[form]("test")[1])
        before = contents(root)
    out = root.parent / "new"
    try:
        held = Choice(val).held_out([f"{name}.jpg" for name in sorted(names)], root)
    except InputError as refusal:
        with pytest.raises(InputError, match=re.escape(str(refusal))):
            split_masks(root, out, Choice(val))
        assert [path.name for path in root.parent.iterdir()] == ["old"]
        return
    counts, _ = split_masks(root, out, Choice(val))
    assert contents(root) == before
    assert sorted(path.name for path in root.parent.iterdir()) == ["new", "old"]
    after = contents(out)
    assert sorted(after.values()) == sorted(before.values())
    images, labels = ({s: FORMS[form](s)[i] for s in ("train", "val", "test")} for i in (0, 1))
    for split in ("train", "val"):
        pictures = {Path(one).stem: text for one, text in after.items() if one.startswith(f"{images[split]}/")}
        masks = {Path(one).stem: text for one, text in after.items() if one.startswith(f"{labels[split]}/")}
        assert pictures.keys() == {name for i, name in enumerate(sorted(names)) if (i in held) is (split == "val")}
        assert {stem: text.replace(b"image", b"label") for stem, text in pictures.items()} == masks
        assert counts[split] == len(pictures)
    tests = {one: text for one, text in after.items() if one.startswith((f"{images['test']}/", f"{labels['test']}/"))}
    assert tests == {one: text for one, text in before.items() if one in tests}
    assert counts["test"] == 2


def test_folders_without_splits_become_a_set_of_their_own(mask_set: Path, tmp_path: Path) -> None:
    for kind in ("images", "labels"):
        for file in (mask_set / kind / "train").iterdir():
            file.rename(mask_set / kind / file.name)
        shutil.rmtree(mask_set / kind / "train")
        shutil.rmtree(mask_set / kind / "val")
    (mask_set / "classes.yaml").write_text(yaml.safe_dump({"classes": ["a", "b", "c", "d"]}))
    counts, linked = split_masks(mask_set, tmp_path / "new", Choice("0.25", "last"))
    assert (counts, linked) == ({"train": 9, "val": 3}, True)
    data = SegDataConfig(root=str(tmp_path / "new"), classes=list("abcd"))
    assert [Path(file).name for file, _ in build_seg_dataset(data, "val").files] == ["09.jpg", "10.jpg", "11.jpg"]
    for split, count in counts.items():
        found = build_seg_dataset(data, split)
        assert [len(np.unique(found[i].label)) > 1 for i in range(len(found))] == [True] * count
    assert (tmp_path / "new" / "classes.yaml").read_text() == (mask_set / "classes.yaml").read_text()


def test_a_drive_of_camvid_is_held_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As configs/seg/street.yaml does."""
    root = tmp_path / "camvid"
    splits = {"train": ["0001TP_1", "0006R0_1"], "val": ["0006R0_2", "0016E5_1"], "test": ["Seq05VD_1"]}
    for split, names in splits.items():
        for name in names:
            write_image(root / split / f"{name}.png", np.zeros((8, 9, 3), np.uint8))
            write_label(root / f"{split}annot" / f"{name}.png", np.full((8, 9), len(name), np.uint8))
    out = tmp_path / "runs" / "data" / "camvid"
    assert run(["data", "split", str(root), "--val", "0006R0*", "--out", str(out)]) == 0
    assert "train 2, val 2, test 1 pictures (hard links to" in capsys.readouterr().out
    data = SegDataConfig(format="camvid", root=str(out))
    found = {split: [Path(file).stem for file, _ in build_seg_dataset(data, split).files] for split in splits}
    assert found == {"train": ["0001TP_1", "0016E5_1"], "val": ["0006R0_1", "0006R0_2"], "test": ["Seq05VD_1"]}
    with pytest.raises(InputError, match="is there already: name another --out, or remove it"):
        run(["data", "split", str(root), "--val", "0006R0*", "--out", str(out)])
    with pytest.raises(InputError, match=r"--val '0007\*' is the name of none of the 4 pictures \(0001TP_1\.png, 0006"):
        run(["data", "split", str(root), "--val", "0007*", "--out", str(tmp_path / "b")])


@pytest.fixture
def voc_set(tmp_path: Path) -> Path:
    """The folder above VOCdevkit: 2 training, 2 validation and 1 unlabelled test picture, and extra labels of 4."""
    root = tmp_path / "old" / "VOCdevkit" / "VOC2012"
    lists = {"train": ["07_a", "07_b"], "val": ["07_c", "08_d"], "test": ["09_t"]}
    lists["trainaug"] = ["07_a", "07_b", "08_e", "09_f"]
    labelled = {"SegmentationClass": lists["train"] + lists["val"], "SegmentationClassAug": lists["trainaug"]}
    for folder in ("ImageSets/Segmentation", "JPEGImages", *labelled):
        (root / folder).mkdir(parents=True)
    for name, members in lists.items():
        (root / "ImageSets/Segmentation" / f"{name}.txt").write_text("".join(f"{stem}\n" for stem in members))
        for stem in members:
            (root / "JPEGImages" / f"{stem}.jpg").write_text(f"image {stem}")
    for folder, members in labelled.items():
        for stem in members:
            (root / folder / f"{stem}.png").write_text(f"{folder} {stem}")
    return tmp_path / "old"


def read_lists(root: Path) -> dict[str, list[str]]:
    return {file.stem: file.read_text().split() for file in (root / "ImageSets" / "Segmentation").iterdir()}


def test_voc_gets_new_lists(voc_set: Path, tmp_path: Path) -> None:
    before, out = contents(voc_set), tmp_path / "new"
    with pytest.warns(UserWarning, match=r"1 pictures of trainaug\.txt are of the pattern '\*_a,08\*' but"):
        counts, _ = split_masks(voc_set, out, Choice("*_a,08*"))
    assert contents(voc_set) == before
    assert read_lists(out) == {
        "train": ["07_b", "07_c"],
        "val": ["07_a", "08_d"],
        "test": ["09_t"],
        "trainaug": ["07_b", "09_f", "07_c"],
    }
    assert counts == {"train": 2, "val": 2, "test": 1, "trainaug": 3}
    for split, form in (("train", "voc_aug"), ("train", "voc"), ("val", "voc"), ("test", "voc")):
        found = build_seg_dataset(SegDataConfig(format=form, root=str(out)), split)
        assert [image.read_text() for image, _ in found.files] == [f"image {i.stem}" for i, _ in found.files]
        for _, label in found.files if found.labelled else []:
            kind = "SegmentationClassAug" if form == "voc_aug" and label.stem != "07_c" else "SegmentationClass"
            assert label.read_text() == f"{kind} {label.stem}"  # 07_c, new in train, has only its own


def test_lists_of_both_follow_or_are_left_out(voc_set: Path, tmp_path: Path) -> None:
    lists = voc_set / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation"
    (lists / "trainaug.txt").unlink()
    (lists / "few.txt").write_text("07_a\n")
    (lists / "trainval.txt").write_text((lists / "train.txt").read_text() + (lists / "val.txt").read_text())
    with pytest.warns(UserWarning, match=r"few\.txt is left out"):
        counts, _ = split_masks(voc_set, tmp_path / "new", Choice("1", "last"))
    assert counts == {"train": 3, "val": 1, "test": 1}
    assert read_lists(tmp_path / "new")["trainval"] == ["07_a", "07_b", "07_c", "08_d"]
    assert read_lists(tmp_path / "new").keys() == {"train", "val", "test", "trainval"}


def test_cityscapes_and_other_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "city" / "leftImg8bit").mkdir(parents=True)
    with pytest.raises(InputError, match="laid out as Cityscapes, whose splits are official and by city"):
        split_masks(tmp_path / "city", tmp_path / "new", Choice())
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="laid out as none of VOC"):
        split_masks(tmp_path / "empty", tmp_path / "new", Choice())
    with pytest.raises(InputError, match="no such COCO keypoint file, nor a folder"):
        run(["data", "split", str(tmp_path / "nothing"), "--out", str(tmp_path / "new")])
    assert not (tmp_path / "new").exists()


def test_what_would_lose_a_picture_is_refused(mask_set: Path, tmp_path: Path) -> None:
    def refused(words: str) -> None:
        with pytest.raises(InputError, match=words):
            split_masks(mask_set, tmp_path / "new", Choice("0.5"))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["masks"]

    refused("has the same name, and both may come into one split")  # 00.jpg of train and of val
    for kind in ("images", "labels"):
        shutil.rmtree(mask_set / kind / "val")
        (mask_set / kind / "train").rename(mask_set / kind / "all")
    with pytest.raises(InputError, match=r"lies in .*masks, which stays as it is"):
        split_masks(mask_set, mask_set / "new", Choice("0.5"))
    with pytest.raises(InputError, match="--out is missing"):
        split_masks(mask_set, "", Choice("0.5"))
    (mask_set / "labels" / "all" / "03.png").unlink()
    refused(r"03\.jpg: image has no label PNG in")
    (mask_set / "images" / "all" / "03.jpg").rename(mask_set / "images" / "03.jpg")
    refused(r"03\.jpg: lies beside the folders of the splits \(all\)")
    (mask_set / "images" / "03.jpg").unlink()
    shutil.move(mask_set / "labels" / "all", mask_set / "labels" / "a")
    refused("has the splits a, all, none called train or val")
    (mask_set / "images" / "all").rename(mask_set / "images" / "train")
    refused(r"labels/train: no such folder, but it has a partner")


def test_links_are_followed_and_copies_made_where_there_are_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_set(tmp_path / "old", "folder", {"all": ["a", "b", "c"]})
    shutil.move(tmp_path / "old/images/all/a.jpg", tmp_path / "elsewhere.jpg")
    (tmp_path / "old/images/all/a.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    write_set(tmp_path / "old", "folder", {"test": ["t"]})
    assert split_masks(tmp_path / "old", tmp_path / "links", Choice("a")) == ({"train": 2, "val": 1, "test": 1}, True)
    assert (tmp_path / "links/images/val/a.jpg").stat().st_ino == (tmp_path / "elsewhere.jpg").stat().st_ino

    def no_links(source: object, target: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_links)
    assert not split_masks(tmp_path / "old", tmp_path / "copies", Choice("a"))[1]
    assert contents(tmp_path / "copies") == contents(tmp_path / "links")
    with pytest.raises(InputError, match="another file has the same name but for upper and lower case"):
        link_or_copy(tmp_path / "elsewhere.jpg", tmp_path / "copies/images/val/a.jpg")
    assert not any(path.is_symlink() for out in ("links", "copies") for path in (tmp_path / out).rglob("*"))


def test_half_a_set_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(tmp_path / "old", "folder", {"all": ["a", "b", "c"]})
    done: list[Path] = []

    def interrupted(file: Path, target: Path) -> bool:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(target)
        return link_or_copy(file, target)

    monkeypatch.setattr(mask_split, "link_or_copy", interrupted)
    with pytest.raises(KeyboardInterrupt):
        split_masks(tmp_path / "old", tmp_path / "new", Choice("1"))
    assert len(done) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old"]
    (tmp_path / ".new.part").mkdir()  # as a kill leaves it
    (tmp_path / ".new.part" / "half.png").touch()
    with pytest.raises(InputError, match=r"\.new\.part: was left by a split that was killed"):
        split_masks(tmp_path / "old", tmp_path / "new", Choice("1"))
    assert (tmp_path / ".new.part" / "half.png").exists()


def test_random_draws_of_a_film_are_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(tmp_path / "old", "camvid", {"train": ["b", "d"], "val": ["a", "c"], "test": ["e"]})
    looked: list[list[str]] = []
    note = lambda self, files, source: looked.append([file.stem for file in files])  # noqa: E731
    monkeypatch.setattr(Choice, "warn_of_neighbours", note)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        split_masks(tmp_path / "old", tmp_path / "new", Choice("1"))
    assert looked == [["a", "b", "c", "d"]]  # of both splits, by name
