"""Pictures without Pillow: read as with it, and label PNGs that it reads."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from polarpix.errors import InputError
from polarpix.images import read_image
from polarpix.plain_images import decode_plain, encode_label, picture_size

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (20, 31, 3), np.uint8)
ALPHA = RNG.integers(0, 256, (20, 31, 4), np.uint8)


def coded(picture: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, format=kind, **options)  # type: ignore[arg-type]  # options differ by the format
    return stream.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


FILES = {
    "colour.png": coded(Image.fromarray(COLOUR), "PNG"),
    "grey.png": coded(Image.fromarray(COLOUR[:, :, 0]), "PNG"),
    "alpha.png": coded(Image.fromarray(ALPHA), "PNG"),
    "grey_alpha.png": coded(Image.fromarray(ALPHA).convert("LA"), "PNG"),
    "palette.png": coded(Image.fromarray(COLOUR).quantize(16), "PNG"),
    "one_bit.png": coded(Image.fromarray(COLOUR[:, :, 0]).convert("1"), "PNG"),
    "deep.png": coded(Image.fromarray(RNG.integers(0, 65536, (20, 31), np.uint16)), "PNG"),
    "photo.jpg": coded(Image.fromarray(COLOUR), "JPEG"),
    "grey.jpg": coded(Image.fromarray(COLOUR[:, :, 0]), "JPEG"),
    "plain.bmp": coded(Image.fromarray(COLOUR), "BMP"),
    "lossless.webp": coded(Image.fromarray(COLOUR), "WEBP", lossless=True),
    **{f"turned_{n}.jpg": coded(Image.fromarray(COLOUR), "JPEG", exif=turned(n)) for n in range(1, 9)},
}


@pytest.mark.parametrize("name", FILES)
def test_a_picture_is_read_as_with_pillow(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(FILES[name])
    np.testing.assert_array_equal(decode_plain(FILES[name], path), read_image(path))


def test_transparency_is_turned_with_its_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """As OpenCV turns what has an orientation, whatever formats it knows one of."""
    import cv2

    stored = cv2.cvtColor(ALPHA, cv2.COLOR_RGBA2BGRA)
    way = np.ascontiguousarray(np.rot90(stored, -1))
    monkeypatch.setattr(
        cv2, "imdecode", lambda data, flags: stored if flags == cv2.IMREAD_UNCHANGED else way[:, :, :3].copy()
    )
    found = decode_plain(FILES["alpha.png"], "a.png")
    monkeypatch.undo()
    straight = decode_plain(FILES["alpha.png"], "a.png")
    np.testing.assert_array_equal(found, np.rot90(straight, -1))


@pytest.mark.parametrize(
    "data",
    [b"", b"no picture", FILES["photo.jpg"][:-200], FILES["colour.png"][:20]],
    ids=["empty", "text", "cut off", "hardly begun"],
)
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(InputError, match=r"^a\.jpg: "):
        decode_plain(data, "a.jpg")


@pytest.mark.parametrize("palette", [None, [(0, 0, 0), (9, 200, 7), (255, 1, 2)]])
def test_a_label_png_keeps_indices_and_colours(palette: list[tuple[int, int, int]] | None) -> None:
    label = RNG.integers(0, 3, (17, 23), np.uint8)
    label[0, 0] = 255
    with Image.open(io.BytesIO(encode_label(label, palette))) as picture:
        np.testing.assert_array_equal(np.asarray(picture), label)
        assert picture.mode == ("L" if palette is None else "P")
        if palette:
            shown = np.asarray(picture.convert("RGB"))
            np.testing.assert_array_equal(shown[label == 2], np.broadcast_to(palette[2], shown[label == 2].shape))


def test_the_header_tells_the_size() -> None:
    for name, data in FILES.items():
        with Image.open(io.BytesIO(data)) as picture:
            assert picture_size(data) == picture.size[::-1], name
    for kind in ("GIF", "PPM", "TIFF"):
        assert picture_size(coded(Image.fromarray(COLOUR), kind)) == (20, 31)
    assert picture_size(coded(Image.fromarray(COLOUR), "WEBP")) == (20, 31)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    """A header that promises a gigapixel, and a chunk that promises 4 GB."""
    data = bytearray(FILES["colour.png"])
    data[16:24] = struct.pack(">II", 30_000, 30_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path = tmp_path / "bomb.png"
    path.write_bytes(data)
    with pytest.raises(InputError, match="too large to be read safely"):
        decode_plain(bytes(data), path)
    with pytest.raises(InputError, match="too large to be read safely"):
        read_image(path)
    chunk = FILES["colour.png"].replace(struct.pack(">I", 0) + b"IEND", struct.pack(">I", 2**32 - 1) + b"IEND")
    with pytest.raises(InputError, match="cut off"):
        decode_plain(chunk, path)
