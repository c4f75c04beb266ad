"""The faults that benchmarks/doctor_recall.py plants in copies of real sets, each telling where it did."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from polarpix.doctor.sides import hypotheses
from polarpix.images import read_image, read_label, write_image, write_label
from polarpix.pose.schema import schema_from_category
from polarpix.seg.classes import CAMVID, voc_palette
from polarpix.types import KeypointSchema, UInt8Array

__all__ = ["CITY", "MASKS", "POSE", "RATES", "SWAPS", "WHOLE", "Key", "as_city", "copied", "tables"]

Place = tuple[str, str]  # file below the set, and "annotation 7" or ""
Key = tuple[str, str, str]  # kind of finding, and the place
Plant = Callable[[Path, np.random.Generator, float, set[Key]], list[Place]]
CITY = "camvid_as_cityscapes"
RATES = (0.005, 0.02, 0.1)  # of the instances, for exchanged sides; a tenth of the files otherwise
SWAPS = {"swapped_sides": "swap", "mirrored": "note"}  # findings about sides -> what a warning and a note count as
# Class of CamVid -> the label id and the training id of its like in Cityscapes.
CITY_IDS = {
    "sky": (23, 10),
    "building": (11, 2),
    "pole": (17, 5),
    "road": (7, 0),
    "pavement": (8, 1),
    "tree": (21, 8),
    "sign": (20, 7),
    "fence": (13, 4),
    "car": (26, 13),
    "pedestrian": (24, 11),
    "bicyclist": (33, 18),
}


def copied(source: Path, target: Path) -> None:
    """A set of which every picture is a link, to be replaced before it is changed, and every table a file."""

    def copy(file: str, to: str) -> None:
        if file.endswith(".json"):
            shutil.copyfile(file, to)
        else:
            os.symlink(os.path.realpath(file), to)

    shutil.copytree(source, target, copy_function=copy)


def as_city(source: Path, target: Path) -> None:
    """CamVid in the layout and with the label ids of Cityscapes, as far as their classes are alike."""
    for split in ("train", "val"):
        images, labels = (target / kind / split / "camvid" for kind in ("leftImg8bit", "gtFine"))
        images.mkdir(parents=True)
        for file in sorted((source / split).iterdir()):
            os.symlink(file.resolve(), images / f"{file.stem}_leftImg8bit.png")
            label = read_label(source / f"{split}annot" / f"{file.stem}.png")
            write_label(labels / f"{file.stem}_gtFine_labelIds.png", city_ids(0)[label])


def city_ids(which: int) -> UInt8Array:
    """Value of CamVid -> label id (0) or training id (1); void is 0 or 255."""
    ids = np.full(256, (0, 255)[which], np.uint8)
    for value, name in enumerate(CAMVID.names):
        ids[value] = CITY_IDS[name][which]
    return ids


def changed(file: Path) -> Path:
    """A file of its own in place of a link."""
    if file.is_symlink():
        data = file.read_bytes()
        file.unlink()
        file.write_bytes(data)
    return file


def tables(root: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The COCO files of a set."""
    files = sorted([*root.glob("*.json"), *root.glob("annotations/*.json")])
    return [(file, json.loads(file.read_text())) for file in files]


def save(listed: list[tuple[Path, dict[str, Any]]]) -> None:
    for file, table in listed:
        file.write_text(json.dumps(table))


def folder_of(root: Path, file: Path) -> Path:
    """Where the pictures of a table are."""
    last = root / file.stem.rpartition("_")[2]
    return last if last.is_dir() else root / "images"


def entries(root: Path, table: dict[str, Any], file: Path) -> dict[int, str]:
    """Image id -> file below the set."""
    folder = folder_of(root, file).relative_to(root).as_posix()
    return {image["id"]: f"{folder}/{image['file_name']}" for image in table["images"]}


def count(rate: float, total: int) -> int:
    return max(1, round(rate * total))


# Sides.


def exchange(what: str) -> Plant:
    """Left and right exchanged: of all pairs ("whole"), of one ("pair"), of the several of a limb ("limb")."""

    def plant(root: Path, rng: np.random.Generator, rate: float, before: set[Key]) -> list[Place]:
        listed = tables(root)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sigmas, which do not matter here
            schema = schema_from_category(listed[0][1]["categories"][0], "")
        notes = [
            (name, note)
            for file, table in listed
            for names in [entries(root, table, file)]
            for note in table["annotations"]
            if any(note["keypoints"][2::3]) and not note.get("iscrowd")
            for name in [names[note["image_id"]]]
        ]
        doubted = {key[1:] for key in before if key[0] in SWAPS.values()}
        planted: list[Place] = []
        for i in rng.permutation(len(notes)):
            name, note = notes[i]
            place = (name, f"annotation {note['id']}")
            pairs = drawn(what, schema, note["keypoints"], rng)
            if place not in doubted and pairs and len(planted) < count(rate, len(notes)):
                swap(note["keypoints"], [schema.flip_pairs[pair] for pair in pairs])
                planted.append(place)
        save(listed)
        return planted

    return plant


def drawn(what: str, schema: KeypointSchema, points: list[float], rng: np.random.Generator) -> tuple[int, ...]:
    """Pairs of which both keypoints are labelled; none where there are no such."""
    both = {i for i, (a, b) in enumerate(schema.flip_pairs) if points[3 * a + 2] and points[3 * b + 2]}
    if what == "whole":
        return tuple(range(len(schema.flip_pairs))) if both else ()
    if what == "pair":
        return (int(rng.choice(sorted(both))),) if both else ()
    limbs = [one for one in hypotheses(schema) if 1 < len(one) < len(schema.flip_pairs) and both >= {*one}]
    return limbs[rng.integers(len(limbs))] if limbs else ()


def swap(points: list[float], pairs: list[tuple[int, int]]) -> None:
    for a, b in pairs:
        points[3 * a : 3 * a + 3], points[3 * b : 3 * b + 3] = points[3 * b : 3 * b + 3], points[3 * a : 3 * a + 3]


# Files and tables of keypoints.


def outside(root: Path, rng: np.random.Generator, rate: float, before: set[Key]) -> list[Place]:
    """A labelled keypoint 2 to 30 pixels beyond the right border."""
    listed, planted = tables(root), []
    for file, table in listed:
        names, widths = entries(root, table, file), {image["id"]: image["width"] for image in table["images"]}
        notes = [n for n in table["annotations"] if any(n["keypoints"][2::3]) and not n.get("iscrowd")]
        for i in rng.choice(len(notes), count(rate, len(notes)), replace=False):
            k = int(rng.choice(np.flatnonzero(notes[i]["keypoints"][2::3])))
            notes[i]["keypoints"][3 * k] = widths[notes[i]["image_id"]] + float(rng.uniform(2, 30))
            planted.append((names[notes[i]["image_id"]], ""))
    save(listed)
    return planted


def some(files: list[Path], rng: np.random.Generator, rate: float) -> Iterator[Path]:
    """A tenth or so of the files, each one of its own by now."""
    for i in rng.choice(len(files), count(rate, len(files)), replace=False):
        yield changed(files[i])


def pictures(root: Path) -> list[Path]:
    """All pictures of a set, labels aside."""
    names = [root / name for file, table in tables(root) for name in entries(root, table, file).values()]
    folders = [root / split for split in ("train", "val", "test")] if not names else []
    return sorted(names) + [file for folder in folders if folder.is_dir() for file in sorted(folder.iterdir())]


def turned(root: Path, rng: np.random.Generator, rate: float, before: set[Key]) -> list[Place]:
    """An EXIF orientation of 6 or 8 on files whose annotations are of the pixels as they are stored."""
    planted = []
    for file in some(pictures(root), rng, rate):
        pixels = read_image(file)
        if pixels.shape[0] != pixels.shape[1]:  # of a square nothing tells, which is a note
            exif = Image.Exif()
            exif[0x0112] = int(rng.choice([6, 8]))
            Image.fromarray(pixels).save(file, "JPEG" if file.suffix != ".png" else "PNG", exif=exif, quality=95)
            planted.append((file.relative_to(root).as_posix(), ""))
    return planted


def cut(root: Path, rng: np.random.Generator, rate: float, before: set[Key]) -> list[Place]:
    """Files that end after 5 to 95 percent of their bytes."""
    planted = []
    for file in some(pictures(root), rng, rate):
        data = file.read_bytes()
        file.write_bytes(data[: int(rng.uniform(0.05, 0.95) * len(data))])
        planted.append((file.relative_to(root).as_posix(), ""))
    return planted


def saved_anew(source: Path, rng: np.random.Generator) -> UInt8Array:
    """The picture scaled, and brighter or darker."""
    picture = read_image(source)
    factor = float(rng.uniform(0.6, 1.2))
    scaled = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.convertScaleAbs(scaled, alpha=float(rng.uniform(0.85, 1)), beta=float(rng.uniform(0, 12))))


def as_jpeg(file: Path, picture: UInt8Array, rng: np.random.Generator) -> None:
    file.unlink()
    Image.fromarray(picture).save(file, "JPEG", quality=int(rng.integers(50, 90)))


def leaked_poses(root: Path, rng: np.random.Generator, rate: float, before: set[Key]) -> list[Place]:
    """Pictures of the smaller split that are, saved anew, pictures of the larger one."""
    listed, planted = tables(root), []
    (file, small), (other, large) = sorted(listed, key=lambda one: len(one[1]["images"]))[:2]
    places, sources = entries(root, small, file), list(entries(root, large, other).values())
    chosen = rng.choice(len(small["images"]), count(rate, len(small["images"])), replace=False)
    for i, source in zip(chosen, rng.choice(len(sources), len(chosen), replace=False), strict=True):
        image = small["images"][i]
        picture = saved_anew(root / sources[source], rng)
        as_jpeg(root / places[image["id"]], picture, rng)
        image["height"], image["width"] = picture.shape[:2]
        small["annotations"] = [note for note in small["annotations"] if note["image_id"] != image["id"]]
        pair = [places[image["id"]], sources[source]]
        planted.append((pair[0] if listed.index((file, small)) else pair[1], ""))
    save(listed)
    return planted


# Masks.


def masks(root: Path) -> list[Path]:
    """The labels of CamVid."""
    return sorted(root.glob("*annot/*.png"))


def leaked_masks(root: Path, rng: np.random.Generator, rate: float, before: set[Key]) -> list[Place]:
    """Pictures of val, with their labels, that are, saved anew, pictures of train."""
    planted = []
    targets, sources = (sorted((root / split).iterdir()) for split in ("val", "train"))
    chosen = rng.choice(len(targets), count(rate, len(targets)), replace=False)
    for i, source in zip(chosen, rng.choice(len(sources), len(chosen), replace=False), strict=True):
        picture = saved_anew(sources[source], rng)
        picture = np.asarray(cv2.resize(picture, (480, 360), interpolation=cv2.INTER_AREA))
        as_jpeg(targets[i], picture, rng)
        planted.append((targets[i].relative_to(root).as_posix(), ""))
    return planted


def relabelled(change: Callable[[UInt8Array], UInt8Array], rate: float | None = None) -> Plant:
    """Labels changed, all of them where there is no rate; planted is what then differs from a clean one."""

    def plant(root: Path, rng: np.random.Generator, given: float, before: set[Key]) -> list[Place]:
        planted = []
        files = masks(root)
        for file in some(files, rng, rate or 1):
            new = change(read_label(file))
            (write_image if new.ndim == 3 else write_label)(file, new)
            if new.ndim == 3 or rate is not None or new.any():
                planted.append((file.relative_to(root).as_posix(), ""))
        return planted

    return plant


def city_labels(root: Path) -> list[Path]:
    return sorted(root.glob("gtFine/*/*/*.png"))


def training_ids(root: Path, rng: np.random.Generator, rate: float, before: set[Key]) -> list[Place]:
    """Training ids in all files of label ids; the doctor tells of it once, at the file with the most classes."""
    to_training = np.full(256, 255, np.uint8)
    for label, train in CITY_IDS.values():
        to_training[label] = train
    most, first = 0, ""
    for file in city_labels(root):
        label = to_training[read_label(changed(file))]
        write_label(file, label)
        if len(np.unique(label)) > most:
            most, first = len(np.unique(label)), file.relative_to(root).as_posix()
    return [(first, "")]


def label_ids(root: Path, rng: np.random.Generator, rate: float, before: set[Key]) -> list[Place]:
    """Label ids in files of training ids; those of nothing beyond 18 cannot be told."""
    planted = []
    for file in city_labels(root):
        renamed = file.with_name(file.name.replace("labelIds", "labelTrainIds"))
        file.rename(renamed)
        if ((read_label(renamed) >= 19) & (read_label(renamed) < 255)).any():
            planted.append((renamed.relative_to(root).as_posix(), ""))
    return planted


WHOLE = ("masks of 0 and 255", "training ids as label ids", "label ids as training ids")  # of all files
CAR = CAMVID.names.index("car")
# Fault -> the finding it should be, what plants it, and the sets that can have it ("" for all of the task).
POSE: dict[str, tuple[str, Plant, tuple[str, ...]]] = {
    "all pairs of an instance exchanged": ("swap", exchange("whole"), ()),
    "one pair exchanged": ("swap", exchange("pair"), ()),
    "several pairs of a limb exchanged": ("swap", exchange("limb"), ("coco_mini", "lspet")),
    "keypoint outside its image": ("outside_image", outside, ()),
    "EXIF turns the image only": ("rotated", turned, ()),
    "picture cut off": ("corrupt", cut, ()),
    "picture of one split saved anew in the other": ("leak_near", leaked_poses, ()),
}
MASKS: dict[str, tuple[str, Plant, tuple[str, ...]]] = {
    "masks of 0 and 255": (
        "binary_masks",
        relabelled(lambda label: np.where(label == CAR, 255, 0).astype(np.uint8)),
        ("camvid",),
    ),
    "palette saved as RGB": (
        "palette_as_rgb",
        relabelled(lambda label: np.array(voc_palette(256), np.uint8)[label], 0.1),
        ("camvid",),
    ),
    "label a row short": ("size_mismatch", relabelled(lambda label: label[:-1], 0.1), ("camvid",)),
    "EXIF turns the image only": ("rotated", turned, ("camvid",)),
    "picture cut off": ("corrupt", cut, ("camvid",)),
    "picture of one split saved anew in the other": ("leak_near", leaked_masks, ("camvid",)),
    "training ids as label ids": ("train_ids_as_label_ids", training_ids, (CITY,)),
    "label ids as training ids": ("label_ids_as_train_ids", label_ids, (CITY,)),
}
