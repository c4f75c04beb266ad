"""The folder of a run: nobody else in it, whole files in it, and missed when it is gone."""

import errno
import os
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from polarpix.engine import fit as engine
from polarpix.engine.fit import fit
from polarpix.engine.folder import WholeFiles, held, missed
from polarpix.errors import InputError
from polarpix.pages import make_run

TinyPage = Callable[[str], dict[str, Any]]

HOLDING = """
import sys
import threading
from pathlib import Path
from polarpix.engine.folder import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_trainings_in_one_folder_refuse_each_other(tmp_path: Path) -> None:
    with held(tmp_path / "free"):
        pass
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdin is not None
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    try:
        with pytest.raises(InputError, match=f"process {other.pid} on .* is training in it"), held(tmp_path):
            pass
    finally:
        other.kill()  # and with the process goes its lock
        other.communicate()
    with held(tmp_path):
        pass


def test_a_file_system_without_locks_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("polarpix.engine.folder.fcntl.lockf", refuse)
    with pytest.warns(UserWarning, match=r"cannot be locked here \(No locks available\)"), held(tmp_path):
        assert (tmp_path / "run.lock").is_file()


def test_a_checkpoint_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    WholeFiles().save_checkpoint({"state_dict": torch.ones(3)}, path)
    before = path.read_bytes()
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before), usual[1]))
    try:
        with pytest.raises(OSError, match="too large") as found:  # as on a full disk, in the midst of the file
            WholeFiles().save_checkpoint({"state_dict": torch.ones(100_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert found.value.errno == errno.EFBIG
    assert found.value.filename == str(path)
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["last.ckpt"]
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="file"):
        WholeFiles().save_checkpoint({}, tmp_path / "file" / "last.ckpt")


class Loses(Callback):
    """Moves the run folder away in its second epoch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == 1:
            shutil.move(self.folder, self.folder.with_name("moved"))


def test_a_folder_that_went_away_ends_the_training(
    tiny_page: TinyPage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tiny_page("seg") | {"out": str(tmp_path)}, ["--engine.pictures=1"])
    folder, usual = tmp_path / "seg" / "tiny", engine.training_callbacks
    monkeypatch.setattr(engine, "training_callbacks", lambda *a: [Loses(folder), *usual(*a)])
    with pytest.raises(InputError, match=f"{folder}: is gone or was moved"):
        fit(run)
    moved = folder.with_name("moved")
    assert torch.load(moved / "checkpoints" / "last.ckpt", weights_only=False)["epoch"] == 0
    left = [path.relative_to(folder) for path in folder.rglob("*")] if folder.exists() else []
    assert [path for path in left if path.parts[0] != "tensorboard"] == []  # no second run is begun
    monkeypatch.undo()
    shutil.rmtree(folder, ignore_errors=True)
    shutil.move(moved, folder)
    assert fit(run, resume=True).weights.is_file()


def test_a_logger_that_cannot_write_leaves_the_word_to_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorBoard writes from a thread, and names its file in bytes."""
    (tmp_path / "config.yaml").touch()
    said: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda told: said.append(told.exc_value))

    def fail(error: Exception) -> None:
        raise error

    inside = OSError(errno.EROFS, "Read-only file system", os.fsencode(tmp_path / "tensorboard" / "events"))
    outside = OSError(errno.EROFS, "Read-only file system", "/elsewhere")
    nameless, broken = OSError(errno.EIO, "Input/output error"), OSError(errno.ECONNRESET, "reset")
    with missed(tmp_path):
        for error in (inside, nameless, outside, ValueError("other"), broken):
            thread = threading.Thread(target=fail, args=(error,))
            thread.start()
            thread.join()
    assert [str(error) for error in said] == [str(outside), "other", str(broken)]
    with pytest.raises(OSError, match="Input/output") as found, missed(tmp_path):
        raise nameless  # as a file that was open when its disk failed is told of
    assert found.value.filename == str(tmp_path)
