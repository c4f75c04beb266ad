from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from polarpix.errors import InputError
from polarpix.web import limits as module
from polarpix.web.limits import Limits, RefusedError, open_picture, read_boxes

T = TypeVar("T")

SMALL = Limits(pixels=40_000, boxes=3)


def attempt(call: Callable[[], T]) -> tuple[str, T | None]:
    """The line of a refusal, or what a call gives."""
    try:
        return "", call()
    except RefusedError as error:
        return str(error), None


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM"])
def test_pictures_are_opened(form: str, photo: Callable[..., bytes]) -> None:
    image = open_picture(photo((60, 40), form), f"a.{form.lower()}", SMALL)
    assert image.shape == (40, 60, 3)
    assert image.dtype == np.uint8


@pytest.mark.parametrize("size", [(201, 200), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_too_many_pixels_are_refused_by_the_header(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "decode_image", lambda *_: pytest.fail("was decoded"))
    with pytest.raises(RefusedError, match="at most 40000") as error:
        open_picture(bomb(*size), "bomb.png", SMALL)
    assert error.value.status == 413


def test_as_many_pixels_as_allowed_are_decoded(photo: Callable[..., bytes]) -> None:
    assert open_picture(photo((200, 200)), "a.png", SMALL).shape == (200, 200, 3)


def test_what_is_no_picture_has_its_status(photo: Callable[..., bytes]) -> None:
    whole = photo((60, 40), "JPEG")
    for data, status, words in (
        (b"", 400, "empty"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", 415, "not an image"),  # Pillow would start another program
        (b"hello", 415, "not an image"),
        (whole[: len(whole) // 2], 400, "cut off"),
        (photo((60, 40), "PNG")[:-40], 400, "cut off"),
    ):
        with pytest.raises(RefusedError, match=words) as error:
            open_picture(data, "x.jpg", SMALL)
        assert error.value.status == status


def test_names_of_clients_are_cut_to_one_short_line() -> None:
    for name in ("../../etc/passwd\nx", "C:\\photos\\" + "a" * 500, None, "\x1b[31m"):
        with pytest.raises(RefusedError) as error:
            open_picture(b"no", name or "", SMALL)
        line = str(error.value)
        assert "\n" not in line
        assert "\x1b" not in line
        assert "/etc" not in line
        assert len(line) < 160


@given(st.binary(max_size=200), st.integers(0, 2000), st.sampled_from(["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"]))
@settings(max_examples=60, deadline=None)
def test_damaged_files_are_refused_or_read(noise: bytes, place: int, form: str) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.arange(48 * 32 * 3, dtype=np.uint8).reshape(32, 48, 3)).save(stream, form)
    data = bytearray(stream.getvalue())
    place %= len(data)
    data[place : place + len(noise)] = noise
    line, image = attempt(lambda: open_picture(bytes(data), "a", SMALL))
    assert "\n" not in line
    assert image is None or image.size <= 3 * SMALL.pixels


def test_boxes_are_rows_of_numbers() -> None:
    assert read_boxes(None, SMALL) is None
    assert read_boxes(" ", SMALL) is None
    assert read_boxes("null", SMALL) is None
    assert read_boxes("[1, 2, 3, 4]", SMALL) == [[1, 2, 3, 4]]
    assert read_boxes("[[1, 2, 3, 4.5, 0.9], [0, 0, 1, 1, 1]]", SMALL) == [[1, 2, 3, 4.5, 0.9], [0, 0, 1, 1, 1]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "no list of boxes"),
        ("{}", "no list of boxes"),
        ("7", "no list of boxes"),
        ("[[1, 2, 3]]", "row 0 is not"),
        ("[[1, 2, 3, 4], [1, 2, 3, 4, 5]]", "row 1 is not"),
        ('[[1, 2, 3, "4"]]', "something else than numbers"),
        ("[[1, 2, 3, true]]", "something else than numbers"),
        ("[[1, 2, 3, NaN]]", "out of range"),
        ("[[1, 2, 3, Infinity]]", "out of range"),
        (f"[[1, 2, 3, 1{'0' * 400}]]", "out of range"),
        (json.dumps([[1, 2, 3, 4]] * 4), "4 of them: at most 3"),
    ],
)
def test_other_boxes_are_refused(text: str, words: str) -> None:
    with pytest.raises(RefusedError, match=words) as error:
        read_boxes(text, SMALL)
    assert error.value.status == (413 if "at most" in words else 422)


@given(st.one_of(st.text(max_size=60), st.recursive(st.none() | st.floats() | st.text(), st.lists).map(json.dumps)))
@settings(max_examples=50, deadline=None)
def test_any_text_gives_boxes_or_one_line(text: str) -> None:
    line, rows = attempt(lambda: read_boxes(text, SMALL))
    assert "\n" not in line
    assert rows is None or all(len(row) in (4, 5) for row in rows)


@pytest.mark.parametrize(
    ("name", "value", "option"),
    [
        ("megabytes", 0, "--max-megabytes"),
        ("pixels", -1, "--max-pixels"),
        ("queue", 0, "--queue"),
        ("seconds", 0, "--timeout"),
    ],
)
def test_bounds_that_let_nothing_through_are_refused(name: str, value: float, option: str) -> None:
    with pytest.raises(InputError, match=option):
        Limits(**{name: value})
    with pytest.raises(InputError, match=option):
        Limits(**{name: float("nan")})
