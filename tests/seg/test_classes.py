from __future__ import annotations

import numpy as np
from cityscapesscripts.helpers import labels as official

from polarpix.seg.classes import (
    CAMVID,
    CITYSCAPES,
    VOC,
    cityscapes_label_ids,
    cityscapes_train_ids,
    voc_palette,
)


def test_cityscapes_agrees_with_the_official_table():
    ids = np.array([label.id for label in official.labels if label.id >= 0], np.uint8)
    train_ids = np.array([label.trainId for label in official.labels if label.id >= 0], np.uint8)
    np.testing.assert_array_equal(cityscapes_train_ids(ids), train_ids)
    for index, (name, color) in enumerate(zip(CITYSCAPES.names, CITYSCAPES.colors, strict=True)):
        assert official.trainId2label[index].name == name
        assert official.trainId2label[index].color == color


def test_cityscapes_ids_come_back():
    train_ids = np.arange(19, dtype=np.uint8).reshape(1, 19)
    np.testing.assert_array_equal(cityscapes_train_ids(cityscapes_label_ids(train_ids)), train_ids)
    assert cityscapes_label_ids(np.array([[18, 255]], np.uint8)).tolist() == [[33, 0]]


def test_voc_colours():
    assert voc_palette(22)[:3] == ((0, 0, 0), (128, 0, 0), (0, 128, 0))
    assert VOC.colors[VOC.names.index("person")] == (192, 128, 128)
    assert voc_palette(256)[255] == (224, 224, 192)  # the void of the official palette
    assert len(set(voc_palette(256))) == 256


def test_sizes():
    assert [len(table.names) for table in (CAMVID, VOC, CITYSCAPES)] == [11, 21, 19]
