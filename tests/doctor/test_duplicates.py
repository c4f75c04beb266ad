"""The same picture is known again after saving, scaling and light; another picture of one camera is not the same."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from polarpix.doctor.duplicates import exact_pairs, fingerprint, near_pairs
from polarpix.doctor.scan import ImageFacts, image_facts
from polarpix.images import write_image
from polarpix.types import UInt8Array


def scene(seed: int, size: int = 256) -> UInt8Array:
    noise = np.random.default_rng(seed).uniform(0, 255, (9, 9, 3)).astype(np.float32)
    return np.clip(cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)


def facts(folder: Path, name: str, picture: UInt8Array) -> ImageFacts:
    write_image(folder / name, picture)
    return image_facts(folder / name)


CHANGES = {
    "saved as JPEG": lambda p: cv2.imdecode(cv2.imencode(".jpg", p, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], 1),
    "half as large": lambda p: cv2.resize(p, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "brighter": lambda p: np.clip(p * 0.85 + 20, 0, 255).astype(np.uint8),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_near(change: str, tmp_path: Path) -> None:
    images = [facts(tmp_path, f"{i}.png", scene(i)) for i in range(6)]
    copy = facts(tmp_path, "copy.png", CHANGES[change](scene(3)))
    found = near_pairs([*images, copy], [0] * 6 + [1])
    assert [(pair.first, pair.second) for pair in found] == [(3, 6)]
    assert not near_pairs([*images, copy], [0] * 7)  # within one split it is no leak
    assert not exact_pairs([*images, copy])


@pytest.mark.parametrize(
    ("size", "smaller"), [((331, 500), (225, 340)), ((150, 97), (105, 68)), ((517, 389), (621, 467))]
)
def test_a_jpeg_scaled_by_any_factor_is_near(size: tuple[int, int], smaller: tuple[int, int], tmp_path: Path) -> None:
    """A JPEG is read at a part of its size, whose last blocks reach beyond the picture."""
    sharp = np.random.default_rng(5).uniform(0, 255, (40, 40, 3)).astype(np.float32)
    picture = np.clip(cv2.resize(sharp, size[::-1], interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)
    copy = cv2.resize(picture, smaller[::-1], interpolation=cv2.INTER_AREA)
    assert near_pairs([facts(tmp_path, "one.jpg", picture), facts(tmp_path, "copy.jpg", copy)], [0, 1])


def test_the_same_file_is_exact_and_not_near(tmp_path: Path) -> None:
    images = [facts(tmp_path, f"{i}.png", scene(i % 2)) for i in range(4)]
    assert [(pair.first, pair.second) for pair in exact_pairs(images)] == [(0, 2), (1, 3)]
    assert not near_pairs(images, [0, 0, 1, 1])


def test_a_thing_that_moved_before_a_still_camera_makes_another_picture(tmp_path: Path) -> None:
    images = []
    for i in range(30):
        picture = scene(0)
        cv2.circle(picture, (30 + 6 * i, 60 + 3 * i), 14, (0, 0, 0), -1)
        images.append(facts(tmp_path, f"{i}.png", picture))
    assert not near_pairs(images, [i % 2 for i in range(30)])


def test_plain_pictures_are_not_compared(tmp_path: Path) -> None:
    images = [facts(tmp_path, f"{i}.png", np.full((64, 64, 3), 100 + i, np.uint8)) for i in range(4)]
    assert not near_pairs(images, [0, 1, 0, 1])


def test_no_near_pair_is_lost_to_the_bands(tmp_path: Path) -> None:
    """Against comparing everything with everything, on pictures that differ little or much."""
    rng = np.random.default_rng(0)
    images, groups = [], []
    for i in range(60):
        base = rng.integers(0, 12)
        thumb = cv2.resize(scene(int(base), 32), (32, 32))[:, :, 0].astype(float) + rng.normal(
            0, rng.uniform(0, 6), (32, 32)
        )
        grey = np.clip(thumb, 0, 255).astype(np.uint8)
        images.append(ImageFacts(tmp_path / str(i), "", (32, 32), 1, bytes([i]), grey))
        groups.append(int(rng.integers(0, 2)))
    even = [(f.thumb - f.thumb.mean()) / f.thumb.std() * 50 for f in images if f.thumb is not None]
    bits = [fingerprint(f.thumb) for f in images if f.thumb is not None]
    wanted = set()
    for a in range(60):
        for b in range(a + 1, 60):
            gap = even[a] - even[b]
            alike = np.sqrt((gap**2).mean()) <= 3.5 and np.abs(gap).max() <= 14 and (bits[a] != bits[b]).sum() < 8
            if alike and groups[a] != groups[b]:
                wanted.add((a, b))
    assert wanted
    assert {(pair.first, pair.second) for pair in near_pairs(images, groups)} == wanted
