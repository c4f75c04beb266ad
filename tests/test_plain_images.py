"""Pictures without Pillow: read as with it, and label PNGs that it reads."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from polarpix.errors import InputError
from polarpix.images import read_image
from polarpix.plain_images import decode_plain, encode_label

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
