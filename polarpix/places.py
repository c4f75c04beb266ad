"""Pictures and files at addresses that fsspec knows (s3://, gs://, file://, ...) as well as on this machine."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from polarpix.errors import InputError
from polarpix.images import IMAGE_SUFFIXES, list_images

__all__ = ["list_places", "opened", "safe_name", "write_whole"]


def safe_name(name: Any, where: str) -> str:
    """A file name that stays within its folder.

    Args:
        name: as a table or a list of files calls it.
        where: named in errors.

    Raises:
        InputError: no text, an absolute path, one that climbs out of its folder, or one that no file can have.
    """
    parts = PurePosixPath(name.replace("\\", "/")).parts if isinstance(name, str) else ()
    if not parts or ".." in parts or parts[0] == "/" or ":" in parts[0] or "\0" in str(name):
        raise InputError(f"{where}: file name {name!r:.80} leads out of its folder: give one relative to it")
    if any(ord(letter) < 32 for letter in str(name)):
        raise InputError(f"{where}: file name {name!r:.80} holds control characters: rename the file")
    try:
        longest = max(len(part.encode()) for part in parts)
    except UnicodeEncodeError:
        raise InputError(f"{where}: file name {name!r:.80} is no valid Unicode: rename the file") from None
    if longest > 255 or len(str(name)) > 1024:
        raise InputError(f"{where}: file name {name!r:.80} is longer than a file's can be: rename the file")
    return str(name)


def list_places(sources: Sequence[str]) -> list[str]:
    """The pictures of folders, patterns, fsspec addresses, and text files that list them, each once, in order.

    Raises:
        InputError: nothing is there, or no picture.
    """
    import fsspec

    places: list[str] = []
    for source in sources:
        if source.endswith((".txt", ".csv", ".lst")):
            with opened(source) as file:
                places += [line.strip() for line in file.read().decode().splitlines() if line.strip()]
        elif "://" not in source:
            places += [str(path.absolute()) for path in list_images(source)]
        else:
            system, root = fsspec.url_to_fs(source)
            try:
                found = (
                    system.glob(root)
                    if "*" in root
                    else system.ls(root, detail=False)
                    if system.isdir(root)
                    else [root]
                )
            except OSError as error:
                raise InputError(f"{source}: cannot be listed ({error}): check the address") from None
            pictures = [str(system.unstrip_protocol(one)) for one in sorted(found) if is_image(one)]
            if not pictures:
                raise InputError(f"{source}: holds no images: looked for {', '.join(IMAGE_SUFFIXES)}")
            places += pictures
    if not places:
        raise InputError(f"{', '.join(sources)}: names no images: give a folder, a list or an address")
    return list(dict.fromkeys(places))


def is_image(place: str) -> bool:
    """Whether the name ends like that of a picture."""
    return Path(place).suffix.lower() in IMAGE_SUFFIXES


def opened(place: str) -> Any:
    """A file or address for reading bytes.

    Raises:
        InputError: it is not there.
    """
    import fsspec

    try:
        return fsspec.open(place, "rb").open()
    except (OSError, ValueError, ImportError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{place}: cannot be read ({reason}): check the address") from None


def write_whole(place: str, data: bytes) -> None:
    """Write a file or an object whole or not at all."""
    import fsspec

    system, path = fsspec.url_to_fs(place)
    folder, _, name = path.rpartition("/")
    system.makedirs(folder, exist_ok=True)
    if "file" in system.protocol:
        part = f"{folder}/.{name}.{uuid.uuid4().hex}.part"
        system.pipe_file(part, data)
        os.replace(part, path)
    else:
        system.pipe_file(path, data)  # object stores show nothing before all of it is there
