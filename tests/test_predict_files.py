"""Files in, files out: names, ids, boxes, and one bad image among good ones."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polarpix.errors import InputError
from polarpix.images import read_image, read_label
from polarpix.predict import PosePredictor, SegPredictor
from polarpix.predict_files import image_ids, overlay_names, parse_boxes, predict_files


@pytest.fixture
def images(figures: Path, tmp_path: Path) -> Path:
    """A folder of five pictures, for breaking."""
    return shutil.copytree(figures / "images" / "val", tmp_path / "images")


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.mark.parametrize("source", ["{}", "{}/*.jpg", "{}/../*/000?.jpg"])
def test_folders_and_globs(source: str, images: Path, seg: SegPredictor, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert predict_files(seg, [source.format(images)], "", out) == (5, [])
    names = [f"{i:04d}" for i in range(5)]
    assert sorted(p.stem for p in (out / "labels").iterdir()) == names
    assert sorted(p.name for p in (out / "overlays").iterdir()) == [f"{name}.jpg" for name in names]
    np.testing.assert_array_equal(read_label(out / "labels" / "0003.png"), seg(images / "0003.jpg").prediction.label)
    assert read_image(out / "overlays" / "0003.jpg").shape == (64, 64, 3)


def test_keypoints_come_with_the_images_they_are_of(images: Path, pose: PosePredictor, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert predict_files(pose, [str(images), str(images / "0001.jpg")], "", out) == (5, [])  # each once
    pictures, found = read(out / "images.json"), read(out / "keypoints.json")
    assert [one["id"] for one in pictures] == [0, 1, 2, 3, 4]
    assert all((one["width"], one["height"]) == (64, 64) for one in pictures)
    assert [Path(one["file_name"]).name for one in pictures] == [f"{i:04d}.jpg" for i in range(5)]
    assert [one["image_id"] for one in found] == [0, 1, 2, 3, 4]
    expected = pose(images / "0002.jpg").to_coco(2)[0]
    np.testing.assert_allclose(found[2]["keypoints"], expected["keypoints"], atol=1e-3)


def test_bad_images_among_good_ones(images: Path, pose: PosePredictor, tmp_path: Path) -> None:
    (images / "0001.jpg").write_bytes((images / "0001.jpg").read_bytes()[:800])
    (images / "0003.jpg").write_bytes(b"")
    out = tmp_path / "out"
    done, failed = predict_files(pose, [str(images)], "", out)
    assert done == 3
    assert [line.partition(": ")[0] for line in failed] == [str(images / "0001.jpg"), str(images / "0003.jpg")]
    assert all("\n" not in line for line in failed)
    assert [one["image_id"] for one in read(out / "keypoints.json")] == [0, 2, 4]
    before = (out / "keypoints.json").read_bytes()
    assert predict_files(pose, [str(images / "0001.jpg")], "", out)[0] == 0
    assert (out / "keypoints.json").read_bytes() == before  # nothing found, nothing lost


def test_an_interruption_keeps_what_was_found(
    images: Path,
    pose: PosePredictor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    usual = PosePredictor.__call__

    def call(self: PosePredictor, image: Any, boxes: Any = None) -> Any:
        if Path(image).stem == "0002":
            raise KeyboardInterrupt
        return usual(self, image, boxes)

    monkeypatch.setattr(PosePredictor, "__call__", call)
    with pytest.raises(KeyboardInterrupt):
        predict_files(pose, [str(images)], "", tmp_path / "out")
    assert [one["image_id"] for one in read(tmp_path / "out" / "keypoints.json")] == [0, 1]
    assert capsys.readouterr().err.endswith("\n")  # what is said next begins on a line of its own


def test_boxes_of_a_detector(images: Path, pose: PosePredictor, tmp_path: Path) -> None:
    def rows(out: Path) -> list[Any]:
        return [(one["image_id"], one["keypoints"]) for one in read(out / "keypoints.json")]

    box = [5.0, 4.0, 50.0, 55.0]
    page = tmp_path / "found.json"
    by_id = [{"image_id": 1, "category_id": 1, "bbox": box, "score": 0.7}, {"image_id": 3, "bbox": box}]
    by_name = [{"file_name": "0001.jpg", "bbox": box, "score": 0.7}, {"file_name": "val/0003.jpg", "bbox": box}]
    coco = {
        "images": [{"id": 70, "file_name": "0001.jpg"}, {"id": 80, "file_name": "0003.jpg"}],
        "annotations": [
            {"image_id": 70, "bbox": box},
            {"image_id": 80, "bbox": box, "iscrowd": 0},
            {"image_id": 80, "bbox": [0, 0, 9, 9], "iscrowd": 1},
        ],
    }
    outs = []
    for number, content in enumerate((by_id, by_name, coco)):
        page.write_text(json.dumps(content))
        outs.append(tmp_path / str(number))
        assert predict_files(pose, [str(images)], str(page), outs[-1]) == (5, [])
    assert [image for image, _ in rows(outs[0])] == [1, 3]
    assert rows(outs[0]) == rows(outs[1]) == rows(outs[2])
    expected = pose(images / "0001.jpg", [[*box, 0.7]]).to_coco(1)[0]
    assert read(outs[0] / "keypoints.json")[0]["score"] == pytest.approx(expected["score"])
    assert predict_files(pose, [str(images / "0001.jpg")], "5,4,50,55", tmp_path / "text") == (1, [])
    assert rows(tmp_path / "text")[0][1] == pytest.approx(rows(outs[0])[0][1])


def test_detections_of_several_categories(images: Path, pose: PosePredictor, tmp_path: Path) -> None:
    page = tmp_path / "found.json"
    person, car = ({"image_id": 1, "category_id": c, "bbox": [5, 4, 50, 50 + c], "score": 0.9} for c in (1, 3))
    page.write_text(json.dumps([person, car]))
    with pytest.raises(InputError, match=r"found\.json: holds detections of the categories 1, 3: choose"):
        predict_files(pose, [str(images)], str(page), tmp_path / "out")
    with pytest.raises(InputError, match="no detection of category 2: choose one of 1, 3"):
        predict_files(pose, [str(images)], str(page), tmp_path / "out", category=2)
    assert parse_boxes(str(page), 3) == {"1": [[5, 4, 50, 53, 0.9]]}
    assert predict_files(pose, [str(images)], str(page), tmp_path / "out", category=1) == (5, [])
    assert len(read(tmp_path / "out" / "keypoints.json")) == 1


def test_boxes_that_belong_to_no_image(images: Path, pose: PosePredictor, seg: SegPredictor, tmp_path: Path) -> None:
    page = tmp_path / "found.json"
    page.write_text(json.dumps([{"image_id": 99, "bbox": [1, 2, 3, 4]}]))
    with pytest.raises(InputError, match="no detection is of these images"):
        predict_files(pose, [str(images)], str(page), tmp_path / "out")
    with pytest.raises(InputError, match="a segmentation network takes no boxes"):
        predict_files(seg, [str(images)], "1,2,3,4", tmp_path / "out")
    with pytest.raises(InputError, match="no such file or folder"):
        predict_files(seg, [str(images), str(tmp_path / "none")], "", tmp_path / "out")
    with pytest.raises(InputError, match=r"found\.json is no folder: choose another place"):
        predict_files(seg, [str(images)], "", page / "out")
    assert not (tmp_path / "out").exists()
    done, failed = predict_files(pose, [str(images)], "60,60,-3,4", tmp_path / "out")
    assert (done, len(failed)) == (0, 5)
    assert not (tmp_path / "out" / "keypoints.json").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not JSON"),
        ('"text"', "holds no list of detections"),
        ('{"images": []}', "holds no list of detections"),
        ('[{"bbox": [1, 2, 3, 4]}]', "detection 0 has no image_id"),
        ("[7]", "detection 0 has no image_id"),
        ('[{"image_id": 1, "bbox": [1, 2, 3, 4]}, {"image_id": 1}]', "detection 1 has no bbox"),
        ('[{"image_id": 1, "bbox": [1, 2, 3]}]', "detection 0 has no bbox"),
        ('[{"image_id": 1, "bbox": null}]', "detection 0 has no bbox"),
        ('[{"image_id": 1, "bbox": [1, 2, 3, "4"]}]', "detection 0 has no bbox"),
        ('[{"image_id": 1, "bbox": [1, 2, 3, 4], "score": null}]', "detection 0 has no bbox"),
    ],
)
def test_files_that_hold_no_boxes(content: str, words: str, tmp_path: Path) -> None:
    page = tmp_path / "found.json"
    page.write_text(content)
    with pytest.raises(InputError) as caught:
        parse_boxes(str(page))
    assert str(caught.value).startswith(f"{page}: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["1,2,3", "a,b,c,d", "1,2,3,4,5", "boxes.txt", "gone.json"])
def test_texts_that_are_no_boxes(text: str) -> None:
    with pytest.raises(InputError, match=f"--boxes {text}"):
        parse_boxes(text)


def test_no_boxes_and_one_box() -> None:
    assert parse_boxes("") is None
    assert parse_boxes("1, 2.5,3,4") == [[1.0, 2.5, 3.0, 4.0]]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "a/b"]),
            st.sampled_from(["x", "y", "b_x", "b_x_2"]),
            st.sampled_from([".jpg", ".png"]),
        ),
        unique=True,
        max_size=12,
    )
)
def test_every_file_gets_a_name_of_its_own(files: list[tuple[str, str, str]]) -> None:
    paths = [Path(folder) / f"{stem}{suffix}" for folder, stem, suffix in files]
    names = overlay_names(paths)
    assert len(set(names)) == len(paths)
    for path, name in zip(paths, names, strict=True):
        assert path.stem in name
        assert name == path.stem or Counter(p.stem for p in paths)[path.stem] > 1


def test_names_and_ids_by_example() -> None:
    paths = [Path(p) for p in ("a/1.jpg", "b/1.jpg", "b/1.png", "b/2.jpg")]
    assert overlay_names(paths) == ["a_1", "b_1", "b_1_2", "2"]
    assert image_ids(paths) == [1, 2, 3, 4]  # 1 stands for three files
    assert image_ids([Path("000139.jpg"), Path("x/7.png")]) == [139, 7]
    assert image_ids([Path("7.jpg"), Path("cat.jpg")]) == [1, 2]
