"""What a segmentation shows beside its metrics."""

from pathlib import Path

import numpy as np
import pytest
import torch

from polarpix.config import SegDataConfig
from polarpix.demo.figures import FIGURE_CLASSES
from polarpix.seg.analysis import Ranking, picture_score
from polarpix.seg.datasets import SegDataset, build_seg_dataset
from polarpix.seg.miou import ConfusionMatrix
from polarpix.seg.page import confusion_sections, seg_findings
from polarpix.types import ClassTable, UInt8Array


@pytest.fixture(scope="module")
def data(figures: Path) -> SegDataset:
    """The validation split of the figures: 5 pictures."""
    config = SegDataConfig(format="folder", root=str(figures), classes=list(FIGURE_CLASSES.names))
    return build_seg_dataset(config, "val")


def test_tables_bars_and_pictures(data: SegDataset, figures: Path) -> None:
    """The fourth picture is predicted as background everywhere, the others as they are."""
    matrix, ranking = ConfusionMatrix(7), Ranking([0], 1)
    for i in range(len(data)):
        label = data[i].label
        guess = np.zeros_like(label) if i == 3 else label
        cells = matrix.update(torch.from_numpy(guess.copy()), torch.from_numpy(label.copy()))
        ranking.add(i, picture_score(cells.numpy()), guess)

    def read(position: int) -> tuple[UInt8Array, UInt8Array]:
        return data[position].image, data[position].label

    found = seg_findings(data, matrix.counts.numpy(), ranking, read, figures, keep=1)
    classes, confused = found.sections
    assert classes.table is found.each
    rows = {str(row[0]): row for row in classes.table.rows}
    hit = sum(int((data[i].label == 1).sum()) for i in (0, 1, 2, 4))
    total = sum(int((data[i].label == 1).sum()) for i in range(5))
    assert rows["head"][1:5] == [pytest.approx(hit / total), pytest.approx(hit / total), 1.0, total]
    values = [value for _, value in classes.bars[0].values]
    assert values == sorted(values, reverse=True)
    assert all(row[1] == "background" for row in confused.table.rows)
    shares = np.array(confused.matrices[0].values)
    assert shares.sum(axis=1) == pytest.approx(1)
    assert shares[1, 0] == pytest.approx(1 - hit / total)
    assert found.groups["worst"] == [3]
    assert found.samples[3].file == data.files[3][0].relative_to(figures).as_posix()
    assert set(found.shown) == {0, 3, *found.groups["best"]}


def test_classes_that_do_not_occur_and_very_many(figures: Path) -> None:
    absent = confusion_sections(np.array([[5, 0], [0, 0]]), ClassTable(("a", "b"), ((0, 0, 0),) * 2))
    assert absent[0].matrices[0].rows == ["a"]
    assert absent[0].table is None
    counts = np.full((60, 60), 1) + np.diag(np.arange(60))
    many = confusion_sections(counts, ClassTable(tuple(f"c{i}" for i in range(60)), ((0, 0, 0),) * 60))
    assert len(many[0].matrices[0].rows) == 40
    assert "Drawn are the 40 classes" in many[0].text
