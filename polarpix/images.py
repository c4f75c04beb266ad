"""Files to arrays and back: pictures, label maps, and the normalisation in front of a network.

Pictures are uint8 [H, W, 3] RGB as one looks at them: EXIF orientation applied, transparency laid over white, 16 bit
scaled to 8. Label maps are uint8 [H, W]. Every problem with a file is an :class:`InputError` of one line.
"""

from __future__ import annotations

import errno
import glob
import io
import os
import uuid
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from polarpix.errors import InputError
from polarpix.plain_images import decode_plain, picture_size
from polarpix.plain_images import encode_label as encode_plain
from polarpix.rgb import MAX_PIXELS, exif_orientation, from_pillow, open_pillow, orient, to_rgb
from polarpix.types import UInt8Array

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "IMAGE_SUFFIXES",
    "check_place",
    "decode_image",
    "encode_label",
    "list_images",
    "normalize",
    "read_image",
    "read_label",
    "write_bytes",
    "write_image",
    "write_label",
]

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of RGB in 0..1
IMAGENET_STD = (0.229, 0.224, 0.225)
IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp")

_WRITERS: dict[str, list[int]] = {
    ".jpg": [cv2.IMWRITE_JPEG_QUALITY, 95],
    ".jpeg": [cv2.IMWRITE_JPEG_QUALITY, 95],
    ".png": [],
    ".bmp": [],
    ".tif": [],
    ".tiff": [],
    ".webp": [cv2.IMWRITE_WEBP_QUALITY, 101],  # above 100 is lossless
}


def read_image(path: str | Path) -> UInt8Array:
    """Read one picture as uint8 [H, W, 3] RGB, the way it is looked at.

    EXIF orientation is applied; transparency (RGBA, LA, palette) is laid over white; 16-bit values are scaled to
    8 bits (0..65535 to 0..255); float values must lie in 0..1; CMYK, palette and 1-bit pictures are converted. Of
    an animation the first frame is taken.

    Raises:
        InputError: the file is missing, is no image, is cut off, or holds values that have no reading as a picture.
    """
    return decode_image(_read_bytes(Path(path), "image"), str(path))


def decode_image(data: bytes, name: str) -> UInt8Array:
    """The picture in the bytes of a file, as :func:`read_image` gives it.

    Args:
        data: the whole file.
        name: what errors call it.

    Raises:
        InputError: it is no image, is cut off, or holds values that have no reading as a picture.
    """
    if find_spec("PIL") is None:  # beside an exported network it need not be
        return decode_plain(data, Path(name))
    from PIL import Image, UnidentifiedImageError

    try:
        with open_pillow(io.BytesIO(data)) as picture:
            orientation = exif_orientation(picture)
            plain = picture.format in ("JPEG", "MPO") and picture.mode in ("L", "RGB")
            if plain and data.rstrip(b"\0").endswith(b"\xff\xd9"):  # older cv2 fill up what is cut off
                flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
                decoded = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
                if decoded is not None:
                    return orient(np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8), orientation)
            return orient(from_pillow(picture), orientation)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    except UnidentifiedImageError:
        return _read_tiff(name, data)
    except Image.DecompressionBombError:
        raise InputError(f"{name}: image is too large to be read safely: cut it into smaller images") from None
    except Exception as error:  # Pillow's readers and OpenCV's have many classes for damage
        raise InputError(f"{name}: image is damaged or cut off ({_reason(error)}): fetch or save it again") from None


def read_label(path: str | Path) -> UInt8Array:
    """Read one label map as uint8 [H, W]: grey values, palette indices, or 0/1 of a 1-bit file, never colours.

    16-bit files are taken if every value is below 256; RGB files only if their three channels agree.

    Raises:
        InputError: the file is missing, no image, cut off, stored with loss (JPEG), coloured, or above 255.
    """
    path = Path(path)
    data = _read_bytes(path, "label map")
    from PIL import UnidentifiedImageError

    try:
        with open_pillow(io.BytesIO(data)) as picture:
            if picture.format in ("JPEG", "MPO"):
                raise InputError("label map is a JPEG, which alters class indices: store it as PNG")
            orientation = exif_orientation(picture)
            array = np.asarray(picture)  # [H, W] or [H, W, C]; palette pictures give their indices
    except UnidentifiedImageError:
        raise InputError(
            f"{path}: label map is not an image, or cut off in its first bytes: give a PNG of class indices"
        ) from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:  # as above, and what is too large
        raise InputError(
            f"{path}: label map is damaged or cut off ({_reason(error)}): fetch or save it again"
        ) from None
    if array.ndim == 3:
        colour = array[:, :, :3] if array.shape[2] >= 3 else array[:, :, :1]
        if (colour != colour[:, :, :1]).any():
            raise InputError(f"{path}: label map holds colours: convert it to class indices, one grey value per class")
        array = colour[:, :, 0]
    if array.dtype.kind == "f" and (array != np.floor(array)).any():
        raise InputError(f"{path}: label map holds fractions: convert it to class indices")
    if array.min() < 0 or array.max() > 255:
        raise InputError(
            f"{path}: label map holds values {array.min()}..{array.max()}: class indices must lie in 0..255"
        )
    return orient(np.ascontiguousarray(array.astype(np.uint8)), orientation)


def check_place(path: str | Path) -> None:
    """Refuse a file that cannot be written where it should go, before the work that fills it; nothing is made.

    Raises:
        InputError: the path is a folder, lies below a file, or below a folder that takes no files.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder: name a file in it")
    nearest = next(one for one in path.absolute().parents if one.exists())
    if not nearest.is_dir():
        raise InputError(f"{path}: cannot be written, {nearest} is no folder: choose another place")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"{path}: cannot be written, {nearest} takes no files: choose another place")


def write_bytes(path: str | Path, data: bytes | memoryview, lasting: bool = False) -> None:
    """Write a file whole or not at all: into a neighbour first, then renamed; missing folders are made.

    A ``lasting`` one is on the disk before it takes the name, and so is the name when this returns: a power cut on the
    way leaves it or its predecessor, one afterwards leaves it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")  # unique: several processes may write one name
    try:
        with part.open("wb") as file:
            file.write(data)
            if lasting:
                file.flush()
                os.fsync(file.fileno())
        os.replace(part, path)
        if lasting:
            keep_names(path.parent)
    except OSError as error:
        if error.errno:
            error.filename = str(path)  # a full disk is told of no file otherwise
        raise
    finally:
        part.unlink(missing_ok=True)


def keep_names(folder: Path) -> None:
    """Have what a folder says of its files on the disk, where its file system can be asked for that."""
    place = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(place)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network folders
            raise
    finally:
        os.close(place)


def write_image(path: str | Path, image: npt.NDArray[Any]) -> None:
    """Write a picture, of any kind that :func:`polarpix.rgb.to_rgb` takes, in the format of the path's suffix.

    The file is written whole or not at all.

    Raises:
        InputError: a suffix that cannot be written, or an array that is no picture.
    """
    path = Path(path)
    options = _WRITERS.get(path.suffix.lower())
    if options is None:
        raise InputError(f"{path}: cannot write {path.suffix!r} images: use one of {', '.join(_WRITERS)}")
    ok, data = cv2.imencode(path.suffix.lower(), cv2.cvtColor(to_rgb(image), cv2.COLOR_RGB2BGR), options)
    if not ok:
        raise InputError(f"{path}: image of shape {list(image.shape)} does not fit the format: use .png")
    write_bytes(path, data.tobytes())


def write_label(
    path: str | Path, label: npt.NDArray[Any], palette: Sequence[tuple[int, int, int]] | None = None
) -> None:
    """Write a label map [H, W] with values in 0..255 as PNG, whole or not at all.

    Args:
        path: must end in .png.
        label: class indices.
        palette: RGB of each class; the file is then a palette PNG that shows colours and still holds the indices.

    Raises:
        InputError: another suffix, shape or range of values.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise InputError(f"{path}: label maps are written as PNG: use a name that ends in .png")
    try:
        write_bytes(path, encode_label(label, palette))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def encode_label(label: npt.NDArray[Any], palette: Sequence[tuple[int, int, int]] | None = None) -> bytes:
    """The PNG that :func:`write_label` writes.

    Raises:
        InputError: another shape or range of values.
    """
    if label.ndim != 2 or not label.size or label.dtype.kind not in "biu":
        raise InputError(f"label map is {label.dtype} {list(label.shape)}: give integers [H, W]")
    if label.min() < 0 or label.max() > 255:
        raise InputError(f"label map holds values {label.min()}..{label.max()}: they must lie in 0..255")
    return encode_plain(label.astype(np.uint8), palette)


def normalize(image: Tensor) -> Tensor:
    """uint8 [B, 3, H, W] RGB to float32 of that shape, by ImageNet's mean and deviation; device and layout are kept."""
    import torch

    mean = torch.tensor(IMAGENET_MEAN, device=image.device).mul_(255).view(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=image.device).mul_(255).view(1, 3, 1, 1)
    return (image.float() - mean) / std


def list_images(source: str | Path, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> list[Path]:
    """The pictures that a path, a folder (not its subfolders) or a glob pattern (``**`` for subfolders) names, sorted.

    A named pipe is taken as one picture where it is the path; in folders and under patterns it is passed over.

    Raises:
        InputError: nothing is there, or in the folder or under the pattern no file with one of the suffixes.
    """
    path = Path(source)
    if not str(source):
        raise InputError("a source of images is empty: give a file, a folder or a pattern")
    if path.is_file() or path.is_fifo():  # a pipe only where it is named itself, as by <(command) of a shell
        return [path]
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if _is_image(p, suffixes))
        if not found:
            raise InputError(f"{source}: folder holds no images: looked for {', '.join(suffixes)}")
        return found
    if glob.has_magic(str(source)):
        found = sorted(p for p in map(Path, glob.glob(str(source), recursive=True)) if _is_image(p, suffixes))
        if not found:
            raise InputError(f"{source}: pattern matches no images: looked for {', '.join(suffixes)}")
        return found
    if "://" in str(source):
        raise InputError(f"{source}: not read here: predict takes http and https, predict --ray what fsspec knows")
    raise InputError(f"{source}: no such file or folder: check the path")


def _is_image(path: Path, suffixes: Sequence[str]) -> bool:
    return path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file()


def _read_bytes(path: Path, what: str) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: {what} is missing: check the path") from None
    except OSError as error:
        raise InputError(f"{path}: {what} cannot be read ({error.strerror}): check the path and permissions") from None
    if not data:
        raise InputError(f"{path}: {what} is empty: fetch or save it again")
    return data


def _reason(error: Exception) -> str:
    """An error of a reader in one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _read_tiff(name: str, data: bytes) -> UInt8Array:
    """Float RGB and other TIFF files that Pillow has no mode for."""
    array = None
    if data[:4] in (b"II*\0", b"MM\0*"):
        height, width = picture_size(data) or (0, 0)
        if height * width > MAX_PIXELS // 8:  # of up to 32 bytes each
            raise InputError(f"{name}: image is too large to be read safely: cut it into smaller images")
        try:
            array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error as error:
            raise InputError(f"{name}: image is damaged ({_reason(error)}): fetch or save it again") from None
    if array is None:
        raise InputError(f"{name}: not an image, or cut off at its start: give JPEG, PNG, TIFF, WebP, BMP or GIF")
    if array.ndim == 3 and array.shape[2] >= 3:
        array[:, :, :3] = array[:, :, 2::-1].copy()
    try:
        return to_rgb(array)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
