"""What can end a training from outside or from the data, and what is kept then: one small callback each."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from polarpix.engine.ending import Ending
from polarpix.errors import InputError
from polarpix.loading import Loader

__all__ = ["FiniteLoss", "LostWorker", "Termination", "Unreadable", "peer_lost"]


class FiniteLoss(Callback):
    """Ends a training at a loss that is no number, before it reaches the weights, and names the pictures of that batch.

    Args:
        last: where the last checkpoint is kept.
    """

    def __init__(self, last: Path) -> None:
        self.last = last
        self.index: Tensor | None = None  # [B]
        self.number = 0

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        self.index, self.number = batch.index, index

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        if bool(torch.isfinite(loss)) or self.index is None:
            return
        train: Any = trainer.train_dataloader
        names = list(dict.fromkeys(train.dataset.file(int(i)) for i in self.index))
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        kept = f"{self.last} is kept" if self.last.exists() else "no epoch was finished"
        raise InputError(
            f"the loss is {loss.item()} in epoch {trainer.current_epoch}, batch {self.number} "
            f"({', '.join(names[:8])}{more}); {kept}: the training has diverged, or these pictures or their labels are "
            "wrong: look at them, lower optim.lr or set engine.clip, and choose another --name"
        )


class Termination(Callback):
    """Saves where it is when the process is asked to end (SIGTERM); a resumed run goes on behind its last batch.

    One process writes the checkpoint in the midst of an epoch, where gradients are not being accumulated; several
    processes, and a batch in the midst of an accumulation, leave that of the last epoch.

    Args:
        data: its ``start`` is set for the loader of a resumed run.
        last: where the last checkpoint is kept.
        ending: what hears the signal for the whole command; it waits from the moment that the trainer hears it.
    """

    def __init__(self, data: Any, last: Path, ending: Ending) -> None:
        self.data, self.last, self.ending = data, last, ending
        self.batches = 0  # of the epoch, when a checkpoint is written in its midst
        self.numbers: Tensor | None = None  # the state of torch's generator to go on with

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.ending.wait()

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self.batches, "numbers": torch.get_rng_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.data.start = int(state_dict["batches"])
        self.numbers = state_dict["numbers"] if self.data.start else None

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        if self.numbers is not None:
            torch.set_rng_state(self.numbers)
            self.numbers = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        done = batch_idx + 1
        whole = done % trainer.accumulate_grad_batches == 0 and done < trainer.num_training_batches
        if trainer.received_sigterm and trainer.world_size == 1 and whole:
            self.batches = done
            trainer.save_checkpoint(self.last)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.batches = self.data.start = 0


class Unreadable(Callback):
    """Counts and names, after each epoch, the training pictures that could not be read and were passed over."""

    def __init__(self) -> None:
        self.told: set[str] = set()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        train: Any = trainer.train_dataloader
        names = sorted(set(train.unreadable()))
        pl_module.log("unreadable", float(len(names)), reduce_fx="max", sync_dist=True)
        new = [name for name in names if name not in self.told]
        if new:
            self.told |= set(new)
            more = f" and {len(new) - 8} more" if len(new) > 8 else ""
            warnings.warn(
                f"{len(new)} of {len(train.dataset)} training samples cannot be read and are passed over: "
                f"{', '.join(new[:8])}{more}: fetch or save them again",
                stacklevel=1,  # the trainer's own warnings are printed with the path of its file before them
            )


class LostWorker(Callback):
    """Notes which picture a loading process died on: what the trainer raises then does not know it."""

    def __init__(self) -> None:
        self.line = ""

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if not isinstance(exception, RuntimeError) or "DataLoader worker" not in str(exception):
            return
        loaders: list[Any] = [trainer.train_dataloader, trainer.val_dataloaders, trainer.test_dataloaders]
        lost = [line for one in loaders for line in (one.lost() if isinstance(one, Loader) else [])]
        told = "; ".join(lost) or str(exception).splitlines()[0]
        self.line = (
            f"a loading process ended: {told}: look at that picture and at the free memory, lower engine.workers, "
            "and add --resume"
        )


def peer_lost(error: RuntimeError) -> str:
    """The line for an error that means that another process of the training is gone; empty for any other."""
    text = " ".join(str(error).split())
    signs = ("closed by peer", "reset by peer", "Connection refused", "Broken pipe", "NCCL", "timed out", "Timed out")
    if not isinstance(error, torch.distributed.DistError) and not any(sign in text for sign in signs):
        return ""
    return (
        f"another process of this training ended or cannot be reached ({text:.160}): see what it printed last; "
        "add --resume to go on from the last epoch"
    )
