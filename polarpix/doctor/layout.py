"""What lies at a path: a page, a COCO keypoint file or a folder in a known layout, as splits of images and labels."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polarpix.config import PoseRun
from polarpix.doctor.findings import Findings
from polarpix.doctor.scan import special
from polarpix.errors import InputError
from polarpix.images import IMAGE_SUFFIXES
from polarpix.pages import load_page
from polarpix.pose.coco_json import parse_json
from polarpix.pose.schema import load_schema
from polarpix.seg.classes import CAMVID, CITYSCAPES, VOC, voc_palette
from polarpix.types import ClassTable, KeypointSchema

__all__ = ["FORMATS", "MaskSplit", "MaskView", "PoseSplit", "PoseView", "images_beside", "look"]


@dataclass(frozen=True)
class PoseSplit:
    """A COCO keypoint file and the folder of its images."""

    name: str
    file: Path
    table: dict[str, Any]
    folder: Path


@dataclass
class PoseView:
    """The splits of a keypoint set, and its schema where one was given."""

    splits: list[PoseSplit] = field(default_factory=list)
    schema: KeypointSchema | None = None


@dataclass(frozen=True)
class MaskSplit:
    """Images with the label each should have; None where a server keeps it."""

    name: str
    pairs: list[tuple[Path, Path | None]]


@dataclass
class MaskView:
    """The splits of a set of masks; ``classes`` is None where nobody named them."""

    format: str
    splits: list[MaskSplit] = field(default_factory=list)
    classes: ClassTable | None = None
    ignored: tuple[int, ...] = (255,)  # values that mean nothing
    training: str = "train"


def look(path: str | Path, format: str, images: str, found: Findings) -> tuple[PoseView | None, MaskView | None]:
    """The data at a path.

    Args:
        path: a page (.yaml), a COCO keypoint file (.json) or a folder.
        format: a key of :data:`FORMATS`, or "" to find out by looking.
        images: folder of the images of a COCO file, or "" to look for it.
        found: takes what is missing.

    Raises:
        InputError: nothing is there, or nothing that is known.
    """
    path = Path(path)
    if format and format not in FORMATS:
        raise InputError(f"--format is {format!r}: use one of {', '.join(FORMATS)}")
    if path.suffix.lower() in (".yaml", ".yml"):
        return _page(path, found)
    if path.suffix.lower() == ".json":
        view = PoseView([_table(path, Path(images) if images else None)])
        return view, None
    if not path.is_dir():
        raise InputError(f"{path}: no such page, COCO file or folder: check the path")
    if images:
        raise InputError(f"--images is {images!r}, but {path} is a folder: give it with a COCO file")
    tried = [FORMATS[format]] if format else list(FORMATS.values())
    pose, masks = None, None
    for one in tried:
        if masks is not None and one is not coco:
            continue
        view_here = one(path, found)
        if isinstance(view_here, PoseView):
            pose = pose or view_here
        elif isinstance(view_here, MaskView):
            masks = masks or view_here
    if pose is None and masks is None:
        wanted = format or f"none of {', '.join(FORMATS)}"
        raise InputError(f"{path}: folder is laid out as {'no ' if format else ''}{wanted}: see docs/data.md")
    return pose, masks


def _page(path: Path, found: Findings) -> tuple[PoseView | None, MaskView | None]:
    """What a page trains on."""
    run = load_page(path)
    if isinstance(run, PoseRun):
        data = run.data
        view = PoseView(schema=load_schema(data.schema) if data.schema else None)
        for split in ("train", "val", "test"):
            file, folder = getattr(data, f"{split}_annotations"), getattr(data, f"{split}_images")
            if file and (what := special(Path(data.root) / file)):
                found.add("special_file", Path(data.root) / file, what)
            elif file:
                one = _table(Path(data.root) / file, Path(data.root) / (folder or ""), split)
                view.splits.append(one)
        return view, None
    root = Path(run.data.root)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder: set data.root to the folder of the set")
    masks = FORMATS[run.data.format](root, found)
    if not isinstance(masks, MaskView):
        raise InputError(f"{root}: folder is not laid out as {run.data.format}: see docs/data.md")
    wanted = [split for split in (run.data.train, run.data.val, run.data.test) if split]
    there = {split.name: split for split in masks.splits}
    for name in wanted:
        if name not in there:
            found.add("empty_split", root, f"no split {name!r}; there are {', '.join(there) or 'none'}")
    masks.splits = [there[name] for name in wanted if name in there]
    masks.training = run.data.train
    if run.data.format == "folder" and run.data.classes:
        names = tuple(run.data.classes)
        masks.classes = ClassTable(names, voc_palette(len(names)))
    return None, masks


def _table(file: Path, folder: Path | None, name: str = "") -> PoseSplit:
    """A COCO file with its folder, which is looked for where it usually is."""
    table = parse_json(file)[0]
    if not _is_coco(table):
        raise InputError(f"{file}: not a COCO keypoint file: it needs the lists images, annotations and categories")
    if folder is None and not table["images"]:
        folder = file.parent  # of which nothing is wanted
    if folder is None:
        first = next((str(i["file_name"]) for i in table["images"] if isinstance(i, dict) and i.get("file_name")), "")
        folder = images_beside(file, first)
        if folder is None:
            raise InputError(f"{file}: its images were not found beside it (first is {first!r}): give --images FOLDER")
    return PoseSplit(name or file.stem, file, table, folder)


def images_beside(file: Path, first: str) -> Path | None:
    """The folder of a COCO file's images, where it usually is, known by one of them; None if it is nowhere there."""
    last = file.stem.rpartition("_")[2]
    places = [file.parent / sub for sub in ("images", "", file.stem, last)]
    up = file.parent.parent
    places += [up / sub for sub in (f"images/{file.stem}", f"images/{last}", file.stem, last, "images", "")]
    return next((one for one in places if first and (one / first).exists()), None)


def _is_coco(table: Any) -> bool:
    keys = ("images", "annotations", "categories")
    return isinstance(table, dict) and all(isinstance(table.get(key), list) for key in keys)


def coco(root: Path, found: Findings) -> PoseView | None:
    """COCO keypoint files in a folder or in its ``annotations/``."""
    view = PoseView()
    for folder in (root, root / "annotations"):
        for file in sorted(folder.glob("*.json")):
            if what := special(file):
                found.add("special_file", file, what)
                continue
            try:
                table = json.loads(file.read_bytes())
            except (OSError, ValueError) as error:
                found.add("unreadable_table", file, f"not JSON ({error})")
                continue
            keypoints = (
                any(isinstance(c, dict) and c.get("keypoints") for c in table.get("categories", []))
                if (_is_coco(table))
                else False
            )
            if keypoints:
                try:
                    view.splits.append(_table(file, None))
                except InputError as error:
                    found.add("missing_file", file, str(error).removeprefix(f"{file}: "))
    return view if view.splits else None


def camvid(root: Path, found: Findings) -> MaskView | None:
    """<split>/ beside <split>annot/."""
    folders = [p for p in _folders(root) if (root / f"{p.name}annot").is_dir()]
    if not folders:
        return None
    splits = [_paired(p.name, p, root / f"{p.name}annot", found) for p in folders]
    return MaskView("camvid", splits, CAMVID, (11, 255))


def folder(root: Path, found: Findings) -> MaskView | None:
    """images/<split>/ and labels/<split>/."""
    if not (root / "labels").is_dir():
        return None
    folders = [p for p in _folders(root / "images") if (root / "labels" / p.name).is_dir()]
    if not folders or not any(
        file.suffix.lower() != ".txt" for p in folders for file in (root / "labels" / p.name).iterdir()
    ):
        return None
    return MaskView("folder", [_paired(p.name, p, root / "labels" / p.name, found) for p in folders])


def voc(root: Path, found: Findings) -> MaskView | None:
    """JPEGImages, SegmentationClass, ImageSets/Segmentation."""
    return _voc(root, found, "voc")


def voc_aug(root: Path, found: Findings) -> MaskView | None:
    """The same with trainaug.txt and SegmentationClassAug."""
    return _voc(root, found, "voc_aug") if any(root.glob("**/ImageSets/Segmentation/train*aug.txt")) else None


def _voc(root: Path, found: Findings, kind: str) -> MaskView | None:
    places = (root, root / "VOCdevkit" / "VOC2012", root / "VOC2012")
    root = next((path for path in places if (path / "JPEGImages").is_dir()), root)
    lists = sorted((root / "ImageSets" / "Segmentation").glob("*.txt"))
    if not (root / "JPEGImages").is_dir() or not lists:
        return None
    view = MaskView(kind, classes=VOC)
    for file in lists:
        aug = file.stem in ("trainaug", "train_aug")
        name = "train" if aug and kind == "voc_aug" else file.stem
        if what := special(file):
            found.add("special_file", file, what)
            continue
        if file.stem == "trainval" or (file.stem == "train" and kind == "voc_aug"):
            continue  # holds what other lists hold
        folder = root / ("SegmentationClassAug" if aug and kind == "voc_aug" else "SegmentationClass")
        stems = file.read_text(encoding="utf-8").split()
        pairs: list[tuple[Path, Path | None]] = []
        for stem in stems:
            image, label = root / "JPEGImages" / f"{stem}.jpg", folder / f"{stem}.png"
            if label.exists():
                pairs.append((image, label))
            elif file.stem == "test":
                pairs.append((image, None))
            else:
                found.add("aug_missing" if aug else "missing_file", label, f"no label for {stem} of {file.name}")
                pairs.append((image, None))
        view.splits.append(MaskSplit(name, pairs))
    return view if view.splits else None


def cityscapes(root: Path, found: Findings) -> MaskView | None:
    """leftImg8bit/<split>/<city>/ and gtFine/<split>/<city>/."""
    folders = _folders(root / "leftImg8bit")
    if not folders:
        return None
    view = MaskView("cityscapes", classes=CITYSCAPES)
    for split in folders:
        pairs: list[tuple[Path, Path | None]] = []
        for image in sorted(split.glob("*/*_leftImg8bit.png")):
            stem = root / "gtFine" / split.name / image.parent.name / image.name.removesuffix("_leftImg8bit.png")
            names = [stem.with_name(f"{stem.name}_gtFine_{kind}.png") for kind in ("labelIds", "labelTrainIds")]
            label = next((name for name in names if name.exists()), None)
            if label is None and split.name != "test":
                found.add("missing_file", names[0], f"no label for {image.name}")
            pairs.append((image, label))
        view.splits.append(MaskSplit(split.name, pairs))
    return view


# Format -> what finds its splits below a folder, in the order in which they are tried.
FORMATS: dict[str, Callable[[Path, Findings], PoseView | MaskView | None]] = {
    "coco": coco,
    "voc_aug": voc_aug,
    "voc": voc,
    "cityscapes": cityscapes,
    "camvid": camvid,
    "folder": folder,
}


def _folders(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_dir()) if path.is_dir() else []


def _paired(name: str, images: Path, labels: Path, found: Findings) -> MaskSplit:
    """Images and labels of two folders by the name without its ending; what has no partner is missing."""
    pictures, masks = _by_stem(images, IMAGE_SUFFIXES), _by_stem(labels, IMAGE_SUFFIXES)
    for stem in sorted(pictures.keys() - masks.keys()):
        found.add("missing_file", labels / f"{stem}.png", f"no label for {pictures[stem].name}")
    for stem in sorted(masks.keys() - pictures.keys()):
        found.add("missing_file", images / stem, f"no image for label {masks[stem].name}")
    return MaskSplit(name, [(pictures[stem], masks.get(stem)) for stem in sorted(pictures)])


def _by_stem(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in suffixes and not f.name.startswith("."))
    return {file.stem: file for file in files}
