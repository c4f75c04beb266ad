"""What files are: sizes, EXIF, damage, values; and the same from several processes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from polarpix.doctor.scan import THUMB, image_facts, label_facts, scan
from polarpix.images import write_image, write_label


def picture(path: Path, orientation: int = 1) -> Path:
    array = np.random.default_rng(0).integers(0, 255, (30, 40, 3)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(array).save(path, exif=exif)
    return path


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_sizes_are_stored_and_looked_at(orientation: int, tmp_path: Path) -> None:
    facts = image_facts(picture(tmp_path / "a.jpg", orientation))
    assert facts.stored == (30, 40)
    assert facts.orientation == orientation
    assert not facts.error
    assert facts.size == ((40, 30) if orientation >= 5 else (30, 40))
    assert facts.thumb is not None
    assert facts.thumb.shape == (THUMB, THUMB)
    assert len(facts.digest) == 16


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
@pytest.mark.parametrize("kept", [0.0, 0.2, 0.7])
def test_damage_is_seen(name: str, kept: float, tmp_path: Path) -> None:
    whole = picture(tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(kept * len(whole))])
    assert image_facts(tmp_path / name).error
    assert label_facts(tmp_path / name).error
    assert image_facts(tmp_path / "none.png").error == label_facts(tmp_path / "none.png").error == "missing"


def test_labels_give_values_colours_and_loss(tmp_path: Path) -> None:
    label = np.array([[0, 1, 1], [255, 2, 2]], np.uint8)
    write_label(tmp_path / "palette.png", label, ((0, 0, 0), (9, 9, 9), (7, 0, 0)))
    facts = label_facts(tmp_path / "palette.png")
    assert facts.size == (2, 3)
    assert facts.counts is not None
    assert {v: int(facts.counts[v]) for v in (0, 1, 2, 255)} == {0: 1, 1: 2, 2: 2, 255: 1}
    write_image(tmp_path / "colour.png", np.array([[[0, 0, 0], [128, 0, 0]]], np.uint8))
    assert label_facts(tmp_path / "colour.png").colours == ((0, 0, 0), (128, 0, 0))
    Image.fromarray(label).save(tmp_path / "lossy.jpg")
    assert label_facts(tmp_path / "lossy.jpg").lossy
    Image.fromarray(np.array([[0, 300]], np.uint16)).save(tmp_path / "deep.png")
    assert "0..300" in label_facts(tmp_path / "deep.png").error


def test_processes_find_the_same(tmp_path: Path) -> None:
    images = [picture(tmp_path / f"{i}.jpg", i + 1) for i in range(4)]
    write_label(tmp_path / "label.png", np.eye(3, dtype=np.uint8))
    alone, together = (scan(images, [tmp_path / "label.png"], workers, quiet=True) for workers in (0, 2))
    assert [f.digest for f in alone[0].values()] == [f.digest for f in together[0].values()]
    assert [f.size for f in alone[0].values()] == [f.size for f in together[0].values()]
    assert {*alone[1]} == {*together[1]} == {tmp_path / "label.png"}
