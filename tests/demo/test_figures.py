"""The embedded data: exact, deterministic, valid as COCO, and mirrored as people are."""

import contextlib
import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from polarpix.demo.body import JOINTS, random_figure
from polarpix.demo.figures import FIGURE_CLASSES, FIGURE_SCHEMA, Scene, draw_scene, write_figures
from polarpix.demo.paint import PATTERNS, Canvas, Cloth
from polarpix.errors import InputError
from polarpix.images import read_image, read_label

SIZE = (96, 128)


def scene(seed: int, size: tuple[int, int] = SIZE) -> Scene:
    return draw_scene(np.random.default_rng(seed), size)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32), size=st.sampled_from([(32, 32), (96, 128), (150, 90)]))
def test_everything_in_a_scene_agrees(seed: int, size: tuple[int, int]) -> None:
    found = scene(seed, size)
    n, k = len(found.boxes), len(FIGURE_SCHEMA.names)
    assert 1 <= n <= 3
    assert found.image.shape == (*size, 3)
    assert found.image.dtype == found.label.dtype == found.instances.dtype == np.uint8
    assert found.keypoints.shape == (n, k, 2)
    assert found.visibility.shape == (n, k)
    assert found.label.max() < len(FIGURE_CLASSES.names)
    np.testing.assert_array_equal(found.label > 0, found.instances > 0)
    for i in range(n):
        own = found.instances == i + 1
        assert found.areas[i] == own.sum()
        x, y, w, h = found.boxes[i].astype(int)
        assert 0 <= x < x + w <= size[1]
        assert 0 <= y < y + h <= size[0]
        rows, columns = np.nonzero(own)
        assert not len(rows) or (
            columns.min() >= x and columns.max() < x + w and rows.min() >= y and rows.max() < y + h
        )
        for (column, row), flag in zip(np.rint(found.keypoints[i]).astype(int), found.visibility[i], strict=True):
            within = 0 <= row < size[0] and 0 <= column < size[1]
            assert flag in (0, 1, 2)
            assert within or flag == 0
            assert flag != 2 or own[row, column]


def test_seen_joints_lie_on_the_parts_they_join() -> None:
    names = FIGURE_CLASSES.names
    allowed = {
        "head_top": {"head"},
        "neck": {"head", "torso"},
        "shoulder": {"torso", "upper_arm"},
        "elbow": {"upper_arm", "lower_arm"},
        "wrist": {"lower_arm"},
        "hip": {"torso", "upper_leg"},
        "knee": {"upper_leg", "lower_leg"},
        "ankle": {"lower_leg"},
    }
    flags = []
    for seed in range(30):
        found = scene(seed)
        for points, visibility in zip(found.keypoints, found.visibility, strict=True):
            flags += visibility.tolist()
            for joint, (x, y), flag in zip(JOINTS, np.rint(points).astype(int), visibility, strict=True):
                if flag == 2:
                    kind = joint if joint in allowed else joint.partition("_")[2]
                    assert names[found.label[y, x]] in allowed[kind]
    shares = np.bincount(flags, minlength=3) / len(flags)
    assert shares[2] > 0.6  # most joints are seen
    assert shares[1] > 0.05  # a good many are hidden
    assert shares[0] > 0.002


def test_front_and_back_views_both_occur_and_tell_left_from_right() -> None:
    rng = np.random.default_rng(0)
    left, right = JOINTS.index("left_shoulder"), JOINTS.index("right_shoulder")
    front = []
    for _ in range(200):
        figure = random_figure(rng, (50.0, 50.0), 80.0)
        offset = figure.joints[left, 0] - figure.joints[right, 0]
        front.append(figure.torso[2, 2] > 0)
        if abs(figure.torso[2, 2]) > 0.5 and abs(figure.torso[1, 1]) > 0.9:
            assert (offset > 0) == (figure.torso[2, 2] > 0)  # facing the viewer, the figure's left is on the right
    assert 0.6 < np.mean(front) < 0.95


def test_bones_keep_their_length_in_space() -> None:
    rng = np.random.default_rng(1)
    for start, end in (("left_hip", "left_knee"), ("right_elbow", "right_wrist")):
        lengths = []
        for _ in range(20):
            figure = random_figure(rng, (0.0, 0.0), 100.0)
            lengths.append(np.linalg.norm(figure.places[start] - figure.places[end]))
        np.testing.assert_allclose(lengths, lengths[0], rtol=1e-9)


@pytest.mark.parametrize("reach", [20.0, 200.0])
def test_a_figure_keeps_within_its_reach(reach: float) -> None:
    joints = random_figure(np.random.default_rng(2), (60.0, 40.0), 100.0, reach).joints
    assert np.ptp(joints, axis=0).max() <= reach + 1e-3
    np.testing.assert_allclose((joints.min(axis=0) + joints.max(axis=0)) / 2, (60, 40), atol=1e-4)


def test_same_seed_same_bits() -> None:
    first, second, other = scene(5), scene(5), scene(6)
    for name in Scene.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert (first.image != other.image).any()


def test_too_small_a_scene_is_refused() -> None:
    with pytest.raises(InputError, match=r"31x40.*at least 32"):
        scene(0, (31, 40))


def digest(root: Path) -> dict[str, str]:
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_a_set_is_bit_equal_and_grows_at_its_end(tmp_path: Path) -> None:
    write_figures(tmp_path / "a", 3, 2, 1, SIZE, seed=4)
    write_figures(tmp_path / "b", 3, 2, 1, SIZE, seed=4)
    write_figures(tmp_path / "c", 4, 2, 0, SIZE, seed=4)
    write_figures(tmp_path / "d", 3, 2, 1, SIZE, seed=5)
    a, c, d = digest(tmp_path / "a"), digest(tmp_path / "c"), digest(tmp_path / "d")
    assert a == digest(tmp_path / "b")
    assert sorted(a) == sorted(
        [
            *(f"images/train/000{i}.jpg" for i in range(3)),
            *(f"labels/train/000{i}.png" for i in range(3)),
            *(f"{kind}/val/000{i}.{end}" for i in range(2) for kind, end in (("images", "jpg"), ("labels", "png"))),
            "images/test/0000.jpg",
            "labels/test/0000.png",
            *(f"annotations/{split}.json" for split in ("train", "val", "test")),
        ]
    )
    assert all(c[name] == a[name] for name in a if name.startswith(("images/train", "labels/train")))
    assert not any("test" in name for name in c)
    assert not any(d[name] == a[name] for name in a)
    assert len({a[f"images/{split}/0000.jpg"] for split in ("train", "val", "test")}) == 3


def test_the_files_say_what_the_scenes_say(tmp_path: Path) -> None:
    write_figures(tmp_path, 4, 0, 0, SIZE, seed=7)
    table = json.loads((tmp_path / "annotations/train.json").read_text())
    category = table["categories"][0]
    assert tuple(category["keypoints"]) == FIGURE_SCHEMA.names
    assert [[a - 1, b - 1] for a, b in category["skeleton"]] == [list(pair) for pair in FIGURE_SCHEMA.skeleton]
    for i, entry in enumerate(table["images"]):
        found = draw_scene(np.random.default_rng([7, 0, i]), SIZE)
        np.testing.assert_array_equal(read_label(tmp_path / "labels/train" / f"{i:04d}.png"), found.label)
        image = read_image(tmp_path / "images/train" / entry["file_name"])
        assert np.abs(image.astype(int) - found.image).mean() < 12  # JPEG
        assert (entry["height"], entry["width"]) == SIZE
        notes = [note for note in table["annotations"] if note["image_id"] == entry["id"]]
        kept = [n for n in range(len(found.boxes)) if found.areas[n]]
        assert len(notes) == len(kept)
        for note, n in zip(notes, kept, strict=True):
            rows = np.array(note["keypoints"]).reshape(-1, 3)
            np.testing.assert_array_equal(rows[:, 2], found.visibility[n])
            seen = rows[:, 2] > 0
            assert note["num_keypoints"] == seen.sum()
            assert (rows[~seen] == 0).all()
            np.testing.assert_allclose(rows[seen, :2], found.keypoints[n][seen], atol=0.0051)
            assert note["bbox"] == found.boxes[n].tolist()
            assert note["area"] == found.areas[n]


def test_pycocotools_reads_the_set_and_a_perfect_answer_scores_one(tmp_path: Path) -> None:
    write_figures(tmp_path, 0, 6, 0, SIZE, seed=3)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(tmp_path / "annotations/val.json"))
        notes = truth.loadAnns(truth.getAnnIds())
        answers = [
            {key: note[key] for key in ("image_id", "category_id", "keypoints")} | {"score": 1.0}
            for note in notes
            if note["num_keypoints"]
        ]
        test = COCOeval(truth, truth.loadRes(answers), "keypoints")
        test.params.kpt_oks_sigmas = np.array(FIGURE_SCHEMA.sigmas)
        test.evaluate()
        test.accumulate()
        test.summarize()
    assert test.stats[0] == pytest.approx(1.0)
    for note in notes:  # the outlines cover the mask
        if note["segmentation"]:
            assert truth.annToMask(note).sum() == pytest.approx(note["area"], rel=0.35, abs=20)


def test_schema_pairs_sides_and_joins_neighbours() -> None:
    names = FIGURE_SCHEMA.names
    assert len(FIGURE_SCHEMA.flip_pairs) == 6
    for a, b in FIGURE_SCHEMA.flip_pairs:
        assert names[a].removeprefix("left_") == names[b].removeprefix("right_")
        assert FIGURE_SCHEMA.sigmas[a] == FIGURE_SCHEMA.sigmas[b]
    reached = {0}
    for _ in names:
        reached |= {i for pair in FIGURE_SCHEMA.skeleton if reached & set(pair) for i in pair}
    assert reached == set(range(len(names)))


def test_counts_below_zero_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="val split of -1"):
        write_figures(tmp_path, 0, -1)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_mix_their_two_colours(pattern: str) -> None:
    y, x = np.mgrid[:40, :40].astype(np.float32)
    color = Cloth((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), pattern, period=10.0).paint(x, y)
    np.testing.assert_allclose(color[0] + color[1], 1, atol=1e-6)
    assert np.all(color[2] == 0)
    assert (color[1].max() > 0.9) == (pattern != "plain")


def test_a_tube_covers_what_its_mask_claims() -> None:
    canvas = Canvas(np.zeros((3, 40, 60), np.float32), (0.0, 0.0, 1.0), np.ones((40, 60), np.float32))
    canvas.solid(np.array([15.0, 20.0]), np.array([45.0, 20.0]), (5.0, 5.0, 0.0), Cloth((1.0, 1.0, 1.0)), piece=9)
    y, x = np.mgrid[:40, :60]
    np.testing.assert_array_equal(canvas.piece == 9, np.hypot(x - np.clip(x, 15, 45), y - 20) <= 5)
    assert canvas.image[0][canvas.piece == 0].max() <= 0.5 * 1.1  # at most the soft half of an edge pixel
    assert canvas.image[0, 20, 30] == pytest.approx(1.1, abs=1e-3)
    np.testing.assert_array_equal(canvas.silhouette, canvas.piece == 9)
