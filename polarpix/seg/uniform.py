"""Class-uniform sampling: which image holds which class, and drawing by class instead of by image.

Rare classes are seen more often: a class is drawn uniformly, then an image that holds it, then a crop centred on it
(:class:`polarpix.seg.augment.SegTransform` with ``focus``).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from polarpix.errors import InputError
from polarpix.images import write_bytes
from polarpix.seg.datasets import SegDataset

__all__ = ["class_index", "draw_uniform"]


def class_index(dataset: SegDataset, cache: Path | None = None) -> list[list[int]]:
    """For each class, the positions of the images whose label holds it: [C] lists, in order.

    Args:
        dataset: every label file of it is read once.
        cache: folder to take the answer from, or to keep it in: one small JSON file per set of label files, known by
            their paths, sizes and times of change, and by the classes.

    Raises:
        InputError: a label file that cannot be read or holds values outside the classes.
    """
    kept = None if cache is None else cache / f"class_index_{_fingerprint(dataset)[:20]}.json"
    if kept is not None and kept.is_file():
        with contextlib.suppress(ValueError, TypeError):  # a damaged cache is only a lost one
            return [list(map(int, positions)) for positions in json.loads(kept.read_text(encoding="utf-8"))]
    index: list[list[int]] = [[] for _ in dataset.classes.names]
    with ThreadPoolExecutor() as pool:
        for position, label in enumerate(pool.map(dataset.read_label, range(len(dataset)))):
            present = np.flatnonzero(np.bincount(label.ravel(), minlength=256)[: len(index)])
            for c in present.tolist():
                index[c].append(position)
    if kept is not None:
        with contextlib.suppress(OSError):  # what cannot be kept is counted again the next time
            write_bytes(kept, json.dumps(index).encode())
    return index


def draw_uniform(index: Sequence[Sequence[int]], rng: np.random.Generator) -> tuple[int, int]:
    """An image position and a class it holds; each class that occurs is equally likely, then each of its images.

    Raises:
        InputError: no class occurs at all.
    """
    present = [c for c, positions in enumerate(index) if positions]
    if not present:
        raise InputError("class-uniform sampling found no labelled pixel in the split: set data.uniform to 0")
    c = present[int(rng.integers(len(present)))]
    return index[c][int(rng.integers(len(index[c])))], c


def _fingerprint(dataset: SegDataset) -> str:
    digest = hashlib.sha256(repr(dataset.classes.names).encode())
    for _, path in dataset.files:
        stat = path.stat()
        digest.update(f"{path}:{stat.st_size}:{stat.st_mtime_ns};".encode())
    return digest.hexdigest()
