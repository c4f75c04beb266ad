"""The folder of a run: one training at a time in it, checkpoints written whole, and missed when it is gone."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io import TorchCheckpointIO
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities import rank_zero_only

from polarpix.errors import InputError
from polarpix.images import write_bytes

__all__ = ["Presence", "WholeFiles", "held", "missed"]

# What is wrong with a disk, whichever of its files is written.
OF_DISKS = (errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other trainings out of a run folder; of a training by several processes the first one does.

    The lock is the operating system's: it goes with the process, however that ends. Where the file system knows no
    locks, a warning says that nothing keeps others out.

    Raises:
        InputError: another process holds the folder.
    """
    if getattr(rank_zero_only, "rank", 0):  # as the launcher of the processes says
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "run.lock"
    with path.open("a+") as file:
        error = lock(file)
        if error is not None and error.errno in (errno.EACCES, errno.EAGAIN):
            file.seek(0)
            other = file.read().strip() or "another process"
            raise InputError(
                f"{folder}: {other} is training in it: wait until it ends, or choose another --name"
            ) from error
        if error is not None:
            warnings.warn(
                f"{folder}: cannot be locked here ({error.strerror}): take care that no other training runs in it",
                stacklevel=3,
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {os.uname().nodename}\n")
        file.flush()
        yield


def lock(file: TextIO) -> OSError | None:
    """Lock a file for this process; null, or why that cannot be."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # forked loading processes do not inherit this kind
    except OSError as error:
        return error
    return None


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all, and says so when it cannot.

    The trainer's own way passes over a folder that takes no files without a word.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_bytes(Path(path), content.getbuffer(), lasting=True)


def gone(folder: Path) -> bool:
    """Whether a run folder is not where its page was written."""
    return not (folder / "config.yaml").is_file()


def within(folder: Path, error: BaseException | None) -> bool:
    """Whether an error is of a file in a run folder; what is of a disk and of no file is taken for that."""
    name = error.filename if isinstance(error, OSError) else None
    if name is None and isinstance(error, OSError):
        return error.errno in OF_DISKS
    return isinstance(name, str | bytes) and Path(os.fsdecode(name)).absolute().is_relative_to(folder.absolute())


@contextmanager
def missed(folder: Path) -> Iterator[None]:
    """Whatever fails because the run folder is gone ends in a line that says so, loggers in threads of their own too.

    A thread that cannot write there says nothing by itself: the training meets the same place, and ends in one line.
    An error of a disk that names no file is given the folder's name.

    Raises:
        InputError: something failed, and the folder is gone.
    """
    usual = threading.excepthook
    threading.excepthook = lambda told: None if gone(folder) or within(folder, told.exc_value) else usual(told)
    try:
        yield
    except Exception as error:  # loggers and the trainer raise what they like
        if isinstance(error, OSError) and error.filename is None and within(folder, error):
            error.filename = str(folder)  # an open file that cannot be written to any more is told of without its name
        if gone(folder):
            raise InputError(
                f"{folder}: is gone or was moved while it was trained in: put it back and add --resume, or choose "
                "another --out"
            ) from error
        raise
    finally:
        threading.excepthook = usual


class Presence(Callback):
    """Ends a training whose folder was moved or removed, before it fills a new one with the rest of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @rank_zero_only
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if gone(self.folder):
            raise FileNotFoundError(self.folder)

    # Before pictures, checkpoints and the table are written; the trainer calls callbacks in their order.
    on_validation_end = on_train_epoch_end = on_validation_epoch_end
