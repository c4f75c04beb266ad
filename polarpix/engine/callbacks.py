"""What happens around the training loop, one small callback each."""

from __future__ import annotations

import csv
import io
import json
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import Callback, Checkpoint, ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_only

from polarpix.calibration import read_calibration
from polarpix.engine.artifact import save_artifact, write_text
from polarpix.errors import InputError
from polarpix.images import write_image

__all__ = [
    "Divergence",
    "EpochSeed",
    "EvenBuffers",
    "Interruption",
    "LastValidation",
    "MetricsTable",
    "MovedFolder",
    "Pictures",
    "StepClock",
    "WeightsFile",
]


class EpochSeed(Callback):
    """Seeds torch anew at every epoch, so that a resumed run draws the same dropout masks as an uninterrupted one."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        torch.manual_seed(hash((self.seed, trainer.current_epoch, trainer.global_rank)) % 2**63)


class MovedFolder(Callback):
    """Lets a run go on where its folder lies now.

    Checkpoints remember the folder they were written to, and the trainer forgets the best score so far if it is another
    one: the first epoch after a move would take the place of the best weights, good or not.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = str((folder / "checkpoints").resolve())

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        for state in checkpoint["callbacks"].values():
            before = state.get("dirpath") if isinstance(state, dict) else None
            if before:
                state |= {key: self._moved(value, before) for key, value in state.items()}

    def _moved(self, value: Any, before: str) -> Any:
        if isinstance(value, dict):
            return {self._moved(key, before): one for key, one in value.items()}
        return self.folder + value.removeprefix(before) if str(value).startswith(before) else value


class EvenBuffers(Callback):
    """Gives every process the batch statistics of the first one before they share a validation.

    Where weights are averaged it comes after the callback that swaps the averaged ones in: those are what is validated.
    """

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if dist.is_available() and dist.is_initialized():
            for buffer in pl_module.buffers():
                dist.broadcast(buffer, 0)


class Divergence(Callback):
    """Ends a training whose weights are no numbers any more, before they are measured or kept as the last ones."""

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for name, tensor in pl_module.state_dict().items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise InputError(
                    f"{name.removeprefix('model.')} is not finite in epoch {trainer.current_epoch}, the training has "
                    "diverged: lower optim.lr or set engine.clip, and choose another --name; the best weights are kept"
                )

    on_train_epoch_end = on_validation_epoch_start  # epochs without a validation


class Interruption(Callback):
    """Ends a training at its next batch where an interruption got lost.

    Python ignores what is raised while objects are cleared away, as the loading processes are after every epoch.
    It listens from the start of the first epoch: by then the trainer has noted the handlers that it puts back.
    """

    def __init__(self) -> None:
        self.asked = self.listening = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if usual and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._hear)
            self.listening = True

    def _hear(self, number: int, frame: Any) -> None:
        self.asked = True
        raise KeyboardInterrupt

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        if self.asked:
            raise KeyboardInterrupt

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.listening:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self.listening = False

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.on_fit_end(trainer, pl_module)


class LastValidation(Callback):
    """Validates after the last epoch whatever the interval, so that no trained epoch goes unmeasured and unsaved."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch + 1 == trainer.max_epochs:
            trainer.check_val_every_n_epoch = 1

    on_train_start = on_train_epoch_start  # a run that goes on in the midst of its last epoch does not start it


class StepClock(Callback):
    """Logs the mean wait for data and the mean time of a step, apart, in milliseconds, and the seconds of an epoch."""

    def __init__(self) -> None:
        self.data = self.step = self.mark = self.begun = 0.0
        self.count = 0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.data = self.step = 0.0
        self.count = 0
        self.mark = self.begun = time.perf_counter()

    on_train_start = on_train_epoch_start  # in the midst of an epoch, for a run that goes on there

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        now = time.perf_counter()
        if index > 0:  # the first wait starts the loading processes
            self.data += now - self.mark
        self.mark = now

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx > 0:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.step += time.perf_counter() - self.mark
            self.count += 1
        self.mark = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.count:
            pl_module.log("data_ms", 1000 * self.data / self.count, rank_zero_only=True)
            pl_module.log("step_ms", 1000 * self.step / self.count, rank_zero_only=True)
        pl_module.log("seconds", time.perf_counter() - self.begun, rank_zero_only=True)  # validation included


class Pictures(Callback):
    """Draws truth beside prediction after each validation: a file per epoch and an image in TensorBoard."""

    def __init__(self, data: Any, folder: Path, count: int) -> None:
        self.data, self.folder, self.count = data, folder, count

    @rank_zero_only
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.count:
            return
        task: Any = pl_module
        picture = task.pictures(self.data.dataset("val"), self.count)
        write_image(self.folder / f"epoch_{trainer.current_epoch:03d}.jpg", picture)
        board = getattr(trainer.logger, "experiment", None)
        if board is not None:
            board.add_image("predictions", picture, trainer.current_epoch, dataformats="HWC")


class WeightsFile(Checkpoint):
    """Keeps weights/best.safetensors equal to the best checkpoint (the averaged weights where there are any).

    The metrics travel inside the checkpoint, so that a resumed run writes those that belong to it. The trainer calls
    callbacks of the class Checkpoint last and in their order; ``checkpoints`` must come before this one.
    """

    def __init__(self, checkpoints: ModelCheckpoint, path: Path) -> None:
        self.checkpoints, self.path = checkpoints, path
        self.written: float | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"written": self.written}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.written = state_dict["written"]

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        task: Any = pl_module
        checkpoint["results"] = task.results
        checkpoint["calibration"] = task.calibration and task.calibration.values()

    @rank_zero_only
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        score = self.checkpoints.best_model_score
        if trainer.state.fn != "fit" or score is None or float(score) == self.written:
            return
        checkpoint = torch.load(self.checkpoints.best_model_path, map_location="cpu", weights_only=True)
        prefix = "model."
        state = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
        task: Any = pl_module
        calibration = read_calibration(checkpoint["calibration"])
        save_artifact(self.path, state, task.run, task.labels, checkpoint["results"], calibration)
        write_text(self.path.with_suffix(".json"), json.dumps(checkpoint["results"], indent=2))
        self.written = float(score)


class MetricsTable(Callback):
    """metrics.csv: one row per epoch, kept over a resume, rewritten whole so that no row is ever half there.

    The trainer remembers the metrics of the last validation; an epoch without one gets none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.validated = -1  # epoch

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.validated = trainer.current_epoch

    @rank_zero_only
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        rows: list[dict[str, Any]] = []
        if self.path.exists():
            with self.path.open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if int(row["epoch"]) <= trainer.current_epoch]
        row: dict[str, Any] = {"epoch": trainer.current_epoch}
        if rows and int(rows[-1]["epoch"]) == trainer.current_epoch:
            same = rows.pop()
            # A run that goes on from its best checkpoint ends that epoch once more, without its validation.
            row |= same if trainer.ckpt_path else {}
        task: Any = pl_module
        stale = () if self.validated == trainer.current_epoch else task.results
        row |= {name: float(value) for name, value in sorted(trainer.callback_metrics.items()) if name not in stale}
        rows.append(row)
        names = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        table = csv.DictWriter(text, names, restval="", lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        write_text(self.path, text.getvalue())
