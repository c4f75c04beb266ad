"""The models in the box on the demonstration's page, with small networks in their place."""

from pathlib import Path

import numpy as np
import pytest

from polarpix.demo import boxed
from polarpix.demo.boxed import boxed_section, read_photo
from polarpix.demo.figures import draw_scene
from polarpix.errors import InputError
from polarpix.images import write_image
from polarpix.zoo import MODELS, BoxedModel

SCENES = [draw_scene(np.random.default_rng([0, n]), (64, 64)) for n in range(2)]


@pytest.fixture
def both(pose_folder: Path, seg_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small network for each name."""
    for name, folder in (("body", pose_folder), ("street", seg_folder)):
        monkeypatch.setitem(MODELS, name, BoxedModel(folder / "weights" / "best.safetensors", "figures"))


@pytest.mark.usefixtures("both")
def test_without_a_photograph_they_look_at_drawings_and_the_page_says_so() -> None:
    section = boxed_section(SCENES)
    assert section is not None
    assert "have never seen a drawing" in section.text
    (_, sheet), (_, key) = section.pictures
    assert sheet.shape[1] >= 4 * 128
    assert sheet.std() > 20
    assert key.size


@pytest.mark.usefixtures("both")
def test_a_photograph_is_taken_instead() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    section = boxed_section(SCENES, photo)
    assert section is not None
    assert "drawing" not in section.text
    assert 2 * 120 <= section.pictures[0][1].shape[1] < 3 * 120


def test_an_installation_without_them_says_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(MODELS, "street", BoxedModel(tmp_path / "street.safetensors", "nothing"))
    monkeypatch.setitem(MODELS, "body", BoxedModel(Path(__file__), "there"))
    assert boxed_section(SCENES) is None
    said = capsys.readouterr().out
    assert said == "the models in the box are left out: street not in this installation\n"


def test_a_large_photograph_is_made_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boxed, "SIDE", 50)
    write_image(tmp_path / "a.png", np.zeros((40, 100, 3), np.uint8))
    assert read_photo(tmp_path / "a.png").shape == (20, 50, 3)
    with pytest.raises(InputError, match=r"nothing\.jpg"):
        read_photo(tmp_path / "nothing.jpg")
