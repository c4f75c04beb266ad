"""CVAT for images 1.1: XML with skeletons, or with points, one label each or all of an instance in one shape.

A keypoint that is ``outside`` is not labelled, one that is ``occluded`` is hidden. Id, box, area and crowd flag of an
instance are attributes of its skeleton; where they are missing, a box of the same group is taken, or one is made.
"""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any
from xml.parsers import expat

from polarpix.doctor.tables import (
    OUTLINES,
    Options,
    Table,
    Triple,
    annotation,
    categories_with_keypoints,
    category_entry,
    dropped,
    file_of,
    new_table,
    notes_by_image,
    put_point,
    schema_entry,
    triples,
)
from polarpix.errors import InputError
from polarpix.images import write_bytes
from polarpix.places import safe_name

__all__ = ["read_cvat", "write_cvat"]

ATTRIBUTES = ("annotation_id", "bbox", "area", "iscrowd")
EDGE = re.compile(r'data-node-from="(\d+)"[^>]*data-node-to="(\d+)"')


def read_cvat(path: Path, options: Options) -> Table:
    """A file as a COCO table.

    Raises:
        InputError: not such a file, one with a document type (entities can blow up or read other files), or a shape
            that fits no skeleton.
    """
    root = _parse(path)
    if root.tag != "annotations":
        raise InputError(f"{path}: begins with <{root.tag}>: export it as 'CVAT for images 1.1'")
    pictures = root.findall("image")
    if not pictures:
        raise InputError(f"{path}: holds no <image>: export it as 'CVAT for images 1.1'")
    categories = _categories(root, options, path)
    given = [picture.get("id", "") for picture in pictures]
    keep = all(one.isdecimal() for one in given) and len(set(given)) == len(given)
    table = new_table(path)
    for number, picture in enumerate(pictures, start=1):
        where = f"{path}: image {picture.get('name')!r:.80}"
        size = {key: _whole(picture.get(key), key, where) for key in ("width", "height")}
        name = safe_name(picture.get("name"), where)
        image = {"id": int(picture.get("id", "")) if keep else number, "file_name": name, **size}
        table["images"].append(image)
        table["annotations"] += _instances(picture, image, categories, options, where)
    ids = [note["id"] for note in table["annotations"]]
    if None in ids or len(set(ids)) != len(ids):
        for number, note in enumerate(table["annotations"], start=1):
            note["id"] = number
    table["categories"] = list(categories.values())
    return table


def _parse(path: Path) -> ET.Element:
    """The tree of a file that declares no document type, and with it no entities."""

    def refuse(*_: Any) -> None:
        raise InputError(f"{path}: declares a document type, which CVAT never writes: remove it")

    try:
        data = path.read_bytes()
        guard = expat.ParserCreate()
        guard.StartDoctypeDeclHandler = refuse
        guard.EntityDeclHandler = refuse
        guard.Parse(data, True)
        return ET.fromstring(data)
    except OSError as error:
        raise InputError(f"{path}: cannot read the file ({error.strerror}): check the path") from error
    except (expat.ExpatError, ET.ParseError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not XML ({error}): export it as 'CVAT for images 1.1'") from error


def _whole(text: str | None, key: str, where: str) -> int:
    if text is None or not text.isdecimal() or int(text) < 1:
        raise InputError(f"{where} has {key} {text!r:.20}: give its size in pixels")
    return int(text)


def _categories(root: ET.Element, options: Options, path: Path) -> dict[str, dict[str, Any]]:
    """Label -> category: skeletons of the header, else the schema, else what the shapes show."""
    found: dict[str, dict[str, Any]] = {}
    labels = root.findall("./meta//label")
    for label in labels:
        if label.findtext("type") == "skeleton":
            name = label.findtext("name") or ""
            parts = [one.findtext("name") or "" for one in labels if one.findtext("parent") == name]
            bones = [(int(a), int(b)) for a, b in EDGE.findall(label.findtext("svg") or "")]
            if parts:
                bones = [bone for bone in bones if min(bone) > 0 and max(bone) <= len(parts)]
                found[name] = category_entry(len(found) + 1, name, parts, bones)
    if found:
        return found
    if options.schema is not None:
        return {options.schema.category: schema_entry(1, options.schema)}
    for skeleton in root.iter("skeleton"):
        names = [str(one.get("label")) for one in skeleton.findall("points")]
        found.setdefault(str(skeleton.get("label")), category_entry(len(found) + 1, str(skeleton.get("label")), names))
    if found:
        return found
    shapes = list(root.iter("points"))
    several = [one for one in shapes if ";" in one.get("points", "")]
    if several:
        count = several[0].get("points", "").count(";") + 1
        name = str(several[0].get("label"))
        return {name: category_entry(1, name, [f"keypoint_{k + 1}" for k in range(count)])}
    if not shapes:
        raise InputError(f"{path}: holds neither skeletons nor points: there are no keypoints to convert")
    return {"object": category_entry(1, "object", list(dict.fromkeys(str(one.get("label")) for one in shapes)))}


def _instances(
    picture: ET.Element, image: dict[str, Any], categories: dict[str, dict[str, Any]], options: Options, where: str
) -> list[dict[str, Any]]:
    boxes = {one.get("group_id"): _box(one, where) for one in picture.findall("box") if one.get("group_id")}
    found = []
    for skeleton in picture.findall("skeleton"):
        category = categories.get(str(skeleton.get("label")))
        if category is None:
            raise InputError(f"{where}: skeleton {skeleton.get('label')!r} is none of {', '.join(categories)}")
        points: list[Triple] = [(0.0, 0.0, 0)] * len(category["keypoints"])
        for one in skeleton.findall("points"):
            _put(points, category, one, where)
        own = {str(a.get("name")): a.text or "" for a in skeleton.findall("attribute")}
        box = (
            _numbers(own["bbox"].replace(" ", ""), 4, where) if own.get("bbox") else boxes.get(skeleton.get("group_id"))
        )
        area = _numbers(own["area"], 1, where)[0] if own.get("area") else None
        note = annotation(0, image, category["id"], points, options, box, area, int(own.get("iscrowd") == "1"))
        id = own.get("annotation_id", "")
        found.append(note | {"id": int(id) if id.isdecimal() else None})
    return found + _from_points(picture, image, categories, boxes, options, where)


def _from_points(
    picture: ET.Element,
    image: dict[str, Any],
    categories: dict[str, dict[str, Any]],
    boxes: dict[str | None, list[float]],
    options: Options,
    where: str,
) -> list[dict[str, Any]]:
    """Instances of <points> that are in no skeleton."""
    first = next(iter(categories.values()))
    groups: dict[str | None, list[Triple]] = {}
    found = []
    for one in picture.findall("points"):
        if str(one.get("label")) in first["keypoints"]:
            points = groups.setdefault(one.get("group_id"), [(0.0, 0.0, 0)] * len(first["keypoints"]))
            _put(points, first, one, where)
            continue
        category = categories.get(str(one.get("label")))
        if category is None:
            raise InputError(f"{where}: points {one.get('label')!r} are of no skeleton: give a schema file")
        K = len(category["keypoints"])
        numbers = _numbers(one.get("points", "").replace(";", ","), 2 * K, where)
        v = 1 if one.get("occluded") == "1" else 2
        points = [(numbers[i], numbers[i + 1], v) for i in range(0, 2 * K, 2)]
        found.append(
            annotation(0, image, category["id"], points, options, boxes.get(one.get("group_id"))) | {"id": None}
        )
    for group, points in groups.items():
        found.append(annotation(0, image, first["id"], points, options, boxes.get(group)) | {"id": None})
    return found


def _put(points: list[Triple], category: dict[str, Any], one: ET.Element, where: str) -> None:
    """Enter a point of one keypoint."""
    x, y = _numbers(one.get("points", ""), 2, where)
    point = (x, y, 0 if one.get("outside") == "1" else 1 if one.get("occluded") == "1" else 2)
    put_point(points, category["keypoints"], str(one.get("label")), point, where)


def _numbers(text: str, count: int, where: str) -> list[float]:
    try:
        values = [float(word) for word in text.split(",")]
    except ValueError:
        values = []
    if len(values) != count or not all(map(math.isfinite, values)):
        raise InputError(f"{where}: {text!r:.60} should be {count} numbers: mend it")
    return values


def _box(one: ET.Element, where: str) -> list[float]:
    x0, y0, x1, y1 = (_numbers(one.get(key, ""), 1, where)[0] for key in ("xtl", "ytl", "xbr", "ybr"))
    return [x0, y0, x1 - x0, y1 - y0]


def write_cvat(table: Table, path: Path, options: Options) -> None:
    """Write the skeletons of a table; numbers keep every digit.

    Raises:
        InputError: no category with keypoints.
    """
    categories = categories_with_keypoints(table, str(path))
    dropped(table, str(path), OUTLINES)
    notes = notes_by_image(table, categories)
    by_id = {category["id"]: category for category in categories}
    root = ET.Element("annotations")
    ET.SubElement(root, "version").text = "1.1"
    labels = ET.SubElement(ET.SubElement(ET.SubElement(root, "meta"), "task"), "labels")
    for category in categories:
        _write_label(labels, category)
    for image in table["images"]:
        name = file_of(image, path)
        size = {key: str(image[key]) for key in ("width", "height")}
        element = ET.SubElement(root, "image", {"id": str(image["id"]), "name": name, **size})
        for note in notes[image["id"]]:
            _write_skeleton(element, note, by_id[note["category_id"]])
    ET.indent(root)
    try:
        data = ET.tostring(root, encoding="utf-8", xml_declaration=True)
        ET.fromstring(data)
    except (ET.ParseError, ValueError) as error:
        raise InputError(f"{path}: a name holds what XML cannot ({error}): rename it") from error
    write_bytes(path, data + b"\n")


def _write_label(labels: ET.Element, category: dict[str, Any]) -> None:
    """The label of a skeleton, its edges as CVAT draws them, and the labels of its points."""
    label = ET.SubElement(labels, "label")
    ET.SubElement(label, "name").text = str(category["name"])
    ET.SubElement(label, "type").text = "skeleton"
    attributes = ET.SubElement(label, "attributes")
    for name in ATTRIBUTES:
        one = ET.SubElement(attributes, "attribute")
        for key, text in {
            "name": name,
            "mutable": "False",
            "input_type": "text",
            "default_value": "",
            "values": "",
        }.items():
            ET.SubElement(one, key).text = text
    count = len(category["keypoints"])
    angle = [2 * math.pi * k / count for k in range(count)]
    spots = [(50 + 40 * math.sin(a), 50 - 40 * math.cos(a)) for a in angle]  # CVAT needs a place for each node
    drawing = []
    for a, b in category.get("skeleton") or []:
        (x1, y1), (x2, y2) = spots[a - 1], spots[b - 1]
        drawing.append(
            f'<line x1="{x1:.2f}" y1="{y1:.2f}" x2="{x2:.2f}" y2="{y2:.2f}" stroke="black" data-type="edge" '
            f'data-node-from="{a}" stroke-width="0.5" data-node-to="{b}"></line>'
        )
    for k, ((x, y), name) in enumerate(zip(spots, category["keypoints"], strict=True), start=1):
        quoted = str(name).replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
        drawing.append(
            f'<circle r="1.5" stroke="black" fill="#b3b3b3" cx="{x:.2f}" cy="{y:.2f}" stroke-width="0.1" '
            f'data-type="element node" data-element-id="{k}" data-node-id="{k}" data-label-name="{quoted}"></circle>'
        )
    ET.SubElement(label, "svg").text = "".join(drawing)
    for name in category["keypoints"]:
        part = ET.SubElement(labels, "label")
        for key, text in {"name": str(name), "type": "points", "parent": str(category["name"])}.items():
            ET.SubElement(part, key).text = text


def _write_skeleton(image: ET.Element, note: dict[str, Any], category: dict[str, Any]) -> None:
    names = category["keypoints"]
    settings = {"label": str(category["name"]), "source": "manual", "occluded": "0", "z_order": "0"}
    skeleton = ET.SubElement(image, "skeleton", settings)
    for name, (x, y, v) in zip(names, triples(note, len(names)), strict=True):
        flags = {"outside": str(int(v == 0)), "occluded": str(int(v == 1))}
        ET.SubElement(
            skeleton,
            "points",
            {"label": str(name), "source": "manual", **flags, "points": f"{float(x)!r},{float(y)!r}"},
        )
    box = note.get("bbox")
    own = {
        "annotation_id": str(note["id"]),
        "bbox": ",".join(repr(float(v)) for v in box) if box is not None else "",
        "area": repr(float(note["area"])) if note.get("area") is not None else "",
        "iscrowd": str(int(bool(note.get("iscrowd")))),
    }
    for key, text in own.items():
        ET.SubElement(skeleton, "attribute", {"name": key}).text = text
