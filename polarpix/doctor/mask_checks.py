"""What can be wrong with label maps and how they fit their images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from polarpix.doctor.findings import Findings, Shown
from polarpix.doctor.layout import MaskSplit, MaskView
from polarpix.doctor.scan import COLOURS, ImageFacts, LabelFacts
from polarpix.seg.classes import voc_palette
from polarpix.types import ClassTable

__all__ = ["check_masks"]

Counts = npt.NDArray[np.int64]
FEW = 10  # labels that tell whether they number objects
NUMBERED = 0.95  # share of labels that hold 1 .. n without a gap, above which they do


def check_masks(
    view: MaskView, images: Mapping[Path, ImageFacts], labels: Mapping[Path, LabelFacts], found: Findings
) -> dict[str, Counts]:
    """Looks at every label, then at all labels of a split together.

    Returns:
        Pixels of each value [256] in each split.
    """
    totals: dict[str, Counts] = {}
    readable: list[tuple[Path, LabelFacts]] = []
    for split in view.splits:
        total = np.zeros(256, np.int64)
        here = []
        if not split.pairs:
            found.add("empty_split", view.format, f"{split.name} names no image")
        for image, label in split.pairs:
            facts = labels.get(label) if label else None
            if label is None or facts is None or facts.error:
                continue  # damage is told with all other files'
            _check_size(image, images.get(image), facts, found)
            if _check_kind(image, facts, view.classes, found):
                here.append((image, facts))
                total += _counts(facts)
        totals[split.name] = total
        readable += here
        _check_split(split, here, view.ignored, found)
    everything = np.sum(list(totals.values()), axis=0) if totals else np.zeros(256, np.int64)
    binary = _check_binary(readable, everything, found)
    numbered = not binary and _check_numbered(view, readable, found)
    if not binary and not numbered:
        _check_values(view, readable, everything, found)
        _check_classes(view, totals, found)
    return totals


def _counts(facts: LabelFacts) -> Counts:
    return np.zeros(256, np.int64) if facts.counts is None else facts.counts


def _values(counts: Counts) -> set[int]:
    return set(np.flatnonzero(counts).tolist())


def _check_size(image: Path, facts: ImageFacts | None, label: LabelFacts, found: Findings) -> None:
    """A label has the size of its image as it is looked at."""
    if facts is None or facts.error:
        return
    (h, w), (H, W) = label.size, facts.size
    shown = Shown(image, label=label.file)
    if label.size == facts.size:
        if facts.orientation > 1 and (facts.orientation < 5 or H == W):
            found.add("turned", image, f"EXIF orientation {facts.orientation}", shown=shown)
    elif label.size == facts.stored:
        detail = f"label is {w}x{h}, its image as looked at {W}x{H} (EXIF orientation {facts.orientation})"
        found.add("rotated", image, detail, shown=shown)
    else:
        found.add("size_mismatch", label.file, f"label is {w}x{h}, its image {W}x{H}", shown=shown)


def _check_kind(image: Path, label: LabelFacts, classes: ClassTable | None, found: Findings) -> bool:
    """Whether a label holds class indices."""
    shown = Shown(image, label=label.file)
    if label.lossy:
        found.add("lossy_label", label.file, "JPEG", shown=shown)
        return False
    if label.counts is None:
        known = {*(classes.colors if classes else ()), *voc_palette(256)}
        if len(label.colours) > COLOURS:
            what = f"more than {COLOURS} colours: is it a photograph?"
        else:
            of_palette = sum(colour in known for colour in label.colours)
            what = f"{len(label.colours)} colours, {of_palette} of them of the class or VOC palette"
        found.add("palette_as_rgb", label.file, what, shown=shown)
        return False
    return True


def _check_split(
    split: MaskSplit, labels: list[tuple[Path, LabelFacts]], ignored: tuple[int, ...], found: Findings
) -> None:
    """Labels without a single class."""
    void = [(image, label) for image, label in labels if _values(_counts(label)) <= {*ignored}]
    if labels and len(void) == len(labels):
        found.add("nothing_labelled", split.name, f"all {len(labels)} labels hold nothing but ignore")
        return
    for image, label in void:
        found.add("void_label", label.file, "nothing but ignore", shown=Shown(image, label=label.file))


def _check_binary(labels: list[tuple[Path, LabelFacts]], everything: Counts, found: Findings) -> bool:
    """Masks of 0 and 255 throughout."""
    if _values(everything) != {0, 255}:
        return False
    for image, label in labels:
        if label.counts is not None and label.counts[255]:
            share = float(label.counts[255] / label.counts.sum())
            shown = Shown(image, label=label.file)
            found.add("binary_masks", label.file, f"255 on {share:.0%} of the image", share, shown)
    return True


def _check_numbered(view: MaskView, labels: list[tuple[Path, LabelFacts]], found: Findings) -> bool:
    """Labels that hold 1 .. n without a gap, with n different from image to image, number objects."""
    if len(labels) < FEW or view.format == "cityscapes":
        return False
    tops = []
    for _, label in labels:
        values = sorted(_values(_counts(label)) - {0, *view.ignored})
        tops.append(len(values) if values == list(range(1, len(values) + 1)) else -1)
    whole = [top for top in tops if top > 0]
    if len(whole) < NUMBERED * sum(top != 0 for top in tops) or len({*whole}) < 3 or len(whole) < FEW:
        return False
    if max(whole) < 3 or sum(top == max(whole) for top in whole) > 0.5 * len(whole):
        return False  # nearly every image holds every class
    image, label = labels[int(np.argmax(tops))]
    detail = f"{len(whole)} labels hold 1 .. n without a gap, n from {min(whole)} to {max(whole)}"
    found.add("object_masks", label.file, detail, shown=Shown(image, label=label.file))
    return True


def _check_values(view: MaskView, labels: list[tuple[Path, LabelFacts]], everything: Counts, found: Findings) -> None:
    """Values that mean nothing, and what they may have come from."""
    if view.format == "cityscapes":
        _check_cityscapes(labels, everything, found)
        return
    if view.classes is None:
        return
    known = {*range(len(view.classes.names)), *view.ignored}
    grey = {_brightness(colour) for colour in (*view.classes.colors, *voc_palette(21), (224, 224, 192))} | {0, 255}
    strangers = _values(everything) - known
    as_grey = bool(strangers) and _values(everything) <= grey
    as_ids = len(view.classes.names) == 19 and bool(strangers) and strangers <= {*range(19, 34)}
    for image, label in labels:
        outside = sorted(_values(_counts(label)) - known)
        if not outside:
            continue
        kind = "palette_as_grey" if as_grey else "label_ids_as_train_ids" if as_ids else "outside_classes"
        listed = ", ".join(map(str, outside[:8])) + (", ..." if len(outside) > 8 else "")
        detail = f"holds {listed}; the {len(view.classes.names)} classes are 0 .. {len(view.classes.names) - 1}"
        share = float(_counts(label)[outside].sum() / max(_counts(label).sum(), 1))
        found.add(kind, label.file, detail, share, Shown(image, label=label.file))


def _check_cityscapes(labels: list[tuple[Path, LabelFacts]], everything: Counts, found: Findings) -> None:
    """Ids 0 .. 33 and training ids 0 .. 18 in each other's files."""
    ids = [(i, f) for i, f in labels if f.file.name.endswith("_labelIds.png")]
    trains = [(i, f) for i, f in labels if f.file.name.endswith("_labelTrainIds.png")]
    in_ids = np.sum([_counts(f) for _, f in ids], axis=0) if ids else np.zeros(256, np.int64)
    in_trains = np.sum([_counts(f) for _, f in trains], axis=0) if trains else np.zeros(256, np.int64)
    # Vegetation 21, sky 23 and car 26 are on nearly every picture; no training id is above 18.
    if in_ids[:19].any() and not in_ids[19:34].any() and (in_ids[[0, 1, 2, 5]].all() or in_ids[255]):
        image, label = max(ids, key=lambda one: len(_values(_counts(one[1]))))
        detail = f"{len(ids)} files hold nothing in 19 .. 33, as only training ids do"
        found.add("train_ids_as_label_ids", label.file, detail, shown=Shown(image, label=label.file))
    for kind, limit, files in (("label_ids_as_train_ids", 19, trains), ("outside_classes", 34, ids)):
        if not (in_trains if files is trains else in_ids)[limit:255].any():
            continue
        for image, label in files:
            outside = [value for value in sorted(_values(_counts(label))) if limit <= value < 255]
            if outside:
                listed = ", ".join(map(str, outside[:8]))
                found.add(kind, label.file, f"holds {listed}", len(outside), Shown(image, label=label.file))


def _check_classes(view: MaskView, totals: Mapping[str, Counts], found: Findings) -> None:
    """Classes that never occur where they should be learned or measured."""
    if view.classes is None:
        return
    from polarpix.seg.classes import CITYSCAPES, cityscapes_label_ids

    values = list(range(len(view.classes.names)))
    for split, total in totals.items():
        if not total.any():
            continue
        if view.classes is CITYSCAPES and total[19:34].any():
            values = cityscapes_label_ids(np.arange(19, dtype=np.uint8)).tolist()
        absent = [name for name, value in zip(view.classes.names, values, strict=True) if not total[value]]
        kind = "class_absent" if split == view.training else "class_not_tested"
        for name in absent:
            found.add(kind, split, f"no pixel of {name!r}")


def _brightness(colour: tuple[int, int, int]) -> int:
    """What Pillow makes of a colour in grey: ITU-R 601-2 in whole numbers."""
    r, g, b = colour
    return (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16
