"""Images that occur twice: the same file, or the same picture saved, scaled or lit anew."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from polarpix.doctor.scan import THUMB, ImageFacts
from polarpix.types import UInt8Array

__all__ = ["Pair", "exact_pairs", "fingerprint", "near_pairs"]

BITS = 64
BANDS = 8  # up to BANDS - 1 differing bits leave one band as it is
LARGEST = 14.0  # grey levels that one cell of the thumbnail may differ by, brightness and contrast made equal
TYPICAL = 3.5  # the same, root mean square
PLAIN = 4.0  # deviation of a thumbnail below which there is too little to compare
CHUNK = 200_000
ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1).astype(np.int64)  # of each byte


@dataclass(frozen=True)
class Pair:
    """Positions of two images that are one, and the root mean square of what differs in grey levels."""

    first: int
    second: int
    difference: float = 0.0


def exact_pairs(images: Sequence[ImageFacts]) -> list[Pair]:
    """Files with the same bytes: every later one with the first of its kind in each split it can meet."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for i, facts in enumerate(images):
        if facts.digest:
            groups[facts.digest].append(i)
    return [Pair(group[0], other) for group in groups.values() for other in group[1:]]


def fingerprint(thumb: UInt8Array) -> npt.NDArray[np.bool_]:
    """64 bits [64] of a thumbnail: its lowest frequencies, each above their median or not."""
    frequencies = cv2.dct(thumb.astype(np.float32))[:9, :9].ravel()[1 : BITS + 1]
    return np.asarray(frequencies > np.median(frequencies))


def near_pairs(images: Sequence[ImageFacts], groups: Sequence[int]) -> list[Pair]:
    """Images of different groups that look alike though their files differ.

    Candidates share one of eight bands of the fingerprint; of those, thumbnails of equal brightness and contrast are
    compared. A small thing that moved in front of a still camera makes another picture.

    Args:
        images: the facts.
        groups: of each image, its split.
    """
    usable = [i for i, facts in enumerate(images) if facts.thumb is not None and float(np.std(facts.thumb)) >= PLAIN]
    if not usable:
        return []
    thumbs = np.stack([_even(images[i].thumb) for i in usable])  # [n, THUMB * THUMB]
    bits = np.stack([fingerprint(np.asarray(images[i].thumb)) for i in usable])
    words = np.packbits(bits, axis=1)  # [n, 8]
    side = np.array([groups[i] for i in usable])
    found: dict[tuple[int, int], float] = {}
    for first, second in _candidates(words, thumbs, side):
        gap = thumbs[first] - thumbs[second]
        rms = np.sqrt((gap**2).mean(axis=1))
        hit = (rms <= TYPICAL) & (np.abs(gap).max(axis=1) <= LARGEST)
        for a, b, r in zip(first[hit].tolist(), second[hit].tolist(), rms[hit].tolist(), strict=True):
            found[min(a, b), max(a, b)] = r
    pairs = [Pair(usable[a], usable[b], difference) for (a, b), difference in found.items()]
    kept = [pair for pair in pairs if images[pair.first].digest != images[pair.second].digest]
    return sorted(kept, key=lambda pair: (pair.difference, pair.first, pair.second))


def _even(thumb: UInt8Array | None) -> npt.NDArray[np.float32]:
    """A thumbnail [THUMB * THUMB] with mean 0 and the deviation 50."""
    values = np.asarray(thumb, np.float32).ravel()
    values = values - values.mean()
    return np.asarray(values * (50.0 / values.std()), np.float32)


def _candidates(
    words: UInt8Array, thumbs: npt.NDArray[np.float32], side: npt.NDArray[np.int64]
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Pairs of different sides that share a band, in chunks.

    Within a band that many share (one camera, one scene) only those are paired whose thumbnails have nearly the same
    coordinate along the direction in which they differ most: pictures that are farther apart there cannot be alike.
    """
    reach = TYPICAL * THUMB  # the largest distance of two thumbnails that are alike
    for band in range(BANDS):
        order = np.argsort(words[:, band], kind="stable")
        edges = np.flatnonzero(np.diff(words[order, band].astype(np.int64))) + 1
        for members in np.split(order, edges):
            if len(members) < 2 or len(set(side[members].tolist())) < 2:
                continue
            place = _along_main(thumbs[members])
            by_place = np.argsort(place, kind="stable")
            members, place = members[by_place], place[by_place]
            last = np.searchsorted(place, place + reach, side="right")
            spans = last - np.arange(len(members)) - 1
            start = 0
            while start < len(members):
                stop = start + 1
                while stop < len(members) and spans[start : stop + 1].sum() <= CHUNK:
                    stop += 1
                rows = np.repeat(np.arange(start, stop), spans[start:stop])
                offsets = np.arange(len(rows)) - np.repeat(
                    np.cumsum(spans[start:stop]) - spans[start:stop], spans[start:stop]
                )
                first, second = members[rows], members[rows + 1 + offsets]
                other = (side[first] != side[second]) & (_differing(words, first, second) < BANDS)
                first, second = first[other], second[other]
                for at in range(0, len(first), 4096):
                    yield first[at : at + 4096], second[at : at + 4096]
                start = stop


def _differing(words: UInt8Array, first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Bits that differ between fingerprints."""
    return np.asarray(ONES[words[first] ^ words[second]].sum(axis=1), np.int64)


def _along_main(thumbs: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Coordinates [n] of thumbnails along the direction in which they differ most, found by a few multiplications."""
    centred = thumbs - thumbs.mean(axis=0)
    direction = centred[np.argmax((centred**2).sum(axis=1))].astype(np.float64)
    for _ in range(4):
        norm = np.linalg.norm(direction)
        if norm < 1e-9:
            return np.zeros(len(thumbs))
        direction = centred.T @ (centred @ (direction / norm))
    return np.asarray(centred @ (direction / max(float(np.linalg.norm(direction)), 1e-9)), np.float64)
