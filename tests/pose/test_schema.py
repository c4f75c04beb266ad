"""Schemas: files, categories, guessed mirrors, default sigmas."""

import warnings
from pathlib import Path

import pytest

from polarpix.errors import InputError
from polarpix.pose.schema import COCO_SIGMAS, load_schema, mirror_pairs, save_schema, schema_from_category

COCO = {"name": "person", "keypoints": list(COCO_SIGMAS), "skeleton": [[16, 14], [1, 2]]}


@pytest.mark.parametrize(
    "names",
    [
        ("left_ear", "right_ear"),
        ("leftear", "rightear"),
        ("Left Ear", "Right Ear"),
        ("ear.Left", "ear.Right"),
        ("earLeft", "earRight"),
        ("l_ear", "r_ear"),
        ("ear_l", "ear_r"),
        ("L-ear", "R-ear"),
        ("earL", "earR"),
        ("Lear", "Rear"),
        ("lEar", "rEar"),
        ("FL_paw", "FR_paw"),
        ("pawLFront", "pawRFront"),
        ("upper_left_lip", "upper_right_lip"),
        ("ear_l2", "ear_r2"),
    ],
)
def test_mirror_is_found_in_every_spelling(names: tuple[str, str]) -> None:
    assert mirror_pairs(("nose", names[0], "tail", names[1])) == ((1, 3),)
    assert mirror_pairs((names[1], "tailbase", names[0])) == ((0, 2),)


def test_no_mirror_is_invented() -> None:
    assert mirror_pairs(("nose", "tail", "left_ear", "rear", "lip", "collar")) == ()


def test_front_and_back_are_not_mixed_up() -> None:
    names = ("left_front_paw", "right_front_paw", "left_back_paw", "right_back_paw")
    assert mirror_pairs(names) == ((0, 1), (2, 3))


def test_coco_category() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        schema = schema_from_category(COCO, "coco.json")
    assert schema.flip_pairs == tuple((i, i + 1) for i in range(1, 17, 2))
    assert schema.skeleton == ((15, 13), (0, 1))  # counted from 1 in the file
    assert schema.sigmas[0] == 0.026
    assert schema.sigmas_from == "coco"
    assert schema.category == "person"


def test_default_sigmas_are_said_in_one_line() -> None:
    names = ["snout", "leftear", "LKnee", "head_top", "hip-r"]
    with pytest.warns(UserWarning, match="mine.json: no OKS sigmas given") as caught:
        schema = schema_from_category({"name": "beast", "keypoints": names}, "mine.json")
    assert schema.sigmas == (0.0669, 0.035, 0.087, 0.079, 0.107)
    text = str(caught[0].message)
    assert len(caught) == 1
    assert "\n" not in text
    assert "snout 0.0669, leftear 0.035" in text
    assert schema.sigmas_from in text


def test_given_sigmas_need_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        schema = schema_from_category({"name": "x", "keypoints": ["a", "b"], "sigmas": [0.1, 0.2]}, "x.json")
    assert schema.sigmas == (0.1, 0.2)
    assert schema.sigmas_from == "annotation file"


def test_file_by_name_and_by_index(tmp_path: Path) -> None:
    path = tmp_path / "schema.yaml"
    path.write_text(
        "category: fly\nnames: [head, wing_a, wing_b]\nflip_pairs: [[wing_a, wing_b]]\n"
        "skeleton: [[0, 1], [head, wing_b]]\nsigmas: [0.05, 0.1, 0.1]\n"
    )
    schema = load_schema(path)
    assert schema.flip_pairs == ((1, 2),)
    assert schema.skeleton == ((0, 1), (0, 2))
    assert (schema.category, schema.sigmas_from) == ("fly", "schema file")
    assert schema.flip_order == (0, 2, 1)


def test_file_guesses_pairs_only_if_not_given(tmp_path: Path) -> None:
    path = tmp_path / "schema.yaml"
    path.write_text("names: [l_ear, r_ear]\nsigmas: [0.1, 0.1]\n")
    assert load_schema(path).flip_pairs == ((0, 1),)
    path.write_text("names: [l_ear, r_ear]\nsigmas: [0.1, 0.1]\nflip_pairs: []\n")
    assert load_schema(path).flip_pairs == ()


@pytest.mark.filterwarnings("ignore:.*no OKS sigmas")
def test_saved_schema_comes_back(tmp_path: Path) -> None:
    for category in (COCO, {"name": "mouse", "keypoints": ["snout", "ohr_l", "ohr_r", "Fuß"], "skeleton": [[1, 4]]}):
        schema = schema_from_category(category, "some.json")
        save_schema(schema, tmp_path / "schema.yaml")
        assert load_schema(tmp_path / "schema.yaml") == schema


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[a, b]", "list 'names'"),
        ("names: [a, b\n", "not YAML"),
        ("names: [a, b]\nsigma: [1, 1]", "unknown key 'sigma'"),
        ("names: [a, 3]", "non-empty strings"),
        ("names: [a, b]\nflip_pairs: [[a, c]]", "no pair of keypoints"),
        ("names: [a, b]\nskeleton: [[0, 2]]", "0..1"),
        ("names: [a, b]\nskeleton: [a, b]", "give pairs"),
        ("names: [a, b]\nsigmas: [0.1]", "1 sigmas for 2 names"),
        ("names: [a, b]\nsigmas: 0.1", "list of numbers"),
        ("names: [a, a]\nsigmas: [1, 1]", "repeat"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*no OKS sigmas")
def test_bad_file_is_one_clear_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "schema.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        load_schema(path)
    assert str(path) in str(error.value)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_file_and_empty_category() -> None:
    with pytest.raises(InputError, match=r"nowhere\.yaml: cannot read"):
        load_schema("nowhere.yaml")
    with pytest.raises(InputError, match="category 'box' names no keypoints"):
        schema_from_category({"name": "box"}, "x.json")
    with pytest.raises(InputError, match=r"indices must lie in 1\.\.2"):
        schema_from_category({"name": "x", "keypoints": ["a", "b"], "skeleton": [[0, 1]]}, "x.json")
