"""DeepLabCut's CSV of labelled frames, of one animal or of several.

A row is an image, a pair of columns a body part; empty cells are not labelled. The format holds no sizes, boxes or
visibility. What it holds and COCO has no place for stands under keys of our own: ``scorer`` and ``index_columns`` in
``info``, ``source`` (the path in the CSV) of an image, ``individual`` of an annotation, ``individuals`` of a category.
"""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any

from polarpix.doctor.tables import (
    CROWDS,
    OUTLINES,
    Lost,
    Options,
    Table,
    Triple,
    annotation,
    categories_with_keypoints,
    category_entry,
    dropped,
    image_size,
    new_table,
    notes_by_image,
    place_image,
    schema_entry,
    triples,
)
from polarpix.errors import InputError
from polarpix.images import write_bytes

__all__ = ["read_dlc", "write_dlc"]

LEVELS = ("scorer", "individuals", "bodyparts", "coords")
UNIQUE = "single"  # the individual that stands for the body parts of none
Cell = tuple[str, str]  # individual, body part


def read_dlc(path: Path, options: Options) -> Table:
    """A CSV as a COCO table; sizes are those of the images.

    Raises:
        InputError: not such a CSV, or an image that is not there.
    """
    header, rows, columns = _parse(path)
    cells = _cells(path, header, columns)
    individuals = list(dict.fromkeys(individual for individual, _ in cells))
    parts = {one: [part for individual, part in cells if individual == one] for one in individuals}
    kinds = [[one for one in individuals if one != UNIQUE or len(individuals) == 1], [UNIQUE]]
    if UNIQUE not in individuals or len(individuals) == 1:
        kinds = kinds[:1]
    categories = []
    for number, members in enumerate(kinds, start=1):
        if any(parts[one] != parts[members[0]] for one in members):
            raise InputError(f"{path}: individuals {', '.join(members)} have different body parts: convert them apart")
        entry = _category(number, members, parts[members[0]], options, path)
        if "individuals" in header:
            entry["individuals"] = members
        categories.append(entry)
    table = new_table(path, scorer=header["scorer"][0], index_columns=columns) | {"categories": categories}
    for line, row in rows:
        _add_row(table, path, line, row, columns, cells, kinds, options)
    _no_file_twice(table, path)
    return table


def _parse(path: Path) -> tuple[dict[str, list[str]], list[tuple[int, list[str]]], int]:
    """Header rows by name without their first cells, the other rows with their line, and the number of first cells."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [(number, row) for number, row in enumerate(csv.reader(file), start=1) if row]
    except OSError as error:
        raise InputError(f"{path}: cannot read the file ({error.strerror}): check the path") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not CSV ({error}): give a CollectedData_*.csv of DeepLabCut") from error
    header: dict[str, list[str]] = {}
    while rows and rows[0][1][0] in LEVELS and rows[0][1][0] not in header:
        name, *rest = rows.pop(0)[1]
        header[name] = rest
    if not {"scorer", "bodyparts", "coords"} <= {*header}:
        raise InputError(f"{path}: no rows scorer, bodyparts and coords: give a CollectedData_*.csv of DeepLabCut")
    coords = header["coords"]
    columns = 1 + next((i for i, name in enumerate(coords) if name), 0)
    header = {name: row[columns - 1 :] for name, row in header.items()}
    width = len(header["coords"])
    if any(len(row) != width for row in header.values()) or not width:
        raise InputError(f"{path}: header rows have different lengths: save the file again with DeepLabCut")
    if "likelihood" in header["coords"]:
        raise InputError(f"{path}: holds predictions with likelihoods, not annotations: give a CollectedData_*.csv")
    if len(set(header["scorer"])) != 1:
        raise InputError(f"{path}: several scorers, {', '.join(sorted(set(header['scorer'])))}: convert one at a time")
    return header, rows, columns


def _cells(path: Path, header: dict[str, list[str]], columns: int) -> list[Cell]:
    """Individual and body part of each pair of columns; one animal is the individual ''."""
    parts, coords = header["bodyparts"], header["coords"]
    who = header.get("individuals", [""] * len(parts))
    keys = list(zip(who, parts, strict=True))
    if coords != ["x", "y"] * (len(coords) // 2) or keys[::2] != keys[1::2]:
        raise InputError(f"{path}: coords must be x, y for each body part in turn: save it again with DeepLabCut")
    if len(set(keys[::2])) != len(keys[::2]):
        raise InputError(f"{path}: a body part has its columns twice: keep one of them")
    return keys[::2]


def _category(number: int, members: list[str], names: list[str], options: Options, path: Path) -> dict[str, Any]:
    """The category of some individuals; skeleton and name come from the schema, if there is one."""
    schema = options.schema
    if number > 1:
        return category_entry(number, UNIQUE, names)
    if schema is None:
        return category_entry(number, "animal", names)
    if list(schema.names) != names:
        raise InputError(f"{path}: body parts are {', '.join(names)}; the schema has {', '.join(schema.names)}")
    return schema_entry(number, schema)


def _add_row(
    table: Table,
    path: Path,
    line: int,
    row: list[str],
    columns: int,
    cells: list[Cell],
    kinds: list[list[str]],
    options: Options,
) -> None:
    """The image of a row and its instances."""
    where = f"{path}: line {line}"
    if len(row) != columns + 2 * len(cells):
        raise InputError(f"{where} has {len(row)} cells instead of {columns + 2 * len(cells)}: mend it")
    source = "/".join(row[:columns])
    file = place_image(options.folder(), source, where)
    height, width = image_size(options.folder() / file)
    image = {"id": len(table["images"]) + 1, "file_name": file, "width": width, "height": height, "source": source}
    table["images"].append(image)
    points: dict[Cell, Triple] = {}
    for cell, x, y in zip(cells, row[columns::2], row[columns + 1 :: 2], strict=True):
        a, b = _number(x, where), _number(y, where)
        if (a is None) != (b is None):
            raise InputError(f"{where}: {cell[1]} has x {x!r} and y {y!r}: give both or none")
        points[cell] = (0.0, 0.0, 0) if a is None or b is None else (a, b, 2)
    for category, members in zip(table["categories"], kinds, strict=True):
        for individual in members:
            own = [points[individual, part] for part in category["keypoints"]]
            if any(v for _, _, v in own):
                note = annotation(len(table["annotations"]) + 1, image, category["id"], own, options)
                table["annotations"].append(note | ({"individual": individual} if "individuals" in category else {}))


def _number(cell: str, where: str) -> float | None:
    if cell.strip().lower() in ("", "nan"):
        return None
    try:
        value = float(cell)
    except ValueError:
        raise InputError(f"{where}: {cell!r:.40} is no number: mend it") from None
    if not math.isfinite(value):
        raise InputError(f"{where}: {cell!r} is not finite: leave the cell empty")
    return value


def _no_file_twice(table: Table, path: Path) -> None:
    seen: dict[str, str] = {}
    for image in table["images"]:
        if image["file_name"] in seen:
            pair = f"{seen[image['file_name']]} and {image['source']}"
            raise InputError(f"{path}: {pair} are one file, {image['file_name']}: keep the folders of the videos apart")
        seen[image["file_name"]] = image["source"]


def write_dlc(table: Table, path: Path, options: Options) -> None:
    """Write the keypoints of a table; a point is written as its shortest exact decimal.

    Raises:
        InputError: no keypoints, or more individuals of one name on an image.
    """
    categories = categories_with_keypoints(table, str(path))
    notes = notes_by_image(table, categories)
    hidden: Lost = {"the difference of hidden and visible": lambda n: 1 in (n.get("keypoints") or [])[2::3]}
    dropped(table, str(path), CROWDS | OUTLINES | hidden)
    notes = {image: [n for n in here if not n.get("iscrowd")] for image, here in notes.items()}
    several = len(categories) > 1 or "individuals" in categories[0] or max(map(len, notes.values()), default=0) > 1
    cells, owner = _columns(categories, notes, several)
    scorer = table.get("info", {}).get("scorer", "polarpix")
    columns = table.get("info", {}).get("index_columns", 1)
    if columns not in range(1, 10):
        raise InputError(f"{path}: info has index_columns {columns!r:.40}: give the number of first columns, 1 to 9")
    blank = [""] * (columns - 1)
    stream = io.StringIO()
    out = csv.writer(stream, lineterminator="\n")
    out.writerow(["scorer", *blank, *[scorer] * (2 * len(cells))])
    if several:
        out.writerow(["individuals", *blank, *[individual for individual, _ in cells for _ in "xy"]])
    out.writerow(["bodyparts", *blank, *[part for _, part in cells for _ in "xy"]])
    out.writerow(["coords", *blank, *["x", "y"] * len(cells)])
    names = {category["id"]: category["keypoints"] for category in categories}
    for image in table["images"]:
        source = str(image.get("source", image["file_name"]))
        index = source.split("/", columns - 1)
        if len(index) != columns:
            raise InputError(
                f"{path}: image {source} has no {columns} parts, as the first columns need: mend its source"
            )
        row: dict[Cell, list[str]] = {}
        for note in notes[image["id"]]:
            for part, (x, y, v) in zip(
                names[note["category_id"]], triples(note, len(names[note["category_id"]])), strict=True
            ):
                if v:
                    if (owner[note["id"]], part) in row:
                        raise InputError(
                            f"{path}: {owner[note['id']]!r} is on {source} twice: name the individuals apart"
                        )
                    row[owner[note["id"]], part] = [repr(float(x)), repr(float(y))]
        out.writerow([*index, *[value for cell in cells for value in row.get(cell, ["", ""])]])
    write_bytes(path, stream.getvalue().encode())


def _columns(
    categories: list[dict[str, Any]], notes: dict[int, list[dict[str, Any]]], several: bool
) -> tuple[list[Cell], dict[int, str]]:
    """Individual and body part of each pair of columns, and the individual of each annotation."""
    cells: list[Cell] = []
    owner: dict[int, str] = {}
    for category in categories:
        own = [[n for n in here if n["category_id"] == category["id"]] for here in notes.values()]
        members: list[str] = list(category.get("individuals", []))
        for here in own:
            free = 0
            for note in here:
                name = str(note.get("individual", "")) if several else ""
                if several and not name:
                    free += 1
                    name = f"{category['name']}{free}"
                if name not in members:
                    members.append(name)
                owner[note["id"]] = name
        if not several:
            members = [""]
        cells += [(individual, part) for individual in members for part in category["keypoints"]]
    return cells, owner
