from __future__ import annotations

import os

import numpy as np
import pytest

from polarpix.config import SegDataConfig
from polarpix.errors import InputError
from polarpix.images import write_image, write_label
from polarpix.seg.datasets import SegDataset, build_seg_dataset
from polarpix.seg.uniform import class_index, draw_uniform


@pytest.fixture
def dataset(tmp_path) -> SegDataset:
    for name, values in {"a": (0, 1), "b": (0, 255), "c": (1, 3)}.items():
        write_image(tmp_path / f"images/train/{name}.png", np.zeros((2, 2, 3), np.uint8))
        write_label(tmp_path / f"labels/train/{name}.png", np.resize(np.array(values, np.uint8), (2, 2)))
    return build_seg_dataset(SegDataConfig(format="folder", root=str(tmp_path), classes=list("wxyz")), "train")


def test_index_lists_the_images_of_each_class(dataset):
    assert class_index(dataset) == [[0, 1], [0, 2], [], [2]]


def test_cache_is_used_until_a_label_changes(dataset, tmp_path):
    cache = tmp_path / "deep" / "cache"
    assert class_index(dataset, cache) == [[0, 1], [0, 2], [], [2]]
    (kept,) = cache.iterdir()
    kept.write_text(kept.read_text().replace("[0, 1]", "[1, 0]"))
    assert class_index(dataset, cache) == [[1, 0], [0, 2], [], [2]]  # read, not counted
    path = dataset.files[1][1]
    write_label(path, np.full((2, 2), 2, np.uint8))
    os.utime(path, ns=(1, 1))
    assert class_index(dataset, cache) == [[0], [0, 2], [1], [2]]
    assert len(list(cache.iterdir())) == 2  # sets do not push each other out
    for text in ("{ broken", '{"positions": []}', "null", "[[0], [null]]"):
        for file in cache.iterdir():
            file.write_text(text)
        assert class_index(dataset, cache) == [[0], [0, 2], [1], [2]]


def test_what_cannot_be_kept_is_counted_all_the_same(dataset, tmp_path):
    (tmp_path / "file").touch()
    assert class_index(dataset, tmp_path / "file" / "cache") == [[0, 1], [0, 2], [], [2]]


def test_classes_are_drawn_equally_and_images_hold_them():
    index = [list(range(100)), [7], [], [3, 4]]
    rng = np.random.default_rng(0)
    drawn = [draw_uniform(index, rng) for _ in range(3000)]
    assert all(position in index[c] for position, c in drawn)
    counts = np.bincount([c for _, c in drawn], minlength=4)
    assert counts[2] == 0
    assert np.abs(counts[[0, 1, 3]] - 1000).max() < 100
    assert len({position for position, c in drawn if c == 0}) > 90


def test_a_split_without_labels_cannot_be_drawn_from():
    with pytest.raises(InputError, match=r"data\.uniform to 0"):
        draw_uniform([[], []], np.random.default_rng(0))
