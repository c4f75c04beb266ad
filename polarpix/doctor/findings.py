"""What the doctor can find, how bad it is and how to mend it; and what it did find, worst first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["KINDS", "LEVELS", "Case", "Finding", "Findings", "Kind", "Shown"]

LEVELS = ("error", "warning", "note")  # notes do not change the exit status
KEPT = 1000  # cases of a kind that are kept; all are counted


@dataclass(frozen=True)
class Kind:
    """One thing that can be wrong with a data set."""

    level: str
    title: str
    mend: str


# In order of how much they spoil, within each level.
KINDS: dict[str, Kind] = {
    "unreadable_table": Kind("error", "annotation file cannot be read", "write the file again as COCO keypoint JSON"),
    "missing_file": Kind("error", "file is named or expected, but is not there", "fetch the file, or remove its entry"),
    "special_file": Kind("error", "no file, but a pipe, socket or device", "put the file itself in its place"),
    "corrupt": Kind("error", "file is damaged, cut off or no image", "fetch or save the file again"),
    "empty_split": Kind("error", "split holds nothing", "name the right list, folder or file for this split"),
    "nothing_labelled": Kind("error", "split holds no label", "check that the annotations belong to these images"),
    "binary_masks": Kind("error", "masks of 0 and 255, where 255 means ignore", "divide the masks by 255"),
    "train_ids_as_label_ids": Kind(
        "error", "*_labelIds.png hold training ids", "rename them to *_labelTrainIds.png, or fetch the label ids"
    ),
    "label_ids_as_train_ids": Kind(
        "error", "label ids where training ids are meant", "map them with polarpix.seg.classes.cityscapes_train_ids"
    ),
    "palette_as_rgb": Kind(
        "error", "label is a picture of colours", "save it as palette or grey PNG of class indices, one value per class"
    ),
    "palette_as_grey": Kind(
        "error", "label holds the brightness of palette colours", "read the palette PNG without converting it to grey"
    ),
    "lossy_label": Kind("error", "label is a JPEG, which alters class indices", "export it again as PNG"),
    "object_masks": Kind(
        "error", "labels number objects, not classes", "take SegmentationClass instead of SegmentationObject"
    ),
    "aug_missing": Kind(
        "error",
        "trainaug names images without a label",
        "add SegmentationClassAug, or set data.format to voc and data.train to train",
    ),
    "outside_classes": Kind("error", "label holds values outside the classes", "name every class, or renumber them"),
    "size_mismatch": Kind("error", "sizes do not agree", "make label or table and image the same size"),
    "rotated": Kind(
        "error",
        "annotated in unrotated coordinates, but EXIF turns the image",
        "apply the rotation to the file, or remove its EXIF orientation",
    ),
    "leak_exact": Kind("error", "the same image in two splits", "keep it in one of them"),
    "duplicate_image_id": Kind("error", "image id occurs more than once", "number the images anew"),
    "duplicate_annotation_id": Kind("error", "annotation id occurs more than once", "number the annotations anew"),
    "unknown_image": Kind("error", "annotation of an image that is not listed", "add the image or drop the annotation"),
    "unknown_category": Kind(
        "error", "annotation of a category that is not listed", "add the category, or mend the id"
    ),
    "bad_entry": Kind("error", "entry is not what COCO means", "mend the entry as the line says"),
    "swapped_sides": Kind(
        "warning", "left and right look swapped", "look at the pictures and exchange the keypoints of the pair"
    ),
    "flat_box": Kind("warning", "box without area inside the image", "mend bbox: x, y, width, height in pixels"),
    "zero_area": Kind("warning", "area is zero, which makes OKS zero", "give the square pixels, or leave area out"),
    "outside_image": Kind("warning", "keypoint outside its image", "mend it, or give it visibility 0"),
    "odd_sigmas": Kind("warning", "odd OKS sigmas", "estimate them with 'polarpix data sigmas'"),
    "keypoint_count": Kind("warning", "num_keypoints is not the number labelled", "count them anew"),
    "leak_near": Kind("warning", "nearly the same image in two splits", "keep such images in one of them"),
    "class_absent": Kind("warning", "class never occurs in the training split", "check the class list and the values"),
    "missing_sigmas": Kind(
        "note", "no OKS sigmas given, defaults are used", "give them in a schema file; 'polarpix data sigmas' helps"
    ),
    "turned": Kind(
        "note", "EXIF turns the image, and sizes do not tell for which the annotations are", "look at the pictures"
    ),
    "mirrored": Kind(
        "note",
        "pose mirrors most others: seen from the other side, or left and right exchanged",
        "look at the pictures",
    ),
    "void_label": Kind("note", "label is all ignore", "leave the image out"),
    "twice": Kind("note", "the same image twice in one split", "keep one of them"),
    "class_not_tested": Kind("note", "class does not occur in the split", "its IoU will be undefined there"),
}


@dataclass(frozen=True, eq=False)
class Shown:
    """What to draw for a case: a picture, and what lies on it or beside it."""

    image: Path
    points: npt.NDArray[np.float64] | None = None  # [K, 2], not labelled ones not finite
    marked: tuple[int, ...] = ()  # keypoints to point out
    schema: str = ""  # which skeleton of the report
    box: tuple[float, float, float, float] | None = None
    label: Path | None = None
    other: Path | None = None


@dataclass(frozen=True, eq=False)
class Case:
    """One place where something is wrong."""

    file: str
    detail: str
    weight: float = 0.0  # larger is worse
    shown: Shown | None = None


@dataclass
class Finding:
    """All places where one thing is wrong."""

    name: str
    count: int = 0
    cases: list[Case] = field(default_factory=list)

    @property
    def kind(self) -> Kind:
        """What it is."""
        return KINDS[self.name]

    def worst(self) -> list[Case]:
        """The cases kept, worst first."""
        return sorted(self.cases, key=lambda case: -case.weight)


class Findings:
    """Collects cases by kind."""

    def __init__(self) -> None:
        self._found: dict[str, Finding] = {}

    def add(self, name: str, file: str | Path, detail: str, weight: float = 0.0, shown: Shown | None = None) -> None:
        """One more case of the kind ``name``, a key of :data:`KINDS`."""
        finding = self._found.setdefault(name, Finding(name))
        assert name in KINDS, name
        finding.count += 1
        finding.cases.append(Case(str(file), detail, weight, shown))
        if len(finding.cases) > 2 * KEPT:
            finding.cases = finding.worst()[:KEPT]

    def __iter__(self) -> Iterator[Finding]:
        order = list(KINDS)
        return iter(sorted(self._found.values(), key=lambda one: (LEVELS.index(one.kind.level), order.index(one.name))))

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def names(self) -> list[str]:
        """The kinds found, worst first."""
        return [finding.name for finding in self]

    def serious(self) -> bool:
        """Whether anything more than a note was found."""
        return any(finding.kind.level != "note" for finding in self)
