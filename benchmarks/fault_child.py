"""``polarpix train`` that tells how far it is, and whose loss may be spoilt at one batch.

    python benchmarks/fault_child.py UPDATES EPOCH:BATCH train --config PAGE

A line with the time of the machine's clock is added to the file UPDATES after every update, and to UPDATES.end when the
last word is said. At EPOCH:BATCH, which may be left empty (""), the loss is multiplied by NaN. All the rest is the
program's own.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from polarpix import cli
from polarpix.engine import fit


class Updates(Callback):
    """Writes down when each update was done."""

    def __init__(self, path: Path) -> None:
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        os.write(self.file, f"{time.monotonic()}\n".encode())


def spoil(epoch: int, batch: int) -> None:
    """Make a loss NaN."""
    for task, _ in fit.TASKS.values():
        usual = task.training_step

        def step(self: Any, found: Any, index: int, usual: Any = usual) -> Any:
            loss = usual(self, found, index)
            return loss * float("nan") if (self.trainer.current_epoch, index) == (epoch, batch) else loss

        task.training_step = step


if __name__ == "__main__":
    updates, place, *arguments = sys.argv[1:]
    usual = fit.training_callbacks
    fit.training_callbacks = lambda *found: [Updates(Path(updates)), *usual(*found)]
    if place:
        spoil(*map(int, place.split(":")))
    sys.argv = ["polarpix", *arguments]
    try:
        cli.main()
    finally:
        Path(f"{updates}.end").write_text(f"{time.monotonic()}\n")
