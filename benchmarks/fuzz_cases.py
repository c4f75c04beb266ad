"""Damaged and hostile files: mutations of valid ones, each drawn from a seed and a number alone."""

from __future__ import annotations

import copy
import io
import json
import random
import struct
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

NAMES = ["nose", "left_paw", "right_paw", "tail"]
SIZE = (24, 32)  # height, width of the pictures that the tables are of
PICTURES = 3

NUMBERS: tuple[Any, ...] = (
    *(0, -1, 1, 2, 3, 255, 2**31, 2**63, -(2**63), 2**64, 10**25, 10**400, True, False),
    *(0.5, -0.0, 1e-320, 1e38, 1e39, 1e308, -1e308, float("nan"), float("inf"), float("-inf")),
)
TEXTS: tuple[str, ...] = (
    *("", " ", "a", "0", "../../x.png", "../outside.png", "/etc/passwd", "C:\\x.png", "..\\..\\x.png", "a\0b.png"),
    *("0.png/", ".", "..", "sub/../../x.png", "~/x", "x" * 300, "x" * 70_000, "\ud800.png", "\n\r\t", "😀", "{}%s%n"),
    *("\x1b[31m", "a\nb", "nul", "-rf", "$(touch x)", "file:///etc/passwd"),
)
ODD: tuple[Any, ...] = (None, [], {}, [[]], [{}], [None], {"a": {}}, [[1]], [1, 2, 3], *NUMBERS, *TEXTS)


def coco_table() -> dict[str, Any]:
    """A small table with everything that the readers look at."""
    H, W = SIZE
    images = [{"id": i, "file_name": f"{i}.png", "height": H, "width": W} for i in range(PICTURES)]
    runs = {"size": [H, W], "counts": [10, 20, H * W - 30]}
    outline = [[2.0, 2.0, 12.0, 2.0, 12.0, 12.0, 2.0, 12.0]]
    notes = [
        {
            "id": number,
            "image_id": number % PICTURES,
            "category_id": 1 + (number == 4),
            "iscrowd": int(number == 3),
            "bbox": [1.0 + number, 2.0, 15.0, 14.0],
            "area": 150.0,
            "num_keypoints": 4,
            "keypoints": [3, 4, 2, 8.5, 5, 2, 6, 9.25, 1, 11, 12, 2],
            "segmentation": runs if number in (2, 3) else outline,
        }
        for number in range(1, 6)
    ]
    skeleton = [[1, 2], [1, 3], [1, 4]]
    animal = {"id": 1, "name": "animal", "keypoints": list(NAMES), "skeleton": skeleton}
    animal["sigmas"] = [0.05, 0.06, 0.06, 0.1]
    return {"info": {}, "images": images, "annotations": notes, "categories": [animal, {"id": 2, "name": "thing"}]}


def detections() -> list[dict[str, Any]]:
    """A detection file of that table."""
    return [
        {"image_id": i % PICTURES, "category_id": 1, "bbox": [1.0, 1.0, 20.0, 15.5], "score": 0.9 - 0.1 * i}
        for i in range(5)
    ]


def labelme_page() -> dict[str, Any]:
    """A LabelMe file of the first picture."""
    H, W = SIZE
    points = [
        {"label": name, "points": [[3.0 + k, 4.0]], "group_id": 1, "shape_type": "point", "flags": {"hidden": k == 1}}
        for k, name in enumerate(NAMES)
    ]
    box = {"label": "animal", "points": [[1, 1], [20, 20]], "group_id": 1, "shape_type": "rectangle", "flags": {}}
    sizes = {"imageHeight": H, "imageWidth": W, "imagePath": "0.png", "imageData": None, "image_id": 7}
    return {"version": "5.5.0", "flags": {}, "shapes": [box, *points], **sizes}


def tree_places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value inside."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, inner in pairs for place in tree_places(inner, (*path, key)))]


def mutate_tree(value: Any, rng: random.Random) -> Any:
    """One change of a parsed JSON: a value of another kind, a missing key, a repeated or shuffled entry."""
    places = [place for place in tree_places(value) if place]
    if not places:
        return rng.choice(ODD)
    place = rng.choice(places)
    holder = value
    for key in place[:-1]:
        holder = holder[key]
    key, old = place[-1], holder[place[-1]]
    way = rng.random()
    if way < 0.5:
        holder[key] = copy.deepcopy(rng.choice(TEXTS if isinstance(old, str) and rng.random() < 0.6 else ODD))
    elif way < 0.65:
        del holder[key]
    elif way < 0.8 and isinstance(holder, list):
        holder.insert(key, copy.deepcopy(old))
    elif way < 0.9 and isinstance(old, list):
        rng.shuffle(old)
    elif isinstance(old, str):
        holder[key] = old + rng.choice(TEXTS)
    else:
        holder[key] = copy.deepcopy(holder[rng.choice(list(holder))] if isinstance(holder, dict) else value)
    return value


def mutate_text(data: bytes, rng: random.Random) -> bytes:
    """One change of the bytes of a text."""
    at = rng.randrange(len(data) + 1)
    way = rng.randrange(8)
    if way == 0:
        return data[:at]
    if way == 1:
        return data[:at] + bytes(rng.randrange(256) for _ in range(rng.randint(1, 9))) + data[at:]
    if way == 2:
        return data[:at] + data[at + rng.randint(1, 40) :]
    if way == 3:
        deep = rng.choice([200, 5_000, 200_000])
        opening, closing = rng.choice([(b"[", b"]"), (b'{"a":', b"}")])
        return data[:at] + deep * opening + b"1" + deep * closing * rng.randint(0, 1) + data[at:]
    if way == 4:
        return data.decode("utf-8", "replace").encode(rng.choice(["utf-16", "utf-32", "utf-8-sig", "utf-7"]))
    if way == 5:
        spliced = rng.choice(
            [b"NaN", b"Infinity", b"1e999", b"9" * 5000, b"\xff\xfe", b"\0", b"&lol;", b'"', b"'", b"!!"]
        )
        return data[:at] + spliced + data[at:]
    if way == 6:
        flipped = bytearray(data)
        for _ in range(rng.randint(1, 8)):
            flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return bytes(flipped)
    return data + data[at:]


def json_case(kind: str, rng: random.Random) -> bytes:
    """A damaged JSON of a kind: "coco", "detections" or "labelme"."""
    value: Any = {"coco": coco_table, "detections": detections, "labelme": labelme_page}[kind]()
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3, 6])):
        value = mutate_tree(value, rng)
    data = json.dumps(value).encode()  # odd surrogates as escapes, NaN and Infinity as the words
    for _ in range(rng.choice([0, 0, 0, 1, 2])):
        data = mutate_text(data, rng) if data else data
    return data


CVAT = b"""<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version><meta><task><labels>
<label><name>animal</name><type>skeleton</type><svg>&lt;line data-node-from="1" data-node-to="2"&gt;</svg></label>
<label><name>nose</name><type>points</type><parent>animal</parent></label>
<label><name>tail</name><type>points</type><parent>animal</parent></label></labels></task></meta>
<image id="3" name="0.png" width="32" height="24"><skeleton label="animal" group_id="1">
<points label="nose" occluded="0" outside="0" points="3.0,4.0"/><points label="tail" occluded="1" points="9.5,4"/>
<attribute name="annotation_id">5</attribute><attribute name="bbox">1,2,3,4</attribute></skeleton>
<box label="animal" xtl="1.0" ytl="2.0" xbr="9" ybr="9" group_id="2"/></image>
<image id="4" name="1.png" width="32" height="24"></image></annotations>"""
YOLO = (
    b"0 0.5 0.5 0.25 0.5 0.1 0.2 2 0.3 0.4 1 0 0 0 0.75 0.5 2\n0 0.4 0.5 0.2 0.5 0.1 0.2 2 0.3 0.4 2 0 0 0 0.5 0.5 2\n"
)
YOLO_PAGE = b"path: .\ntrain: images\nkpt_shape: [4, 3]\nflip_idx: [0, 2, 1, 3]\nnames: {0: animal}\n"
DLC = b"""scorer,ann,ann,ann,ann\nbodyparts,nose,nose,tail,tail\ncoords,x,y,x,y
labeled-data/video/0.png,3.5,4.25,,\nlabeled-data/video/1.png,3.5,4.25,9,12.125\n"""
SCHEMA = b"""category: animal\nnames: [nose, left_paw, right_paw, tail]\nflip_pairs: [[left_paw, right_paw]]
skeleton: [[nose, tail], [0, 1]]\nsigmas: [0.05, 0.06, 0.06, 0.1]\n"""
PAGE = b"""task: pose\nname: tiny\nmodel:\n  backbone: {name: test_resnet, attention: psa_p, attention_options: {}}
  head_channels: [8, 8, 8]\n  input_size: [64, 64]\ndata:
  root: .\n  train_annotations: a.json\n  train_images: images
optim: {name: adamw, lr: 0.001, milestones: [1, 2]}\nengine: {epochs: 2}\neval: {pck: [0.2]}\n"""
PLAIN = {"cvat": CVAT, "yolo": YOLO, "yolo_page": YOLO_PAGE, "dlc": DLC, "schema": SCHEMA, "page": PAGE}
YAML_ODD = (b"!!python/object/apply:os.system [x]", b"&a [*a]", b"? [1]\n: 2", b"<<: *x", b"!!binary x", b"2001-01-01")


def plain_case(kind: str, rng: random.Random) -> bytes:
    """A damaged text of a kind of :data:`PLAIN`: words replaced, bytes changed."""
    data = PLAIN[kind]
    for _ in range(rng.choice([0, 1, 1, 2, 3])):
        if rng.random() < 0.6:
            words = data.split(b" ")
            odd = rng.choice([*map(str, NUMBERS), *TEXTS, "[]", "{}", "null", "[[1, 2]]", "{a: 1}"])
            spliced = rng.choice([odd.encode("utf-8", "surrogatepass"), rng.choice(YAML_ODD)])
            words[rng.randrange(len(words))] = spliced
            data = b" ".join(words)
        elif data:
            data = mutate_text(data, rng)
    return data


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    """The file of a picture."""
    stream = io.BytesIO()
    picture.save(stream, format=kind, **options)
    return stream.getvalue()


@cache
def seeds() -> tuple[tuple[str, bytes], ...]:
    """Valid files of every kind the readers take: suffix and content."""
    rng = np.random.default_rng(0)
    H, W = SIZE
    colour = Image.fromarray(rng.integers(0, 256, (H, W, 3), np.uint8))
    alpha = Image.fromarray(rng.integers(0, 256, (H, W, 4), np.uint8))
    label = Image.fromarray(rng.integers(0, 4, (H, W), np.uint8))
    deep = Image.fromarray(rng.integers(0, 65536, (H, W), np.uint16))
    share = Image.fromarray(rng.random((H, W), np.float32))
    palette = label.convert("P")
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [colour.rotate(90 * k) for k in range(3)]
    return (
        *((".png", saved(one, "PNG")) for one in (label, label, colour, alpha, alpha.convert("LA"), deep, palette)),
        (".png", saved(label.point(lambda v: 255 * (v > 1)).convert("1"), "PNG")),
        (".png", saved(palette, "PNG", transparency=0)),
        (".png", saved(colour.resize((1, 1)), "PNG")),
        (".png", saved(label.resize((20000, 3)), "PNG")),
        (".png", saved(colour, "PNG", exif=exif)),
        (".jpg", saved(colour, "JPEG")),
        (".jpg", saved(colour.convert("L"), "JPEG", exif=exif)),
        (".jpg", saved(colour.convert("CMYK"), "JPEG")),
        (".jpg", saved(colour, "JPEG", progressive=True, exif=exif)),
        (".jpg", saved(colour.resize((3, 2000)), "JPEG")),
        (".gif", saved(frames[0], "GIF", save_all=True, append_images=frames[1:])),
        (".webp", saved(colour, "WEBP")),
        (".webp", saved(alpha, "WEBP", lossless=True)),
        (".webp", saved(frames[0], "WEBP", save_all=True, append_images=frames[1:])),
        *((".tif", saved(one, "TIFF")) for one in (colour, label, deep, share, alpha)),
        *((".tif", saved(colour, "TIFF", compression=way)) for way in ("tiff_lzw", "tiff_deflate", "jpeg")),
        (".tif", saved(label.convert("1"), "TIFF", compression="group4")),
        (".bmp", saved(colour, "BMP")),
        (".bmp", saved(palette, "BMP")),
        (".ppm", saved(colour, "PPM")),
        (".pgm", saved(label, "PPM")),
    )


EDGES = (0, 1, 2, 3, 127, 128, 255, 256, 1000, 4096, 20_000, 65_535, 2**20, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
HEADERS = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    b"%PDF-1.7\n",
    b"PK\x03\x04",
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff\xe0",
    b"GIF89a",
    b"RIFF\xff\xff\xff\xffWEBP",
    b"II*\0",
    b"MM\0*",
    b"BM",
    b"P6 99999 99999 255\n",
    b"P5 3 3 65535\n",
    b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
    b"\0\0\0\x0cjP  \r\n\x87\n",
    b"v/1\x01",
    b"8BPS\0\x01",
    b"",
)


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Name and content of every chunk."""
    at, found = 8, []
    while at + 8 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def png_of(chunks: list[tuple[bytes, bytes]], rng: random.Random | None = None) -> bytes:
    """Chunks as a file; with ``rng`` some lengths and checksums lie."""
    parts = [b"\x89PNG\r\n\x1a\n"]
    for name, content in chunks:
        lies = rng is not None and rng.random() < 0.1
        length = rng.choice(EDGES) if lies and rng is not None else len(content)
        check = zlib.crc32(name + content) ^ (rng is not None and rng.random() < 0.05)
        parts += [struct.pack(">I", length), name, content, struct.pack(">I", check)]
    return b"".join(parts)


def mutate_png(data: bytes, rng: random.Random) -> bytes:
    """Chunks left out, doubled, exchanged, invented, with another header."""
    chunks = png_chunks(data)
    for _ in range(rng.randint(1, 3)):
        k = rng.randrange(len(chunks)) if chunks else 0
        way = rng.randrange(6)
        if way == 0 and chunks:
            del chunks[k]
        elif way == 1 and chunks:
            chunks.insert(k, chunks[rng.randrange(len(chunks))])
        elif way == 2 and chunks and len(chunks[0][1]) == 13:
            header = bytearray(chunks[0][1])
            if rng.random() < 0.6:
                struct.pack_into(">I", header, rng.choice([0, 4]), rng.choice(EDGES))
            else:
                header[rng.randint(8, 12)] = rng.choice([0, 1, 2, 3, 4, 6, 8, 16, 255])
            chunks[0] = (chunks[0][0], bytes(header))
        elif way == 3:
            name = rng.choice(
                [b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"PLTE", b"tRNS", b"acTL", b"fdAT", b"IDAT"]
            )
            body = rng.choice([b"", b"k\0\0" + zlib.compress(bytes(10_000_000)), rng.randbytes(40), b"Exif\0\0II*\0"])
            chunks.insert(k, (name, body))
        elif way == 4 and chunks:
            name, content = chunks[k]
            chunks[k] = (name, content[: rng.randrange(len(content) + 1)] + rng.randbytes(rng.randrange(6)))
        else:
            content = zlib.compress(rng.randbytes(rng.choice([1, 100, 5000])))
            chunks.insert(k, (b"IDAT", content))
    return png_of(chunks, rng)


def mutate_picture(data: bytes, rng: random.Random) -> bytes:
    """One change of the bytes of a picture."""
    if not data:
        return data
    way = rng.randrange(9)
    at = rng.randrange(len(data))
    if way == 0:
        return data[:at]
    if way == 1:
        return data[:at] + bytes(len(data) - at)
    if way in (2, 3):
        flipped = bytearray(data)
        end = min(len(data), 200) if way == 3 else len(data)  # headers lie at the start
        for _ in range(rng.choice([1, 2, 8, 64])):
            flipped[rng.randrange(end)] ^= 1 << rng.randrange(8)
        return bytes(flipped)
    if way == 4:  # a number that lies
        changed = bytearray(data)
        form = rng.choice([">H", "<H", ">I", "<I"])
        width = struct.calcsize(form)
        place = rng.randrange(max(1, min(len(data), 256) - width))
        if place + width <= len(data):
            struct.pack_into(form, changed, place, rng.choice(EDGES) % 256**width)
        return bytes(changed)
    if way == 5:
        other = rng.choice(seeds())[1]
        return data[:at] + other[rng.randrange(len(other)) :]
    if way == 6:  # polyglots
        head = rng.choice(HEADERS)
        return head + data if rng.random() < 0.5 else data + head + rng.randbytes(30)
    if way == 7:
        return rng.choice(HEADERS) + rng.randbytes(rng.choice([0, 10, 300]))
    return data[:at] + rng.randbytes(rng.randint(1, 64)) + data[at:]


def picture_case(rng: random.Random) -> tuple[str, bytes]:
    """Suffix and content of a damaged picture; one in seven has the suffix of another kind."""
    suffix, data = rng.choice(seeds())
    for _ in range(rng.choice([0, 1, 1, 1, 2, 4])):
        change: Callable[[bytes, random.Random], bytes] = mutate_picture
        if data[:4] == b"\x89PNG" and rng.random() < 0.5:
            change = mutate_png
        data = change(data, rng)
    if rng.random() < 1 / 7:
        suffix = rng.choice([".png", ".jpg", ".tif", ".gif", ".webp", ".bmp", ".PNG"])
    return suffix, data
