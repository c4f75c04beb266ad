"""COCO keypoint tables, which every other format is converted to and from, and what all conversions need."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from polarpix.doctor.scan import special
from polarpix.errors import InputError
from polarpix.images import IMAGE_SUFFIXES, write_bytes
from polarpix.places import safe_name
from polarpix.pose.coco_json import index_pictures, is_number, read_area, read_box, read_keypoints, read_page, require
from polarpix.pose.schema import load_schema, schema_from_category
from polarpix.rgb import exif_orientation, open_pillow
from polarpix.types import KeypointSchema

__all__ = [
    "AREA",
    "CROWDS",
    "OUTLINES",
    "Lost",
    "Options",
    "Table",
    "Triple",
    "annotation",
    "categories_with_keypoints",
    "category_entry",
    "dropped",
    "file_of",
    "image_size",
    "new_table",
    "notes_by_image",
    "place_image",
    "put_point",
    "read_coco",
    "schema_entry",
    "schema_of",
    "triples",
    "write_coco",
]

Table = dict[str, Any]
Lost = dict[str, Callable[[dict[str, Any]], bool]]  # what a format cannot hold -> whether an annotation has it
Triple = tuple[float, float, int]  # x, y, visibility

# Share of its box that an object fills, where nobody measured it: the factor of xtcocotools for sets without areas.
AREA = 0.53
CROWDS: Lost = {"crowds": lambda note: bool(note.get("iscrowd"))}
OUTLINES: Lost = {"outlines": lambda note: bool(note.get("segmentation"))}


@dataclass(frozen=True)
class Options:
    """What a conversion may need besides its files.

    Args:
        images: folder of the images.
        split: which split of a set is read, or written to.
        padding: around the keypoints where a format has no boxes: a share of the longer side, or pixels as "20px".
        schema: names, skeleton and category where a format has none.
    """

    images: Path | None = None
    split: str = "train"
    padding: str = "0.1"
    schema: KeypointSchema | None = None

    @classmethod
    def of(cls, images: str = "", split: str = "train", padding: str = "0.1", schema: str = "") -> Options:
        """From the words of a command line.

        Raises:
            InputError: a padding that is no size, a folder or a schema that is not there.
        """
        number = padding.removesuffix("px")
        try:
            fits = 0 <= float(number) < math.inf
        except ValueError:
            fits = False
        if not fits:
            raise InputError(f"--padding is {padding!r}: give a share such as 0.1, or pixels such as 20px")
        if images and not Path(images).is_dir():
            raise InputError(f"{images}: no such folder of images: check --images")
        safe_name(split, "--split")
        return cls(Path(images) if images else None, split, padding, load_schema(schema) if schema else None)

    def folder(self) -> Path:
        """The folder of the images, where one is needed."""
        if self.images is None:
            raise InputError("this format needs the images: give --images FOLDER")
        return self.images


def new_table(source: Path, **info: Any) -> Table:
    """A table without images, annotations and categories, and where it is from."""
    info = {"description": f"converted from {source.name}", **info}
    return {"info": info, "images": [], "annotations": [], "categories": []}


def file_of(image: dict[str, Any], target: Path) -> str:
    """The file name of an image that is written to ``target``; raises as :func:`safe_name` does."""
    return safe_name(image["file_name"], f"{target}: image {image['id']}")


def read_coco(path: Path, options: Options) -> Table:
    """A COCO keypoint file, its entries checked.

    Raises:
        InputError: not such a file, or an entry that is not what COCO means.
    """
    table = read_page(path)
    known = index_pictures(table, path)
    if not isinstance(table.get("info", {}), dict):
        raise InputError(f"{path}: info is {table['info']!r:.40}, not an object: mend it or leave it out")
    categories = _categories(table, path)
    for note in table["annotations"]:
        where = f"{path}: annotation {note['id']}"
        if note["image_id"] not in known:
            raise InputError(f"{where} is of image {note['image_id']}, which is not listed: add it")
        if note["category_id"] not in categories:
            raise InputError(f"{where} is of category {note['category_id']}, which is not listed: add it")
        names = categories[note["category_id"]].get("keypoints")
        if not isinstance(note.get("keypoints"), list | None):
            raise InputError(f"{where}: keypoints is {note['keypoints']!r:.40}, not a list: mend it")
        if names and note.get("keypoints") is not None:
            read_keypoints(note, len(names), where)
            if not all(map(is_number, note["keypoints"])):  # of what is not labelled, too
                raise InputError(f"{where}: a keypoint is not finite: give it 0, 0, 0")
        if note.get("bbox") is not None:
            read_box(note, where)
        read_area(note, where)
    return table


def _categories(table: Table, path: Path) -> dict[int, dict[str, Any]]:
    """The categories by id, with names that can be written."""
    found: dict[int, dict[str, Any]] = {}
    for number, category in enumerate(table["categories"]):
        where = f"{path}: category number {number}"
        require(category, ("id", "name"), where)
        if category["id"] in found:
            raise InputError(f"{where} has the id {category['id']} of another: number the categories anew")
        found[category["id"]] = category
        name = category["name"]
        if not isinstance(name, str) or not name or name != name.encode("utf-8", "replace").decode():
            raise InputError(f"{where} has the name {name!r:.40}: give it one in valid Unicode")
        members = category.get("individuals", [])
        if not isinstance(members, list) or not all(isinstance(one, str) for one in members):
            raise InputError(f"{where} has the individuals {members!r:.40}: give a list of names, or leave them out")
        if category.get("keypoints"):
            schema_of(category, str(path))
    return found


def write_coco(table: Table, path: Path, options: Options) -> None:
    """Write a table as JSON; numbers keep every digit."""
    try:
        text = json.dumps(table, allow_nan=False)
    except ValueError as error:
        raise InputError(
            f"{path}: the table holds NaN or Infinity, which JSON does not know: mend the source"
        ) from error
    write_bytes(path, text.encode())


def categories_with_keypoints(table: Table, source: str) -> list[dict[str, Any]]:
    """The categories that name keypoints, by id.

    Raises:
        InputError: there is none.
    """
    found = [c for c in table["categories"] if isinstance(c, dict) and c.get("keypoints")]
    if not found:
        raise InputError(f"{source}: no category has keypoint names: there is nothing to convert")
    return sorted(found, key=lambda c: int(c["id"]))


def category_entry(id: int, name: str, names: Sequence[str], skeleton: Iterable[Sequence[int]] = ()) -> dict[str, Any]:
    """An entry of ``categories``; the skeleton counts from 1."""
    return {"id": id, "name": name, "keypoints": list(names), "skeleton": [list(bone) for bone in skeleton]}


def schema_entry(id: int, schema: KeypointSchema, name: str = "") -> dict[str, Any]:
    """The entry of ``categories`` that a schema describes, by its own name or another."""
    bones = [(a + 1, b + 1) for a, b in schema.skeleton]
    return category_entry(id, name or schema.category, schema.names, bones)


def schema_of(category: dict[str, Any], source: str) -> KeypointSchema:
    """The skeleton of a category, without a word on sigmas."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return schema_from_category(category, source)


def annotation(
    id: int,
    image: dict[str, Any],
    category: int,
    points: Sequence[Triple],
    options: Options,
    box: Sequence[float] | None = None,
    area: float | None = None,
    crowd: int = 0,
) -> dict[str, Any]:
    """An entry of ``annotations``; box and area are made from the keypoints where there are none.

    The box is that of the labelled keypoints, padded and cut off at the border; the area :data:`AREA` of it.
    """
    if box is None:
        box = _padded([(x, y) for x, y, v in points if v], image, options.padding)
    if area is None:
        area = AREA * box[2] * box[3]
    return {
        "id": id,
        "image_id": image["id"],
        "category_id": category,
        "iscrowd": crowd,
        "bbox": list(box),
        "area": area,
        "num_keypoints": sum(v > 0 for _, _, v in points),
        "keypoints": [value for point in points for value in point],
    }


def _padded(points: Sequence[tuple[float, float]], image: dict[str, Any], padding: str) -> list[float]:
    if not points:
        return [0.0, 0.0, float(image["width"]), float(image["height"])]
    xs, ys = zip(*points, strict=True)
    if padding.endswith("px"):
        around = float(padding.removesuffix("px"))
    else:
        around = float(padding) * max(max(xs) - min(xs), max(ys) - min(ys))
    left, top = max(min(xs) - around, 0.0), max(min(ys) - around, 0.0)
    right, bottom = min(max(xs) + around, float(image["width"])), min(max(ys) + around, float(image["height"]))
    return [left, top, max(right - left, 0.0), max(bottom - top, 0.0)]


def put_point(points: list[Triple], names: Sequence[str], name: str, point: Triple, where: str) -> None:
    """Enter a keypoint by its name among those of an instance.

    Raises:
        InputError: no keypoint of that name, or one that is there already.
    """
    if name not in names:
        raise InputError(f"{where}: point {name!r:.80} is none of {', '.join(names):.200}: mend its label")
    k = names.index(name)
    if points[k][2]:
        raise InputError(f"{where}: {name:.80} occurs twice in one instance: group the instances apart")
    points[k] = point


def triples(note: dict[str, Any], K: int) -> list[Triple]:
    """The keypoints of an annotation; K times not labelled where it has none."""
    given = note.get("keypoints") or [0] * (3 * K)
    return [(given[i], given[i + 1], int(given[i + 2])) for i in range(0, 3 * K, 3)]


def notes_by_image(table: Table, categories: Iterable[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    """Image id -> its annotations of these categories, in the table's order."""
    ids = {category["id"] for category in categories}
    found: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in table["images"]}
    for note in table["annotations"]:
        if note["category_id"] in ids:
            found[note["image_id"]].append(note)
    return found


def dropped(table: Table, target: str, tests: Lost) -> None:
    """One warning for all that a format cannot hold: words -> whether an annotation has it."""
    counts = {words: sum(map(test, table["annotations"])) for words, test in tests.items()}
    lost = [f"{words} ({count:,})" for words, count in counts.items() if count]
    if lost:
        warnings.warn(f"{target}: cannot hold and therefore lacks: {', '.join(lost)}", stacklevel=2)


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of an image file as it is looked at, without reading its pixels.

    Raises:
        InputError: missing, or no image.
    """
    if what := special(path):
        raise InputError(f"{path}: is {what}, no file: put the file itself in its place")
    try:
        with open_pillow(path) as picture:
            width, height = picture.size
            return (width, height) if exif_orientation(picture) >= 5 else (height, width)
    except FileNotFoundError:
        raise InputError(f"{path}: image is missing: check --images") from None
    except Exception as error:  # of any class that Pillow's readers have
        raise InputError(
            f"{path}: not an image ({' '.join(str(error).split()):.200}): fetch or save it again"
        ) from None


def place_image(folder: Path, name: str, where: str) -> str:
    """What a file that a table calls ``name`` is called below ``folder``.

    As it is, by its last part, or with another ending.

    Raises:
        InputError: it is not there.
    """
    plain = PurePosixPath(safe_name(name, where).replace("\\", "/"))
    for candidate in (plain, PurePosixPath(plain.name)):
        if (folder / candidate).is_file():
            return str(candidate)
        for suffix in IMAGE_SUFFIXES:
            other = candidate.with_suffix(suffix)
            if (folder / other).is_file():
                return str(other)
    raise InputError(f"{where}: image {name} is not in {folder}: give --images FOLDER")
