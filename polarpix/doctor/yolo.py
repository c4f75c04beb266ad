"""YOLO-pose: a data.yaml, images/<split>/ and labels/<split>/ with a line of relative numbers for each instance.

Numbers are taken as the exact decimals they are written as. They are written with as many digits as it takes to get the
same coordinate back, so nothing is lost to rounding in either direction.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterable
from decimal import Context, Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from polarpix.doctor.tables import (
    CROWDS,
    OUTLINES,
    Options,
    Table,
    Triple,
    annotation,
    categories_with_keypoints,
    category_entry,
    dropped,
    file_of,
    image_size,
    new_table,
    notes_by_image,
    place_image,
    schema_entry,
    schema_of,
    triples,
)
from polarpix.errors import InputError
from polarpix.images import IMAGE_SUFFIXES, write_bytes
from polarpix.pages import check_size

__all__ = ["read_yolo", "write_yolo"]

DIGITS = (6, 9, 12, 15, 16, 17, 18, 20, 25, 40, 80, 200, 400, 800)


def read_yolo(path: Path, options: Options) -> Table:
    """A split of a set as a COCO table; sizes are those of the images, ids are counted.

    Args:
        path: data.yaml, or its folder.

    Raises:
        InputError: not such a set, no such split, or a line that is not what the page says.
    """
    path = path / "data.yaml" if path.is_dir() else path
    page = _page(path)
    K, D = _shape(page, path)
    names = page["names"] if isinstance(page.get("names"), dict) else dict(enumerate(page.get("names") or ["object"]))
    categories = [_category(i, str(name), K, page, options, path) for i, name in sorted(names.items())]
    by_index = {i: category for (i, _), category in zip(sorted(names.items()), categories, strict=True)}
    table = new_table(path)
    for folder in _folders(page, path, options.split):
        for file in tqdm(_images(folder), desc="reading", unit="image", disable=None, leave=False):
            height, width = image_size(file)
            name = file.relative_to(folder).as_posix()
            image = {"id": len(table["images"]) + 1, "file_name": name, "width": width, "height": height}
            table["images"].append(image)
            label = _label_of(file)
            lines = _lines(label) if label.is_file() else []
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    where = f"{label}: line {number}"
                    index, box, points = _instance(line.split(), width, height, K, D, where)
                    if index not in by_index:
                        raise InputError(f"{where}: class {index} has no name in {path}: add it")
                    id = len(table["annotations"]) + 1
                    note = annotation(id, image, by_index[index]["id"], points, options, box)
                    table["annotations"].append(note)
    table["categories"] = categories
    return table


def _lines(label: Path) -> list[str]:
    try:
        return label.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{label}: not text ({error}): write its lines anew") from error


def _page(path: Path) -> dict[str, Any]:
    try:
        page = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot read the file ({error.strerror}): give the data.yaml of the set") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not YAML ({(str(error).splitlines() or [''])[0]:.200}): mend the file") from error
    check_size(page, str(path))
    if not isinstance(page, dict):
        raise InputError(f"{path}: holds no keys: give the data.yaml of a pose set")
    return page


def _shape(page: dict[str, Any], path: Path) -> tuple[int, int]:
    shape = page.get("kpt_shape")
    if not isinstance(shape, list) or len(shape) != 2 or not all(isinstance(n, int) for n in shape):
        raise InputError(
            f"{path}: kpt_shape is {shape!r:.80}: a pose set says how many keypoints and numbers each, as [17, 3]"
        )
    if shape[0] < 1 or shape[1] not in (2, 3):
        raise InputError(f"{path}: kpt_shape is {shape}: each keypoint has 2 or 3 numbers")
    return shape[0], shape[1]


def _category(index: int, name: str, K: int, page: dict[str, Any], options: Options, path: Path) -> dict[str, Any]:
    """Keypoint names are those of the schema or of kpt_names, else numbers."""
    if options.schema is not None:
        if len(options.schema.names) != K:
            raise InputError(f"{path}: {K} keypoints, but the schema names {len(options.schema.names)}")
        return schema_entry(index + 1, options.schema, name)
    given = page.get("kpt_names")
    listed = given.get(index) if isinstance(given, dict) else given
    names = listed if isinstance(listed, list) and len(listed) == K else [f"keypoint_{k + 1}" for k in range(K)]
    return category_entry(index + 1, name, [str(one) for one in names])


def _folders(page: dict[str, Any], path: Path, split: str) -> list[Path]:
    """The image folders of a split."""
    value = page.get(split)
    if not value:
        there = [key for key in ("train", "val", "test") if page.get(key)]
        raise InputError(f"{path}: no split {split!r}; there are {', '.join(there) or 'none'}: give --split")
    root = path.parent / str(page.get("path") or "")
    found = [root / str(one) for one in (value if isinstance(value, list) else [value])]
    for folder in found:
        try:
            there_is = folder.is_dir()
        except (OSError, ValueError):  # no name that a folder can have
            there_is = False
        if not there_is:
            raise InputError(f"{str(folder)!r:.200}: no such folder of images, of {path}: mend path or {split}")
    return found


def _images(folder: Path) -> list[Path]:
    return sorted(f for f in folder.rglob("*") if f.suffix.lower() in IMAGE_SUFFIXES and f.is_file())


def _label_of(image: Path) -> Path:
    """As YOLO finds it: the last folder "images" of the path is "labels" there."""
    parts = list(image.parts)
    last = max((i for i, part in enumerate(parts[:-1]) if part == "images"), default=None)
    if last is not None:
        parts[last] = "labels"
    return Path(*parts).with_suffix(".txt")


def _exact(text: str, where: str) -> Fraction:
    """A decimal as it is written."""
    try:
        value = float(text)
    except ValueError:
        raise InputError(f"{where}: {text!r:.40} is no number: mend it") from None
    if not math.isfinite(value) or abs(value) > 1e6 or len(text) > 2000:
        raise InputError(f"{where}: {text!r:.40} is no share of an image: mend it")
    return Fraction(text) if value else Fraction(0)  # 1e-999999999 would take all memory as a fraction


def _instance(
    words: list[str], width: int, height: int, K: int, D: int, where: str
) -> tuple[int, list[float], list[Triple]]:
    """Class, box and keypoints of a line, in pixels."""
    if len(words) != 5 + K * D or not words[0].isdecimal() or len(words[0]) > 9:
        raise InputError(
            f"{where} has {len(words)} numbers; class, box and {K} keypoints of {D} make {5 + K * D}: mend it"
        )
    values = [_exact(word, where) for word in words[1:]]
    cx, cy, w, h = values[:4]
    box = [*_low(cx, w, width), *_low(cy, h, height)]
    points: list[Triple] = []
    for i in range(4, 4 + K * D, D):
        x, y = values[i], values[i + 1]
        v = values[i + 2] if D == 3 else Fraction(2 if x or y else 0)
        if v not in (0, 1, 2):
            raise InputError(f"{where}: visibility {float(v):g}; it must be 0, 1 or 2: mend it")
        points.append((float(x * width), float(y * height), int(v)))
    return int(words[0]), [box[0], box[2], box[1], box[3]], points


def _low(centre: Fraction, side: Fraction, size: int) -> tuple[float, float]:
    """Lower end and length in pixels."""
    return float((centre - side / 2) * size), float(side * size)


def _shortest(exact: Fraction, fits: Callable[[Fraction], bool]) -> str:
    """The decimal of fewest digits (in steps) that fits."""
    for digits in DIGITS:
        value = Context(prec=digits).divide(Decimal(exact.numerator), Decimal(exact.denominator))
        text = format(value.normalize(Context(prec=digits)), "f")
        if fits(Fraction(text)):
            return text
    return text


def _share(value: float, size: int) -> str:
    """A coordinate in pixels as a share of the image's side."""
    return _shortest(Fraction(value) / size, lambda share: float(share * size) == value)


def _box_words(box: Iterable[float], width: int, height: int) -> list[str]:
    x, y, w, h = box
    (cx, w_text), (cy, h_text) = _centre_words(x, w, width), _centre_words(y, h, height)
    return [cx, cy, w_text, h_text]


def _centre_words(low: float, side: float, size: int) -> tuple[str, str]:
    """Centre and length of a side of a box, as shares."""
    length = _share(side, size)
    half = Fraction(length) / 2
    centre = _shortest(Fraction(low) / size + half, lambda share: float((share - half) * size) == low)
    return centre, length


def write_yolo(table: Table, path: Path, options: Options) -> None:
    """Write a split into a folder: labels, copies of the images, and its line in data.yaml.

    Raises:
        InputError: categories of different keypoint counts, a missing image, or a data.yaml of other names there.
    """
    categories = categories_with_keypoints(table, str(path))
    K = len(categories[0]["keypoints"])
    if any(len(category["keypoints"]) != K for category in categories):
        raise InputError(f"{path}: categories have different numbers of keypoints: YOLO has one kpt_shape for all")
    page = _new_page(categories, path, options)
    dropped(table, str(path), CROWDS | OUTLINES)
    notes = notes_by_image(table, categories)
    order = {category["id"]: i for i, category in enumerate(categories)}
    for image in tqdm(table["images"], desc="writing", unit="image", disable=None, leave=False):
        name = file_of(image, path)
        source = options.folder() / place_image(options.folder(), name, f"{path}: image {image['id']}")
        copy = path / "images" / options.split / Path(name).with_suffix(source.suffix)
        W, H = image["width"], image["height"]
        lines = []
        for note in notes[image["id"]]:
            if note.get("iscrowd"):
                continue
            points = triples(note, K)
            box = note.get("bbox") or annotation(0, image, 0, points, options)["bbox"]
            words = [str(order[note["category_id"]]), *_box_words(box, W, H)]
            for x, y, v in points:
                words += [_share(x, W), _share(y, H), str(v)]
            lines.append(" ".join(words) + "\n")
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.resolve() != copy.resolve():
            shutil.copyfile(source, copy)
        write_bytes(_label_of(copy), "".join(lines).encode())
    write_bytes(path / "data.yaml", yaml.safe_dump(page, sort_keys=False, allow_unicode=True).encode())


def _new_page(categories: list[dict[str, Any]], path: Path, options: Options) -> dict[str, Any]:
    """data.yaml with one split more."""
    fresh = {
        "path": ".",
        "kpt_shape": [len(categories[0]["keypoints"]), 3],
        "flip_idx": list(schema_of(categories[0], str(path)).flip_order),
        "names": {i: str(category["name"]) for i, category in enumerate(categories)},
        "kpt_names": {i: list(map(str, category["keypoints"])) for i, category in enumerate(categories)},
    }
    file = path / "data.yaml"
    known = _page(file) if file.is_file() else fresh
    for key in ("kpt_shape", "names", "kpt_names"):
        if known.get(key) != fresh[key]:
            raise InputError(f"{file}: {key} is {known.get(key)}, but this table has {fresh[key]}: use another folder")
    return known | {options.split: f"images/{options.split}"}
