"""Faults of the place that a training writes to: full, read-only, not one's own, gone, held by another."""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fault_parts import Ended, NotTriedError, Place, Run, after_first_checkpoint, finish, start

NOBODY = 65534  # an ordinary user


def ask(*call: str) -> None:
    """Run a program of the system.

    Raises:
        NotTriedError: it is not there, or may not do that.
    """
    try:
        done = subprocess.run(call, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise NotTriedError(f"{call[0]} is not here") from error
    if done.returncode:
        raise NotTriedError(f"{' '.join(call[:2])}: {done.stderr.strip().splitlines()[0]}")


@contextmanager
def mounted(at: Path, *options: str) -> Iterator[None]:
    """A file system of its own at a new folder."""
    at.mkdir()
    ask("mount", *options, str(at))
    try:
        yield
    finally:
        subprocess.run(["umount", str(at)], check=False)


def found(ended: Ended, held: dict[str, bool], times: int = 1, **more: Any) -> dict[str, Any]:
    """A row of the record."""
    beside = {"beside": (ended.lines[:-1] + ended.others)[-20:]} if ended.lines[1:] or ended.others else {}
    return {"times": times, "status": ended.status, "line": ended.line, "held": held} | beside | more


def whole(run: Run) -> dict[str, bool]:
    """Whether a checkpoint is there that can be read from end to end."""
    kept = run.kept()
    return {"the last checkpoint is whole": kept is not None and "state_dict" in kept}


def full_disk(place: Place) -> dict[str, Any]:
    """A run folder on a file system that is filled up after the first checkpoint."""
    at = place.folder / "small"
    with mounted(at, "-t", "tmpfs", "-o", "size=24m", "tmpfs"):
        run = place.run("full", at)
        process = start(run.page)
        after_first_checkpoint(run, process)
        with (at / "filler").open("wb") as filler:
            try:
                while True:
                    filler.write(bytes(2**16))
                    filler.flush()
            except OSError:
                pass
        ended = finish(process)
        held = ended.one_line(str(run.folder)) | whole(run) | {"no half file": not list(run.folder.rglob("*.part"))}
        (at / "filler").unlink()
        return found(ended, held | place.goes_on(run))


def failed_disk(place: Place) -> dict[str, Any]:
    """A disk that the kernel makes read-only in the midst of a training, as it does at an error of ext4."""
    image, at = place.folder / "disk.img", place.folder / "disk"
    with image.open("wb") as file:
        file.truncate(2**26)
    ask("mkfs.ext4", "-q", str(image))
    with mounted(at, "-o", "loop", str(image)):
        run = place.run("failed", at)
        process = start(run.page)
        after_first_checkpoint(run, process)
        ask("mount", "-o", "remount,abort", str(at))
        ended = finish(process)
    at.rmdir()
    with mounted(at, "-o", "loop", str(image)):  # what had reached the disk
        return found(ended, ended.one_line(str(run.folder)) | whole(run) | place.goes_on(run))


def read_only(place: Place) -> dict[str, Any]:
    """A training that is started on a read-only file system."""
    at = place.folder / "fixed"
    with mounted(at, "-t", "tmpfs", "tmpfs"):
        ask("mount", "-o", "remount,ro", str(at))
        run = place.run("fixed", at)
        ended = finish(start(run.page))
        held = ended.one_line(str(at)) | {"nothing is there": not list(at.iterdir())}
        ask("mount", "-o", "remount,rw", str(at))
        return found(ended, held | place.goes_on(run))


def ordinary(place: Place) -> tuple[Path, Any]:
    """A folder of an ordinary user, and how that user starts a training; ourselves unless we are root."""
    at = place.folder / "own"
    at.mkdir(exist_ok=True)
    if os.getuid():
        return at, start
    assert place.figures.is_dir()
    os.chmod(place.folder, 0o755)
    os.chown(at, NOBODY, NOBODY)
    user = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    ask(*user, "true")
    return at, functools.partial(start, before=user, HOME=str(at), XDG_CACHE_HOME=str(at / "cache"))


def give(folder: Path, writable: bool) -> None:
    """Take an ordinary user's folders and files away, or give them back."""
    for path in (folder, *folder.rglob("*")):
        if not os.getuid():
            os.chown(path, *((NOBODY, NOBODY) if writable else (0, 0)))
        usual = 0o755 if path.is_dir() else 0o644
        path.chmod(usual if writable else usual & ~0o222)


def no_permission(place: Place) -> dict[str, Any]:
    """An ordinary user whose run folder may no longer be written to, in the midst of a training."""
    at, call = ordinary(place)
    run = place.run("taken", at)
    process = call(run.page)
    after_first_checkpoint(run, process)
    give(at / "runs", writable=False)
    ended = finish(process)
    held = ended.one_line(str(run.folder)) | whole(run)
    give(at / "runs", writable=True)
    return found(ended, held | place.goes_on(run, call=call))


def not_permitted(place: Place) -> dict[str, Any]:
    """An ordinary user who starts a training in a folder that may not be written to."""
    at, call = ordinary(place)
    at = at / "kept"
    at.mkdir()
    give(at, writable=False)
    run = place.run("refused", at)
    ended = finish(call(run.page))
    held = ended.one_line(str(at)) | {"nothing is there": not list(at.iterdir())}
    give(at, writable=True)
    return found(ended, held | place.goes_on(run, call=call))


def vanished(place: Place) -> dict[str, Any]:
    """A run folder moved away after the first checkpoint."""
    run, elsewhere = place.run("gone"), place.folder / "elsewhere"
    process = start(run.page)
    after_first_checkpoint(run, process)
    run.folder.rename(elsewhere)
    ended = finish(process)
    held = ended.one_line(str(run.folder)) | {"no second folder is begun": not run.folder.exists()}
    if run.folder.exists():
        run.folder.rename(place.folder / "second")
    elsewhere.rename(run.folder)
    return found(ended, held | whole(run) | place.goes_on(run))


def twice(place: Place) -> dict[str, Any]:
    """A second training in the folder of a running one, which then ends by itself."""
    run = place.run("twice")
    first = start(run.page)
    after_first_checkpoint(run, first)
    second = start(run.page, "--resume")
    ended = finish(second)
    running = first.poll() is None
    other = finish(first)
    same = other.status == 0 and not other.lines and place.equal(run)
    held = ended.one_line(str(run.folder), f"process {first.pid} ") | {
        "the first still ran then": running,
        "and ended with the weights of an undisturbed one": same,
    }
    return found(ended, held)
