"""Train a page: seed, trainer, callbacks, resume."""

from __future__ import annotations

import json
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import (
    Callback,
    EMAWeightAveraging,
    LearningRateMonitor,
    ModelCheckpoint,
    TQDMProgressBar,
)
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.strategies import DDPStrategy, Strategy

from polarpix.backbones.insert import attention_blocks
from polarpix.config import EngineConfig, PoseRun, SegRun
from polarpix.engine.artifact import save_artifact, write_text
from polarpix.engine.callbacks import EpochSeed, EvenBuffers, MetricsTable, Pictures, StepClock, WeightsFile
from polarpix.engine.optim import build_optimizer, build_schedule
from polarpix.errors import InputError
from polarpix.pages import page_text
from polarpix.pose.task import PoseData, PoseTask
from polarpix.seg.task import SegData, SegTask

__all__ = ["LOWER_IS_BETTER", "TASKS", "Fitted", "build_data", "build_task", "build_trainer", "fit", "run_folder"]

Run = PoseRun | SegRun
Task = PoseTask | SegTask
Data = PoseData | SegData

LOWER_IS_BETTER = ("mean_error", "RMSE", "NME", "loss")
TASKS: dict[str, tuple[type[Any], type[Any]]] = {"pose": (PoseTask, PoseData), "seg": (SegTask, SegData)}


@dataclass(frozen=True)
class Fitted:
    """A finished run: its folder, its best weights file and that file's validation metrics."""

    folder: Path
    weights: Path
    metrics: dict[str, float]


def run_folder(run: Run) -> Path:
    """runs/<task>/<name>."""
    return Path(run.out) / run.task / run.name


def build_data(run: Run) -> Data:
    """The splits of a page."""
    data: Data = TASKS[run.task][1](run)
    return data


def build_task(run: Run, labels: Any, optimizers: Any = None) -> Task:
    """The network, loss and metric of a page."""
    task: Task = TASKS[run.task][0](run, labels, optimizers)
    return task


def configure(task: Any) -> dict[str, Any]:
    """Optimiser and per-update schedule, as Lightning asks for them."""
    run = task.run
    attention = attention_blocks(task.model.backbone).values()
    optimizer = build_optimizer(task.model, task.model.backbone, attention, run.optim)
    total = int(task.trainer.estimated_stepping_batches)
    schedule = build_schedule(optimizer, total, run.engine.epochs, run.optim)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def strategy_of(engine: EngineConfig) -> str | Strategy:
    """Buffers are made even once before each validation, not at every forward: ranks may differ by one batch there."""
    if engine.strategy == "ddp":
        return DDPStrategy(broadcast_buffers=False)
    return engine.strategy


class Bar(TQDMProgressBar):
    """Lightning's progress bar without the logger's version."""

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        return {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}


def quiet() -> None:
    """Silence what Lightning and torch say about themselves; warnings about the user's data and settings stay."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*Checkpoint directory .* exists.*")
    warnings.filterwarnings("ignore", ".*modules in eval mode at the start of training.*")
    warnings.filterwarnings("ignore", ".*LeafSpec.*")


def build_trainer(run: Run, folder: Path, callbacks: list[Callback], logger: Any = False) -> pl.Trainer:
    """The trainer of a page; samplers are ours (see :mod:`polarpix.loading`)."""
    engine = run.engine
    quiet()
    return pl.Trainer(
        default_root_dir=folder,
        accelerator=engine.accelerator,
        devices=engine.devices if engine.accelerator != "cpu" or engine.devices != "auto" else 1,
        num_nodes=engine.nodes,
        strategy=strategy_of(engine),
        precision=engine.precision,
        max_epochs=engine.epochs,
        accumulate_grad_batches=engine.accumulate,
        gradient_clip_val=engine.clip or None,
        sync_batchnorm=engine.sync_batchnorm,
        check_val_every_n_epoch=engine.eval_every,
        num_sanity_val_steps=0,
        deterministic=engine.deterministic,
        use_distributed_sampler=False,
        callbacks=[*callbacks, Bar()],
        logger=logger,
        log_every_n_steps=1,
        enable_model_summary=False,
    )


def training_callbacks(run: Run, data: Data, folder: Path) -> list[Callback]:
    """In this order: what draws and measures sees the averaged weights, which the last callback swaps in and out."""
    mode = "min" if run.monitor in LOWER_IS_BETTER else "max"
    checkpoints = ModelCheckpoint(
        dirpath=folder / "checkpoints",
        filename="best",
        monitor=run.monitor,
        mode=mode,
        save_last=True,
        enable_version_counter=False,
        save_on_train_epoch_end=False,
    )
    callbacks: list[Callback] = [
        EpochSeed(run.seed),
        StepClock(),
        LearningRateMonitor(logging_interval="epoch"),
        Pictures(data, folder / "pictures", run.engine.pictures),
        EvenBuffers(),
    ]
    if run.engine.ema:
        callbacks.append(EMAWeightAveraging(decay=run.engine.ema))
    callbacks += [checkpoints, WeightsFile(checkpoints, folder / "weights" / "best.safetensors")]
    callbacks.append(MetricsTable(folder / "metrics.csv"))
    return callbacks


def prepare_folder(run: Run, folder: Path, resume: bool) -> Path | None:
    """Refuse to write over a run; give the checkpoint to go on from, if any."""
    last = folder / "checkpoints" / "last.ckpt"
    if last.exists() and not resume:
        raise InputError(f"{folder} already holds a run: add --resume to continue it, or choose another --name")
    write_text(folder / "config.yaml", page_text(run))
    return last if last.exists() else None


def fit(run: Run, resume: bool = False) -> Fitted:
    """Train a page and leave runs/<task>/<name>/: config, checkpoints, weights, metrics, pictures, TensorBoard.

    Args:
        run: the page.
        resume: continue from the last checkpoint if there is one; the result is that of an uninterrupted run.

    Raises:
        InputError: the folder already holds a run and ``resume`` is false, or the page or its data are not in order.
    """
    folder = run_folder(run)
    pl.seed_everything(run.seed, workers=True, verbose=False)
    data = build_data(run)
    labels = data.labels
    data.dataset("val")
    last = prepare_folder(run, folder, resume)
    task = build_task(run, labels, configure)
    logger = TensorBoardLogger(save_dir=folder, name="", version="tensorboard")
    trainer = build_trainer(run, folder, training_callbacks(run, data, folder), logger)
    trainer.fit(task, datamodule=data, ckpt_path=last, weights_only=False if last else None)
    weights = folder / "weights" / "best.safetensors"
    if not weights.exists():
        save_artifact(weights, task.model.state_dict(), run, labels, task.results)
    best = folder / "weights" / "best.json"
    metrics = json.loads(best.read_text()) if best.exists() else task.results
    return Fitted(folder, weights, metrics)
