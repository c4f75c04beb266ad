"""Segmentation sets on disk, each in its official layout, as one kind of object that gives :class:`SegSample`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from polarpix.config import SegDataConfig
from polarpix.errors import InputError
from polarpix.images import IMAGE_SUFFIXES, read_image, read_label
from polarpix.places import safe_name
from polarpix.seg.classes import CAMVID, CITYSCAPES, VOC, cityscapes_train_ids, voc_palette
from polarpix.types import ClassTable, SegSample, UInt8Array

__all__ = ["SEG_DATASETS", "Files", "SegDataset", "build_seg_dataset", "paired_files", "voc_root", "with_coarse"]

Files = list[tuple[Path, Path]]
HIDDEN = "test"  # the split whose labels only a server may have


class SegDataset:
    """Pairs of image and label file, and what the values in the label files mean.

    Args:
        files: (image path, label path) of each sample.
        classes: the class table.
        meaning: value in the file -> class index or the table's ignore label; a value it does not hold is an error.
        labelled: false for a split whose labels are kept by a server: every pixel is ignored.
    """

    def __init__(self, files: Files, classes: ClassTable, meaning: Mapping[int, int], labelled: bool = True) -> None:
        self.files = files
        self.classes = classes
        self.meaning = dict(meaning)
        self.labelled = labelled
        self._lookup = np.full(256, classes.ignore, np.uint8)
        self._known = np.zeros(256, bool)
        for value, index in meaning.items():
            self._lookup[value] = index
            self._known[value] = True
        self._holds_classes = False  # whether some file has been seen to hold more than 0 and 255

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> SegSample:
        """Read one sample.

        Raises:
            InputError: an unreadable file, a label of another size than the image, or with values outside the classes.
        """
        image_path, label_path = self.files[index]
        image = read_image(image_path)  # [H, W, 3]
        if not self.labelled:
            return SegSample(image, np.full(image.shape[:2], self.classes.ignore, np.uint8), str(image_path))
        label = self.read_label(index)  # [H, W]
        if label.shape != image.shape[:2]:
            raise InputError(
                f"{label_path}: label is {label.shape[1]}x{label.shape[0]}, its image "
                f"{image.shape[1]}x{image.shape[0]} as looked at (EXIF applied): make both the same size"
            )
        return SegSample(image=image, label=label, file=str(image_path))

    def read_label(self, index: int) -> UInt8Array:
        """The label map [H, W] of one sample, as class indices and the ignore label, without reading its image.

        Raises:
            InputError: an unreadable file, values outside the classes, or a split of 0/255 masks.
        """
        path = self.files[index][1]
        raw = read_label(path)  # [H, W]
        present = _values(raw)
        unknown = sorted(value for value in present if not self._known[value])
        if unknown:
            raise InputError(self._outside(path, unknown))
        if 255 in present and present <= {0, 255}:
            self._refuse_binary_masks(path, present)
        return self._lookup[raw]

    def _outside(self, path: Path, unknown: Sequence[int]) -> str:
        shown = ", ".join(map(str, unknown[:8])) + (", ..." if len(unknown) > 8 else "")
        names = self.classes.names
        return (
            f"{path}: label holds {shown}, which means none of the {len(names)} classes {names[0]} .. {names[-1]} "
            "nor ignore: name every class in data.classes, or renumber the file"
        )

    def _refuse_binary_masks(self, suspect: Path, present: set[int]) -> None:
        """A mask of 0 and 255 may be background and void, unless no file of the split holds anything else."""
        if self._holds_classes:
            return
        self._holds_classes = any(_values(read_label(path)) - {0, 255} for _, path in self.files)
        if not self._holds_classes:
            raise InputError(
                f"{suspect}: mask holds only {' and '.join(map(str, sorted(present)))}, like all of the split, and 255 "
                "means ignore: divide the masks by 255, or label what is not void"
            )


def _values(label: UInt8Array) -> set[int]:
    return set(np.flatnonzero(np.bincount(label.ravel(), minlength=256)).tolist())


def _identity(classes: ClassTable, *also_ignored: int) -> dict[int, int]:
    """Each class is stored as its index; the ignore label and `also_ignored` are ignored."""
    meaning = {i: i for i in range(len(classes.names))}
    return meaning | dict.fromkeys((classes.ignore, *also_ignored), classes.ignore)


def camvid(data: SegDataConfig, split: str) -> SegDataset:
    """CamVid as SegNet distributes it: <split>/ with images, <split>annot/ with PNGs of 0..10, 11 void."""
    root = _folder(data.root)
    splits = [p.name for p in _folders(root) if (root / f"{p.name}annot").is_dir()]
    _known_split(root, split, splits, "a folder <split> beside <split>annot")
    return SegDataset(paired_files(root / split, root / f"{split}annot"), CAMVID, _identity(CAMVID, 11))


def folder(data: SegDataConfig, split: str) -> SegDataset:
    """Plain folders: images/<split>/ and labels/<split>/ with one PNG of class indices per image, 255 ignored."""
    root = _folder(data.root)
    if data.classes is None or len(data.classes) < 2:
        raise InputError(f"{root}: data.classes is {data.classes}: name at least two classes, the background included")
    if len(set(data.classes)) != len(data.classes):
        raise InputError(f"{root}: data.classes repeats a name in {data.classes}: name each class once")
    if len(data.classes) > 255:
        raise InputError(
            f"{root}: data.classes holds {len(data.classes)} names: at most 255 fit beside the ignore label"
        )
    splits = [p.name for p in _folders(root / "images") if (root / "labels" / p.name).is_dir()]
    _known_split(root, split, splits, "folders images/<split> and labels/<split>")
    classes = ClassTable(names=tuple(data.classes), colors=voc_palette(len(data.classes)))
    return SegDataset(paired_files(root / "images" / split, root / "labels" / split), classes, _identity(classes))


def voc(data: SegDataConfig, split: str) -> SegDataset:
    """PASCAL VOC: JPEGImages, SegmentationClass (palette PNG, 255 void), ImageSets/Segmentation/<split>.txt."""
    root = voc_root(data.root)
    lists = root / "ImageSets" / "Segmentation"
    _known_split(root, split, sorted(p.stem for p in lists.glob("*.txt")), "lists ImageSets/Segmentation/<split>.txt")
    return _voc_listed(root, lists / f"{split}.txt", "SegmentationClass")


def voc_aug(data: SegDataConfig, split: str) -> SegDataset:
    """VOC with the extra training labels: split train reads trainaug.txt (or train_aug.txt) and SegmentationClassAug.

    Every other split is the one of :func:`voc`, so that scores are those of the official validation labels.
    """
    if split not in ("train", "trainaug", "train_aug"):
        return voc(data, split)
    root = voc_root(data.root)
    lists = root / "ImageSets" / "Segmentation"
    for name in ("trainaug.txt", "train_aug.txt"):
        if (lists / name).is_file():
            return _voc_listed(root, lists / name, "SegmentationClassAug")
    raise InputError(f"{lists}: neither trainaug.txt nor train_aug.txt is there: add the list of the training images")


def cityscapes(data: SegDataConfig, split: str, annotation: str = "gtFine") -> SegDataset:
    """Cityscapes: leftImg8bit/<split>/<city>/ and gtFine/<split>/<city>/*_labelIds.png (else *_labelTrainIds.png).

    Or gtCoarse, as ``annotation`` says. The split "test" may be without labels.
    """
    root = _folder(data.root)
    images = root / "leftImg8bit"
    _known_split(root, split, [p.name for p in _folders(images)], "folders leftImg8bit/<split>")
    pictures = sorted((images / split).glob("*/*_leftImg8bit.png"))
    by_kind: dict[str, Files] = {"labelIds": [], "labelTrainIds": []}
    for picture in pictures:
        stem = picture.name.removesuffix("_leftImg8bit.png")
        for kind, files in by_kind.items():
            name = f"{stem}_{annotation}_{kind}.png"
            files.append((picture, root / annotation / split / picture.parent.name / name))
    kind = "labelIds"
    if not any(label.is_file() for _, label in by_kind[kind]) and any(p.is_file() for _, p in by_kind["labelTrainIds"]):
        kind = "labelTrainIds"
    if kind == "labelTrainIds":
        return _listed(by_kind[kind], CITYSCAPES, _identity(CITYSCAPES), split, images / split)
    ids = np.arange(34, dtype=np.uint8)
    meaning = dict(zip(ids.tolist(), cityscapes_train_ids(ids).tolist(), strict=True))
    meaning[CITYSCAPES.ignore] = CITYSCAPES.ignore  # -1, a licence plate
    return _listed(by_kind[kind], CITYSCAPES, meaning, split, images / split)


SEG_DATASETS: dict[str, Callable[[SegDataConfig, str], SegDataset]] = {
    "camvid": camvid,
    "voc": voc,
    "voc_aug": voc_aug,
    "cityscapes": cityscapes,
    "folder": folder,
}


def build_seg_dataset(data: SegDataConfig, split: str) -> SegDataset:
    """The split of the set that `data` describes.

    Raises:
        InputError: an unknown format or split, a missing folder or file, an empty split.
    """
    if data.format not in SEG_DATASETS:
        raise InputError(f"data.format is {data.format!r}: use one of {', '.join(SEG_DATASETS)}")
    return SEG_DATASETS[data.format](data, split)


def with_coarse(data: SegDataConfig, fine: SegDataset) -> SegDataset:
    """``fine`` followed by the pictures of ``data.coarse``, labelled by gtCoarse; ``fine`` itself if that is null.

    Raises:
        InputError: a set that has no coarse labels, coarse labels of another kind, an unknown split or missing files.
    """
    if data.coarse is None:
        return fine
    if data.format != "cityscapes":
        raise InputError(f"data.coarse is {data.coarse!r}, but {data.format} has no coarse labels: set it to null")
    unknown = sorted({*(data.coarse_classes or [])} - {*CITYSCAPES.names})
    if unknown:
        raise InputError(f"data.coarse_classes names {unknown[0]!r}: choose from {', '.join(CITYSCAPES.names)}")
    coarse = cityscapes(data, data.coarse, "gtCoarse")
    if coarse.meaning != fine.meaning:
        raise InputError(
            f"{coarse.files[0][1]}: coarse and fine labels are not of one kind: use *_labelIds.png for both"
        )
    return SegDataset(fine.files + coarse.files, fine.classes, fine.meaning)


def _folder(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"{path}: no such folder: set data.root to the folder of the set")
    return path


def _folders(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_dir()) if path.is_dir() else []


def _known_split(root: Path, split: str, splits: Iterable[str], layout: str) -> None:
    splits = list(splits)
    if split not in splits:
        there = f"there are {', '.join(splits)}" if splits else f"there is none; expected {layout}"
        raise InputError(f"{root}: no split {split!r}: {there}")


def paired_files(images: Path, labels: Path) -> Files:
    """Images and label PNGs of two folders, matched by the name without its suffix, in order of the names.

    Raises:
        InputError: no images, two of one name, or one without its partner.
    """
    pictures, masks = _by_stem(images, IMAGE_SUFFIXES), _by_stem(labels, (".png",))
    if not pictures:
        raise InputError(f"{images}: folder holds no images: looked for {', '.join(IMAGE_SUFFIXES)}")
    _nothing_missing([pictures[s] for s in sorted(pictures.keys() - masks.keys())], "image", f"label PNG in {labels}")
    _nothing_missing([masks[s] for s in sorted(masks.keys() - pictures.keys())], "label", f"image in {images}")
    return [(pictures[stem], masks[stem]) for stem in sorted(pictures)]


def _by_stem(path: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in sorted(path.iterdir()):
        if file.suffix.lower() not in suffixes or file.name.startswith("."):
            continue
        if file.stem in found:
            raise InputError(f"{file}: {found[file.stem].name} has the same name: keep one of the two")
        found[file.stem] = file
    return found


def _listed(files: Files, classes: ClassTable, meaning: Mapping[int, int], split: str, source: Path) -> SegDataset:
    """The data set of `files` if every one is there and there is at least one; a hidden split may lack all labels."""
    if not files:
        raise InputError(f"{source}: split is empty: it must name at least one image")
    _nothing_missing([image for image, _ in files if not image.is_file()], "listed image", "file")
    missing = [image for image, label in files if not label.is_file()]
    labelled = split != HIDDEN or len(missing) < len(files)
    _nothing_missing(missing if labelled else [], "image", f"label such as {files[0][1]}")
    return SegDataset(files, classes, meaning, labelled)


def _nothing_missing(files: Sequence[Path], what: str, counterpart: str) -> None:
    if files:
        more = f" ({len(files)} such, next {', '.join(p.name for p in files[1:4])})" if len(files) > 1 else ""
        raise InputError(f"{files[0]}: {what} has no {counterpart}{more}: add it or remove its partner")


def voc_root(root: str | Path) -> Path:
    """The folder that holds JPEGImages: `root` or, inside it, where the official archive unpacks.

    Raises:
        InputError: none does.
    """
    start = _folder(root)
    for path in (start, start / "VOCdevkit" / "VOC2012", start / "VOC2012"):
        if (path / "JPEGImages").is_dir():
            return path
    raise InputError(f"{start}: holds no JPEGImages folder: set data.root to the VOC2012 folder")


def _voc_listed(root: Path, names: Path, labels: str) -> SegDataset:
    try:
        stems = [safe_name(stem, str(names)) for stem in names.read_text(encoding="utf-8").split()]
    except UnicodeDecodeError as error:
        raise InputError(f"{names}: not text ({error}): write the list anew") from error
    files = [(root / "JPEGImages" / f"{stem}.jpg", root / labels / f"{stem}.png") for stem in stems]
    return _listed(files, VOC, _identity(VOC), names.stem, names)
