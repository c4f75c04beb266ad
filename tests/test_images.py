"""Files to arrays and back: every mode, every orientation, every kind of damage."""

import errno
import io
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from polarpix.errors import InputError
from polarpix.images import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    check_place,
    decode_image,
    list_images,
    normalize,
    read_image,
    read_label,
    write_bytes,
    write_image,
    write_label,
)
from polarpix.rgb import to_rgb

SIZE = (7, 11)


def picture(seed: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def smooth(size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """A picture that survives JPEG, different in all four corners."""
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float64)
    red, green = 255 * x / size[1], 255 * y / size[0]
    return np.stack([red, green, 128 + 0 * x], axis=2).astype(np.uint8)


def test_deep_grey_is_scaled_to_eight_bits(tmp_path: Path) -> None:
    grey = np.array([[0, 257, 32768, 65535]], np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    Image.fromarray(grey.astype(np.int32)).save(tmp_path / "a.tif")
    for name in ("a.png", "a.tif"):
        assert read_image(tmp_path / name)[0, :, 1].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_deep_colour_is_scaled_and_stays_rgb(tmp_path: Path, name: str) -> None:
    cv2.imwrite(str(tmp_path / name), picture()[:, :, ::-1].astype(np.uint16) * 257)
    np.testing.assert_array_equal(read_image(tmp_path / name), picture())


def test_float_tiff_grey_and_colour(tmp_path: Path) -> None:
    unit = (picture() / 255).astype(np.float32)
    Image.fromarray(unit[:, :, 0]).save(tmp_path / "grey.tif")
    cv2.imwrite(str(tmp_path / "colour.tif"), unit[:, :, ::-1])
    np.testing.assert_array_equal(read_image(tmp_path / "grey.tif")[:, :, 2], picture()[:, :, 0])
    np.testing.assert_array_equal(read_image(tmp_path / "colour.tif"), picture())
    Image.fromarray(unit[:, :, 0] * 300).save(tmp_path / "wide.tif")
    with pytest.raises(InputError, match=r"wide\.tif.*scale them to 0\.\.1"):
        read_image(tmp_path / "wide.tif")


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 3] = 0, 128, 255
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0, :, 0].tolist() == [255, 127, 0]
    palette = Image.fromarray(np.array([[0, 1]], np.uint8))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.save(tmp_path / "p.png", transparency=0)
    assert read_image(tmp_path / "p.png").tolist() == [[[255, 255, 255], [40, 50, 60]]]


def test_cmyk_jpeg_keeps_its_colours(tmp_path: Path) -> None:
    Image.fromarray(smooth()).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - smooth()).max() < 24


@settings(deadline=None, max_examples=40)
@given(
    orientation=st.integers(1, 8),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    suffix=st.sampled_from(["jpg", "png", "tif", "webp"]),
    mode=st.sampled_from(["RGB", "L"]),
)
def test_every_orientation_equals_pillows(
    tmp_path_factory: pytest.TempPathFactory, orientation: int, size: tuple[int, int], suffix: str, mode: str
) -> None:
    path = tmp_path_factory.mktemp("exif") / f"a.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(smooth(size)).convert(mode).save(path, exif=exif, **options)
    with Image.open(io.BytesIO(path.read_bytes())) as source:  # Pillow itself errs on TIFF files that it maps
        memory = to_rgb(source)
    with Image.open(io.BytesIO(path.read_bytes())) as source:
        wanted = np.asarray(ImageOps.exif_transpose(source).convert("RGB"))
    found = read_image(path)
    if mode == "L" and suffix in ("png", "tif"):
        np.testing.assert_array_equal(read_label(path), wanted[:, :, 0])
    assert found.shape == wanted.shape
    assert np.abs(found.astype(int) - wanted).max() <= (4 if suffix == "jpg" else 0)  # two JPEG decoders
    np.testing.assert_array_equal(memory, wanted)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp", "bmp", "gif"])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.97])
def test_a_cut_off_image_says_so(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(picture(size=(60, 80))).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError, match=rf"a\.{suffix}.*cut off"):
        read_image(path)


def test_a_file_in_memory_is_read_as_from_disk_under_its_own_name(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_image(path, np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    np.testing.assert_array_equal(decode_image(path.read_bytes(), "upload"), read_image(path))
    with pytest.raises(InputError, match=r"^upload: image is damaged or cut off"):
        decode_image(path.read_bytes()[:-400], "upload")
    with pytest.raises(InputError, match=r"^upload: not an image"):
        decode_image(b"hello", "upload")


def test_missing_empty_and_foreign_files(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("not a picture at all")
    for read in (read_image, read_label):
        with pytest.raises(InputError, match=r"no\.jpg.*missing"):
            read(tmp_path / "no.jpg")
        with pytest.raises(InputError, match=r"empty\.jpg.*empty"):
            read(tmp_path / "empty.jpg")
        with pytest.raises(InputError, match=r"text\.jpg.*not an image"):
            read(tmp_path / "text.jpg")
        with pytest.raises(InputError, match="cannot be read"):
            read(tmp_path)


def test_labels_of_every_lossless_kind(tmp_path: Path) -> None:
    label = np.random.default_rng(1).integers(0, 5, SIZE, dtype=np.uint8)
    label[0, 0] = 255
    write_label(tmp_path / "grey.png", label)
    write_label(tmp_path / "palette.png", label, palette=[(0, 0, 0), (9, 200, 7)])
    Image.fromarray(label.astype(np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(label.astype(np.int32)).save(tmp_path / "deep.tif")
    Image.fromarray(np.repeat(label[:, :, None], 3, axis=2)).save(tmp_path / "equal.png")
    for name in ("grey.png", "palette.png", "deep.png", "deep.tif", "equal.png"):
        found = read_label(tmp_path / name)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, label, err_msg=name)
    with Image.open(tmp_path / "palette.png") as source:
        assert source.mode == "P"
        assert source.getpalette()[3:6] == [9, 200, 7]
    Image.fromarray(label > 2).save(tmp_path / "bit.png")
    np.testing.assert_array_equal(read_label(tmp_path / "bit.png"), (label > 2).astype(np.uint8))


def test_labels_that_hold_no_classes_are_refused(tmp_path: Path) -> None:
    Image.fromarray(picture()).save(tmp_path / "colour.png")
    Image.fromarray(picture()[:, :, 0]).save(tmp_path / "lossy.jpg")
    Image.fromarray(np.full(SIZE, 256, np.uint16)).save(tmp_path / "high.png")
    Image.fromarray(np.full(SIZE, 0.5, np.float32)).save(tmp_path / "part.tif")
    write_label(tmp_path / "cut.png", picture(size=(50, 50))[:, :, 0])
    data = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    words = {
        "colour.png": "class indices",
        "lossy.jpg": "PNG",
        "high.png": "256",
        "part.tif": "fractions",
        "cut.png": "cut off",
    }
    for name, word in words.items():
        with pytest.raises(InputError, match=rf"{name}.*{word}"):
            read_label(tmp_path / name)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp", "jpg"])
def test_written_images_come_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "deep" / "er" / f"a.{suffix}"
    write_image(path, smooth())
    assert np.abs(read_image(path).astype(int) - smooth()).max() <= (6 if suffix == "jpg" else 0)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_failed_write_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.bin"
    write_bytes(path, b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_a_lasting_file_is_on_the_disk_and_so_is_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    refusal: list[int] = []
    replace = os.replace

    def sync(file: int) -> None:
        order.append("folder" if stat.S_ISDIR(os.fstat(file).st_mode) else "file")
        if refusal and order[-1] == "folder":
            raise OSError(refusal[0], "no")

    monkeypatch.setattr("os.fsync", sync)
    monkeypatch.setattr("os.replace", lambda *names: (order.append("name"), replace(*names)))
    write_bytes(tmp_path / "a.bin", b"x", lasting=True)
    assert order == ["file", "name", "folder"]
    write_bytes(tmp_path / "a.bin", b"y")
    assert order[3:] == ["name"]
    refusal.append(errno.EINVAL)  # a file system that does not know this of folders
    write_bytes(tmp_path / "a.bin", b"z", lasting=True)
    refusal[0] = errno.EIO
    with pytest.raises(OSError, match="no") as found:
        write_bytes(tmp_path / "a.bin", b"z", lasting=True)
    assert found.value.filename == str(tmp_path / "a.bin")


def test_writers_refuse_wrong_names_and_values(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.xyz"):
        write_image(tmp_path / "a.xyz", picture())
    with pytest.raises(InputError, match=r"\.png"):
        write_label(tmp_path / "a.jpg", picture()[:, :, 0])
    with pytest.raises(InputError, match="integers"):
        write_label(tmp_path / "a.png", picture())
    with pytest.raises(InputError, match=r"0\.\.255"):
        write_label(tmp_path / "a.png", np.full(SIZE, 256))
    assert not list(tmp_path.iterdir())


def test_normalize_matches_the_definition() -> None:
    image = torch.from_numpy(picture()).permute(2, 0, 1)[None].contiguous(memory_format=torch.channels_last)
    out = normalize(image)
    mean, std = torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)
    torch.testing.assert_close(out, (image / 255 - mean) / std)
    assert out.dtype == torch.float32
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_a_pipe_is_a_picture_where_it_is_named_and_none_in_a_folder(tmp_path: Path) -> None:
    """As of `polarpix predict <(command)`; one that lies among pictures would be waited for without end."""
    write_image(tmp_path / "a.png", picture())
    os.mkfifo(tmp_path / "b.png")
    assert list_images(tmp_path) == list_images(f"{tmp_path}/*.png") == [tmp_path / "a.png"]
    assert list_images(tmp_path / "b.png") == [tmp_path / "b.png"]
    data = (tmp_path / "a.png").read_bytes()
    with ThreadPoolExecutor(1) as pool:
        written = pool.submit((tmp_path / "b.png").write_bytes, data)
        np.testing.assert_array_equal(read_image(tmp_path / "b.png"), picture())
        assert written.result() == len(data)


def test_list_images_takes_path_folder_and_pattern(tmp_path: Path) -> None:
    names = ["b.PNG", "a.jpg", "sub/c.png", "note.txt", "odd[1].jpg", ".hidden.png"]
    for name in names:
        write_bytes(tmp_path / name, b"x")
    assert [p.name for p in list_images(tmp_path)] == ["a.jpg", "b.PNG", "odd[1].jpg"]
    assert list_images(tmp_path / "odd[1].jpg") == [tmp_path / "odd[1].jpg"]
    assert [p.name for p in list_images(f"{tmp_path}/**/*.*")] == ["a.jpg", "b.PNG", "odd[1].jpg", "c.png"]
    (tmp_path / "bare").mkdir()
    for source in (tmp_path / "bare", tmp_path / "none", f"{tmp_path}/*.gif"):
        with pytest.raises(InputError, match=r"no images|no such"):
            list_images(source)
    with pytest.raises(InputError, match="a source of images is empty"):  # and not the current folder
        list_images("")
    with pytest.raises(InputError, match=r"ftp://host/a\.jpg: not read here: predict takes http and https"):
        list_images("ftp://host/a.jpg")


def test_a_place_is_checked_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.chdir(tmp_path)
    for good in ("new.json", tmp_path / "a" / "b" / "new.json", "file"):
        check_place(good)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]  # nothing is made
    with pytest.raises(InputError, match="is a folder: name a file in it"):
        check_place(tmp_path)
    for bad in ("file/new.json", tmp_path / "file" / "deep" / "new.json"):
        with pytest.raises(InputError, match="file is no folder: choose another place"):
            check_place(bad)
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # root may write everywhere
    with pytest.raises(InputError, match="takes no files: choose another place"):
        check_place("new.json")


def test_import_does_not_load_torch() -> None:
    code = "import sys, polarpix.images; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_formats_that_call_other_programs_are_no_pictures(tmp_path: Path) -> None:
    """Pillow gives an EPS to Ghostscript, whatever it is called."""
    path = tmp_path / "a.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    for read in (read_image, read_label):
        with pytest.raises(InputError, match="not an image"):
            read(path)


def test_a_large_picture_is_converted_in_blocks() -> None:
    """The same as in one piece."""
    rng = np.random.default_rng(0)
    deep = rng.integers(0, 65536, (5, 300_000), np.uint16)
    np.testing.assert_array_equal(to_rgb(deep)[..., 1], ((deep.astype(np.int64) + 128) // 257).astype(np.uint8))
    colours = rng.integers(0, 256, (5, 300_000, 4), np.uint8)
    parts = [to_rgb(colours[row : row + 1]) for row in range(5)]
    np.testing.assert_array_equal(to_rgb(colours), np.concatenate(parts))
