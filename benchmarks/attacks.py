"""Files made to run code, to read or write elsewhere, or to fill the memory: what the commands answer to each.

    python benchmarks/attacks.py

Part of benchmarks/fuzz_inputs.py, whose record holds the outcomes; alone it prints them.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import pickle
import struct
import tempfile
import traceback
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fuzz_cases as cases
import numpy as np

BOUND_MB = 3072
REFUSED, ACCEPTED = "refused in one line", "accepted"
SIDE = 13_377  # 178,944,129 pixels, the largest square that is read


class Payload:
    """An object whose reading, by pickle, makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def page(folder: Path) -> Path:
    """A page that trains in seconds, on figures that are drawn."""
    import yaml

    from polarpix.demo.figures import FIGURE_CLASSES, write_figures

    write_figures(folder / "data", train=4, val=2, test=1, size=(64, 64), seed=0)
    text = {
        "task": "seg",
        "name": "tiny",
        "out": str(folder / "runs"),
        "model": {"backbone": {"name": "test_resnet", "attention": "psa_p"}, "aspp_channels": 8, "low_channels": 8},
        "data": {"format": "folder", "root": str(folder / "data"), "classes": [*FIGURE_CLASSES.names]},
        "engine": {"epochs": 1, "batch_size": 2, "accelerator": "cpu", "workers": 0, "pictures": 0},
    }
    text["data"]["crop_size"] = [64, 64]
    path = folder / "page.yaml"
    path.write_text(yaml.safe_dump(text))
    return path


def checkpoints(good: bytes, mark: Path) -> Iterator[tuple[str, bytes]]:
    """Checkpoints of a training, spoilt."""
    import torch

    def zipped(content: Any) -> bytes:
        stream = io.BytesIO()
        torch.save(content, stream)
        return stream.getvalue()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        content = torch.load(io.BytesIO(good), weights_only=True)
    yield "pickle that runs a program", zipped(content | {"extra": Payload(mark)})
    yield (
        "pickle that runs a program, in the optimiser's state",
        zipped(content | {"optimizer_states": [Payload(mark)]}),
    )
    yield (
        "pickle that runs a program, without torch's archive",
        pickle.dumps(content["epoch"]) + pickle.dumps(Payload(mark)),
    )
    yield "bare pickle that runs a program", pickle.dumps({"state_dict": Payload(mark)})
    yield "cut in half", good[: len(good) // 2]
    yield "cut off at its end", good[:-200]
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 16
    yield "one bit flipped", bytes(flipped)
    yield "compressed gigabyte of zeros", packed(good, 10**9)
    yield "no file of torch", b"task: seg\n" * 100
    yield "empty", b""


def packed(good: bytes, size: int) -> bytes:
    """The archive with an entry that unpacks to ``size`` bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(good)) as old, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
        with new.open("archive/data/99999", "w", force_zip64=True) as file:
            for _ in range(size // 10**7):
                file.write(bytes(10**7))
    return stream.getvalue()


def headers(good: bytes) -> Iterator[tuple[str, bytes]]:
    """safetensors files whose headers lie; the first 8 bytes are the header's length."""
    (length,) = struct.unpack_from("<Q", good)
    header, body = json.loads(good[8 : 8 + length]), good[8 + length :]
    names = [name for name in header if name != "__metadata__"]
    header["__metadata__"].pop("sha256", None)  # who deceives leaves no checksum that does not fit

    def file(change: Callable[[dict[str, Any]], Any]) -> bytes:
        copied = json.loads(json.dumps(header))
        change(copied)
        text = json.dumps(copied).encode()
        return struct.pack("<Q", len(text)) + text + body

    def told(key: str, value: str) -> bytes:
        return file(lambda h: h["__metadata__"].update({key: value}))

    for number in (0, 1, length - 1, length + 1, 10**8 + 1, 2**32, 2**63, 2**64 - 1):
        yield f"header of {number} bytes", struct.pack("<Q", number) + good[8:]
    yield "header beyond the file", struct.pack("<Q", len(good)) + good[8:]
    yield "tensors that overlap", file(lambda h: h[names[1]].update(data_offsets=h[names[0]]["data_offsets"]))
    yield "tensor behind the file", file(lambda h: h[names[-1]].update(data_offsets=[0, 2**40]))
    yield "tensor of negative size", file(lambda h: h[names[-1]].update(data_offsets=[9, 3]))
    yield "shape of 2^62 numbers", file(lambda h: h[names[0]].update(shape=[2**31, 2**31]))
    yield "shape that overflows", file(lambda h: h[names[0]].update(shape=[2**63, 2]))
    yield "negative shape", file(lambda h: h[names[0]].update(shape=[-1]))
    yield "unknown kind of number", file(lambda h: h[names[0]].update(dtype="F31"))
    yield "header that is no mapping", struct.pack("<Q", 2) + b"[]" + body
    yield "header nested 100,000 deep", struct.pack("<Q", 200_000) + b"[" * 100_000 + b"]" * 100_000 + body
    yield "header that is no Unicode", struct.pack("<Q", 4) + b'{"\xff\xfe' + body
    yield "cut in half", good[: len(good) // 2]
    yield "one byte too many", good + b"\0"
    for key in ("run", "labels", "metrics"):
        yield f"{key} that is no JSON", told(key, "{")
        yield f"{key} of another kind", told(key, "[1]")
        yield f"{key} nested 100,000 deep", told(key, "[" * 100_000)
    yield "no metadata", file(lambda h: h.pop("__metadata__"))
    yield "metadata without labels", file(lambda h: h["__metadata__"].pop("labels"))
    yield "labels of unequal lengths", told("labels", json.dumps({"names": ["a"], "colors": []}))
    run = json.loads(header["__metadata__"]["run"])
    yield "page of another task", told("run", json.dumps(run | {"task": "pose"}))
    yield "page of no task", told("run", json.dumps(run | {"task": "../x"}))
    wide = run["model"] | {"aspp_channels": 10**9}
    yield "page of a network larger than the memory", told("run", json.dumps(run | {"model": wide}))


def pages(mark: Path) -> Iterator[tuple[str, bytes]]:
    """Pages with more than keys and values."""
    head = "task: seg\nname: x\n"
    run = f"touch {mark}"
    yield "python/object/apply", f"{head}seed: !!python/object/apply:os.system ['{run}']\n".encode()
    yield "python/object/new", f"{head}seed: !!python/object/new:os.system ['{run}']\n".encode()
    yield "python/name", f"{head}seed: !!python/name:os.system\n".encode()
    yield "python/module", f"{head}seed: !!python/module:os\n".encode()
    made = f"{{class_path: subprocess.Popen, init_args: {{args: [touch, {mark}]}}}}"
    yield "class_path of the parser", f"{head}optim: {made}\n".encode()
    yield "class_path of the parser in a list", f"{head}eval: {{scales: [{made}]}}\n".encode()
    laughs = "a0: &a0 [x, x]\n" + "".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 12))
    yield "a billion laughs", (head + laughs + "optim: {lr: *a11}\n").encode()
    yield "list in itself", f"{head}seed: &a [*a]\n".encode()
    yield "nested 100,000 deep", (head + "seed: " + "[" * 100_000).encode()
    yield "list as a key", f"{head}? [1, 2]\n: 3\n".encode()
    yield "name that leads out of the folder", b"task: seg\nname: ../../x\n"
    yield "no Unicode", b"task: seg\nname: \xff\xfe\n"


def bomb(side: int, kind: int, channels: int) -> bytes:
    """A PNG of zeros in a few hundred kilobytes."""
    header = struct.pack(">IIBBBBB", side, side, 8, kind, 0, 0, 0)
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + side * channels)) for _ in range(side)) + packer.flush()
    return cases.png_of([(b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")])


def pictures(mark: Path) -> Iterator[tuple[str, str, bytes, str]]:
    """Name, suffix, content and the right answer."""
    from PIL import Image

    seeds = cases.seeds()
    png, jpg = seeds[2][1], next(data for suffix, data in seeds if suffix == ".jpg")
    program = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%touch {mark}) (w) file closefile\n".encode()
    yield "EPS, which Pillow gives to Ghostscript, called .png", ".png", program, REFUSED
    yield "SVG called .png", ".png", b"<svg xmlns='http://www.w3.org/2000/svg'/>", REFUSED
    yield "program called .jpg", ".jpg", b"\x7fELF" + bytes(500), REFUSED
    yield "PNG called .jpg", ".jpg", png, ACCEPTED
    yield "JPEG called .png", ".png", jpg, ACCEPTED
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("x.py", "raise SystemExit")
    yield "PNG that is a ZIP as well", ".png", png + archive.getvalue(), ACCEPTED
    yield "JPEG behind a script", ".jpg", b"#!/bin/sh\n" + jpg, REFUSED
    yield "1x1", ".png", cases.saved(Image.new("RGB", (1, 1)), "PNG"), ACCEPTED
    yield "20000x3", ".png", cases.saved(Image.new("RGB", (20000, 3)), "PNG"), ACCEPTED
    yield "3x20000", ".jpg", cases.saved(Image.new("RGB", (3, 20000)), "JPEG"), ACCEPTED
    yield "0x0", ".png", cases.png_of([(b"IHDR", bytes(8) + b"\x08\x02\0\0\0"), (b"IEND", b"")]), REFUSED
    yield "bomb of 30,000x30,000", ".png", bomb(30_000, 0, 1), REFUSED
    yield "largest that is read, grey", ".png", bomb(SIDE, 0, 1), ACCEPTED
    yield "largest that is read, colour", ".png", bomb(SIDE, 2, 3), ACCEPTED
    yield "largest that is read, transparent", ".png", bomb(SIDE, 6, 4), ACCEPTED
    text = (b"zTXt", b"k\0\0" + zlib.compress(bytes(10**9), 9))
    chunks = cases.png_chunks(png)
    yield "a gigabyte of compressed text", ".png", cases.png_of([chunks[0], text, *chunks[1:]]), REFUSED
    told = [(b"IHDR", struct.pack(">II", 10_000, 10_000) + chunks[0][1][8:]), *chunks[1:]]
    yield "header of 10,000x10,000 before a small picture", ".png", cases.png_of(told), REFUSED


def names() -> Iterator[tuple[str, str]]:
    """File names that lead elsewhere."""
    yield "climbs out", "../outside.png"
    yield "climbs out from within", "sub/../../outside.png"
    yield "climbs out, backslashes", "..\\outside.png"
    yield "absolute", "/etc/hostname"
    yield "absolute, with a drive", "C:\\outside.png"
    yield "with a NUL", "a\0.png"


class Course:
    """Runs attacks one by one and notes what became of them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.mark = folder, folder / "ran"
        self.rows: list[dict[str, Any]] = []

    def attack(self, name: str, through: str, read: Callable[[], Any], expected: str = REFUSED) -> None:
        """One attack; the folder beside the sandbox must stay as it is."""
        from polarpix.errors import InputError

        Path("/proc/self/clear_refs").write_text("5")
        before, more = memory("VmRSS"), ""
        try:
            with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read()
            outcome = ACCEPTED
        except InputError as error:
            outcome = REFUSED if "\n" not in str(error) and len(str(error)) < 1000 else "no one line"
            more = str(error)[:300]
        except BaseException as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            outcome = "traceback"
            more = f"{type(error).__name__}: {str(error)[:200]} at {Path(place.filename).name}:{place.lineno}"
        took = memory("VmHWM") - before
        if took > BOUND_MB:
            outcome, more = "memory over the bound", f"{took:.0f} MB"
        outside = {path.name for path in self.folder.iterdir()} - {"sandbox"}
        if outside:
            outcome = "code was run" if self.mark.name in outside else "written elsewhere"
            for name_ in outside:
                (self.folder / name_).unlink()
        row = {"name": name, "through": through, "outcome": outcome, "expected": expected}
        more = more.replace(str(self.folder), "...")
        self.rows.append(row | {"megabytes": round(max(took, 0.0), 1), "answer": more})
        sign = " " if outcome == expected else "!"
        print(sign, name, "|", through, "|", outcome, self.rows[-1]["megabytes"], "|", more[:160], flush=True)


def memory(key: str) -> float:
    """VmRSS or VmHWM in MB."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(key))


def run_attacks() -> list[dict[str, Any]]:
    """Every attack through every command that reads such a file."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "sandbox").mkdir()
        course = Course(folder)
        on_networks(course, folder / "sandbox")
        on_data(course, folder / "sandbox")
        return course.rows


def on_networks(course: Course, sandbox: Path) -> None:
    """Checkpoints, weights files, pages."""
    import polarpix
    from polarpix import commands
    from polarpix.backbones.extract import build_backbone
    from polarpix.backbones.weights import load_weights
    from polarpix.page_parts import BackboneConfig
    from polarpix.pages import load_page

    config = page(sandbox)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        commands.train(str(config))
    run = sandbox / "runs" / "seg" / "tiny"
    last, best = run / "checkpoints" / "last.ckpt", run / "weights" / "best.safetensors"
    good, weights = last.read_bytes(), best.read_bytes()
    other = sandbox / "theirs.pth"
    network = build_backbone(BackboneConfig("test_resnet", weights=None, attention="none"))
    readers: dict[str, Callable[[], Any]] = {
        "train --resume": lambda: commands.train(str(config), resume=True),
        "model.backbone.weights": lambda: load_weights(network, other),
        "models --check": lambda: commands.models(check=str(other), folder=str(sandbox)),
        "predict --config": lambda: polarpix.load(other, "cpu", config=config),
        "eval --config": lambda: commands.evaluate(str(other), config=str(config)),
    }
    for kind, data in checkpoints(good, course.mark):
        last.write_bytes(data)
        other.write_bytes(data)
        for through, read in readers.items():
            course.attack(f"checkpoint: {kind}", through, read)
    last.write_bytes(good)
    for kind, data in headers(weights):
        best.write_bytes(data)
        for through, read in (
            ("polarpix.load", lambda: polarpix.load(best, "cpu")),
            ("eval", lambda: commands.evaluate(str(best))),
            ("train --resume", lambda: commands.train(str(config), resume=True)),
        ):
            if through != "train --resume" or not kind.startswith(("page", "one byte")):
                course.attack(f"safetensors: {kind}", through, read)
    best.write_bytes(weights)
    for kind, data in pages(course.mark):
        bad = sandbox / "bad.yaml"
        bad.write_bytes(data)
        course.attack(f"page: {kind}", "train --config", functools.partial(load_page, bad))


def on_data(course: Course, sandbox: Path) -> None:
    """Pictures, and tables whose file names lead elsewhere."""
    from polarpix.doctor.convert import convert
    from polarpix.doctor.tables import Options
    from polarpix.images import read_image, read_label, write_image
    from polarpix.pose.coco import CocoKeypoints

    for name, suffix, data, expected in pictures(course.mark):
        file = sandbox / f"picture{suffix}"
        file.write_bytes(data)
        course.attack(f"picture: {name}", "read_image", functools.partial(read_image, file), expected)
        label = ACCEPTED if expected == ACCEPTED and data[:2] != b"\xff\xd8" and "colour" not in name else REFUSED
        if "PNG" not in name and "largest" not in name:
            course.attack(f"picture: {name}", "read_label", functools.partial(read_label, file), label)
    images = sandbox / "images"
    for i in range(cases.PICTURES):
        write_image(images / f"{i}.png", np.zeros((*cases.SIZE, 3), np.uint8))
    file = sandbox / "table.json"
    for kind, name in names():
        table = cases.coco_table()
        table["images"][1]["file_name"] = name
        file.write_text(json.dumps(table))
        course.attack(f"file name: {kind}", "train on COCO", lambda: CocoKeypoints(file, images))
        for to in ("coco", "yolo", "labelme", "cvat", "dlc", "masks"):
            target = sandbox / "out" / ("folder" if to in ("yolo", "labelme", "masks") else "table")
            read = functools.partial(convert, file, target, "coco", to, Options(images))
            course.attack(f"file name: {kind}", f"data convert --to {to}", read)
        cvat, dlc = sandbox / "a.xml", sandbox / "a.csv"
        cvat.write_bytes(cases.CVAT.replace(b"0.png", name.encode()))
        dlc.write_bytes(cases.DLC.replace(b"labeled-data/video/0.png", name.encode()))
        (sandbox / "labelme").mkdir(exist_ok=True)
        me = sandbox / "labelme" / "0.json"
        me.write_text(json.dumps(cases.labelme_page() | {"imagePath": name, "imageHeight": None}))
        for from_, source in (("cvat", cvat), ("dlc", dlc), ("labelme", me)):
            read = functools.partial(convert, source, sandbox / "out" / "table", from_, "coco", Options(images))
            course.attack(f"file name: {kind}", f"data convert --from {from_}", read)
        course.attack(f"split: {kind}", "data convert --split", functools.partial(Options.of, split=name))


if __name__ == "__main__":
    run_attacks()
