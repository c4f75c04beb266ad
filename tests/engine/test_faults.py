"""Faults in the midst of a training: what is said, what is kept, and that going on gives what would have been."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.callbacks import Callback

from polarpix.engine import fit as engine
from polarpix.engine.artifact import load_artifact
from polarpix.engine.faults import peer_lost
from polarpix.engine.fit import fit
from polarpix.errors import InputError, TerminatedError
from polarpix.loading import Carrying
from polarpix.pages import make_run
from polarpix.seg.datasets import SegDataset

TinyPage = Callable[[str], dict[str, Any]]


def run_of(tiny_page: TinyPage, task: str, out: Path, *options: str) -> Any:
    return make_run(tiny_page(task) | {"out": str(out)}, ["--engine.pictures=0", *options])


class Asked(Callback):
    """Asks the process to end in the midst of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        if (trainer.current_epoch, index) == (self.epoch, 1):
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("task", "epoch", "options"),
    [
        ("seg", 1, ["--engine.ema=0.7"]),
        ("pose", 2, ["--engine.eval_every=2", "--engine.workers=1"]),
        ("seg", 0, ["--engine.accumulate=2"]),
    ],
)
def test_a_run_that_was_asked_to_end_goes_on_in_the_midst_of_its_epoch(
    task: str, epoch: int, options: list[str], tiny_page: TinyPage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--engine.epochs=3", "--engine.batch_size=2", *options]  # four batches an epoch
    straight = load_artifact(fit(run_of(tiny_page, task, tmp_path / "straight", *options)).folder)
    run = run_of(tiny_page, task, tmp_path / "asked", *options)
    usual = engine.training_callbacks
    monkeypatch.setattr(engine, "training_callbacks", lambda *a: [Asked(epoch), *usual(*a)])
    with pytest.raises(TerminatedError, match="add --resume"):
        fit(run)
    monkeypatch.undo()
    left = torch.load(engine.run_folder(run) / "checkpoints" / "last.ckpt", weights_only=False)
    assert left["callbacks"]["Termination"]["batches"] == 2
    assert left["epoch"] == epoch
    torch.manual_seed(999)
    found = load_artifact(fit(run, resume=True).folder)
    assert found.metrics == straight.metrics
    assert all(torch.equal(found.state[name], value) for name, value in straight.state.items())


@pytest.mark.parametrize("uniform", [0.0, 0.9])
def test_a_loss_that_is_no_number_names_its_pictures(
    uniform: float, tiny_page: TinyPage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tiny_page, "seg", tmp_path, f"--data.uniform={uniform}")
    task_loss, pictures, read = engine.TASKS["seg"][0].training_step, SegDataset.__getitem__, []

    def noted(data: SegDataset, index: int) -> Any:
        read.append(str(data.files[index][0]))
        return pictures(data, index)

    def broken(task: Any, batch: Any, index: int) -> Any:
        loss = task_loss(task, batch, index)
        return loss * float("nan") if (task.trainer.current_epoch, index) == (1, 1) else loss

    monkeypatch.setattr(SegDataset, "__getitem__", noted)
    monkeypatch.setattr(engine.TASKS["seg"][0], "training_step", broken)
    with pytest.raises(
        InputError, match=r"loss is nan in epoch 1, batch 1 \(.*000\d\.jpg.*last\.ckpt is kept"
    ) as found:
        fit(run)
    named = re.findall(r"[^ (,]+\.jpg", str(found.value))
    assert named == list(dict.fromkeys(read[-4:]))  # the batch, without doubles
    kept = torch.load(engine.run_folder(run) / "checkpoints" / "last.ckpt", weights_only=False)
    assert kept["epoch"] == 0
    assert all(value.isfinite().all() for value in kept["state_dict"].values() if value.is_floating_point())


def test_a_loading_process_that_died_is_told_with_its_picture(
    tiny_page: TinyPage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = Carrying.__getitem__

    def deadly(self: Carrying, key: Any) -> Any:
        item = usual(self, key)
        if key[1] == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return item

    monkeypatch.setattr(Carrying, "__getitem__", deadly)
    with pytest.raises(InputError, match=r"a loading process ended: on .*0005\.jpg \(signal 9\)"):
        fit(run_of(tiny_page, "seg", tmp_path, "--engine.workers=1", "--data.uniform=0"))


def test_unreadable_pictures_are_passed_over_counted_and_named(
    tiny_page: TinyPage, figures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tiny_page("seg")
    root = tmp_path / "figures"
    for part in ("images", "labels"):
        for file in sorted((figures / part).rglob("*.*")):
            target = root / file.relative_to(figures)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes()[:300] if file.name == "0003.jpg" else file.read_bytes())
    page["data"] |= {"root": str(root), "val": "test"}  # the val split has a picture of that name too
    run = make_run(page | {"out": str(tmp_path)}, ["--engine.pictures=0"])
    with pytest.raises(InputError, match=r"0003\.jpg: image is damaged"):
        fit(run)
    run = make_run(
        page | {"out": str(tmp_path), "name": "skips"}, ["--engine.pictures=0", "--engine.skip_unreadable=true"]
    )
    with pytest.warns(UserWarning, match=r"1 of 8 training samples cannot be read .*0003\.jpg") as told:
        folder = fit(run).folder
    ours = [one for one in told if "cannot be read" in str(one.message)]
    assert len(ours) == 1
    assert "lightning" not in ours[0].filename  # which would be printed before it
    assert "unreadable" in (folder / "metrics.csv").read_text().splitlines()[0]


def test_what_means_that_another_process_is_gone() -> None:
    assert "another process" in peer_lost(RuntimeError("[pair.cc:538] Connection closed by peer [127.0.0.1]:1234"))
    assert "another process" in peer_lost(torch.distributed.DistBackendError("x"))
    assert peer_lost(RuntimeError("size mismatch")) == ""


def test_the_command_line_ends_with_the_signals_status(tiny_page: TinyPage, tmp_path: Path) -> None:
    """A real process, asked from outside as soon as it has written its first checkpoint."""
    page = tmp_path / "page.yaml"
    options = {
        "engine": {"epochs": 10_000, "accelerator": "cpu", "devices": 1, "workers": 0, "pictures": 0, "batch_size": 2}
    }
    page.write_text(yaml.safe_dump(tiny_page("seg") | options | {"out": str(tmp_path)}))
    call = [sys.executable, "-m", "polarpix", "train", "--config", str(page)]
    running = subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    last = tmp_path / "seg" / "tiny" / "checkpoints" / "last.ckpt"
    while not last.exists() and running.poll() is None:
        pass
    running.send_signal(signal.SIGTERM)
    _, said = running.communicate(timeout=120)
    assert running.returncode == 143, said[-2000:]
    assert "polarpix: asked to end" in said
    assert "Traceback" not in said
