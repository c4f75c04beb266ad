"""Train a page: seed, trainer, callbacks, resume."""

from __future__ import annotations

import difflib
import json
import logging
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch.distributed as dist
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import (
    Callback,
    EMAWeightAveraging,
    LearningRateMonitor,
    ModelCheckpoint,
    TQDMProgressBar,
)
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.strategies import DDPStrategy, Strategy

from polarpix.backbones.insert import attention_blocks, convert_sync_batchnorm
from polarpix.config import PoseRun, SegRun
from polarpix.engine.artifact import load_artifact, save_artifact, write_text
from polarpix.engine.callbacks import (
    EpochSeed,
    EvenBuffers,
    LastValidation,
    MetricsTable,
    Pictures,
    StepClock,
    WeightsFile,
)
from polarpix.engine.optim import build_optimizer, build_schedule
from polarpix.errors import InputError
from polarpix.pages import flatten, load_page, page_text
from polarpix.pose.task import PoseData, PoseTask
from polarpix.seg.task import SegData, SegTask

__all__ = [
    "LOWER_IS_BETTER",
    "TASKS",
    "Fitted",
    "build_data",
    "build_task",
    "build_trainer",
    "first_process",
    "fit",
    "run_folder",
]

Run = PoseRun | SegRun
Task = PoseTask | SegTask
Data = PoseData | SegData

LOWER_IS_BETTER = ("mean_error", "RMSE", "NME")
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


def first_process() -> bool:
    """Whether this process is the one of a distributed run that writes and prints; true where there is only one."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


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


def strategy_of(run: Run) -> str | Strategy:
    """Buffers are made even once before each validation, not at every forward: ranks may differ by one batch there.

    A linear head reads one map of the pyramid; what only the other maps need gets no gradient.
    """
    if run.engine.strategy == "ddp":
        return DDPStrategy(broadcast_buffers=False, find_unused_parameters=run.model.head == "linear")
    return run.engine.strategy


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
    warnings.filterwarnings("ignore", ".*in eval mode at the start of training.*")
    warnings.filterwarnings("ignore", ".*LeafSpec.*")


def build_trainer(run: Run, folder: Path, callbacks: list[Callback], logger: Any = False) -> pl.Trainer:
    """The trainer of a page; samplers are ours (see :mod:`polarpix.loading`).

    Raises:
        InputError: an accelerator or a number of devices that this machine does not have.
    """
    engine = run.engine
    quiet()
    try:
        return pl.Trainer(
            default_root_dir=folder,
            accelerator=engine.accelerator,
            devices=engine.devices if engine.accelerator != "cpu" or engine.devices != "auto" else 1,
            num_nodes=engine.nodes,
            strategy=strategy_of(run),
            precision=engine.precision,
            max_epochs=engine.epochs,
            accumulate_grad_batches=engine.accumulate,
            gradient_clip_val=engine.clip or None,
            check_val_every_n_epoch=engine.eval_every,
            num_sanity_val_steps=0,
            deterministic=engine.deterministic,
            use_distributed_sampler=False,
            callbacks=[*callbacks, Bar()],
            logger=logger,
            log_every_n_steps=1,
            enable_model_summary=False,
        )
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise InputError(
            f"engine.accelerator {engine.accelerator}, devices {engine.devices}: {' '.join(str(error).split())}: "
            "set --engine.accelerator auto --engine.devices auto"
        ) from error


def training_callbacks(run: Run, data: Data, folder: Path) -> list[Callback]:
    """In this order: pictures are drawn before the averaged weights are swapped out again after a validation, buffers
    are made even after they are swapped in. The trainer itself moves the checkpoints and the weights file to the end.
    """
    mode = "min" if run.monitor in LOWER_IS_BETTER else "max"
    checkpoints = ModelCheckpoint(
        dirpath=folder / "checkpoints",
        filename="best",
        monitor=run.monitor,
        mode=mode,
        enable_version_counter=False,
        save_on_train_epoch_end=False,
    )
    # Lightning's own save_last writes only when a new best was found: a resume would lose every epoch since.
    last = ModelCheckpoint(
        dirpath=folder / "checkpoints", filename="last", enable_version_counter=False, save_on_train_epoch_end=True
    )
    callbacks: list[Callback] = [
        EpochSeed(run.seed),
        StepClock(),
        LastValidation(),
        LearningRateMonitor(logging_interval="epoch"),
        Pictures(data, folder / "pictures", run.engine.pictures),
    ]
    if run.engine.ema:
        callbacks.append(EMAWeightAveraging(decay=run.engine.ema))
    callbacks += [EvenBuffers(), MetricsTable(folder / "metrics.csv")]
    callbacks += [checkpoints, WeightsFile(checkpoints, folder / "weights" / "best.safetensors"), last]
    return callbacks


def prepare_folder(run: Run, labels: Any, folder: Path, resume: bool) -> Path | None:
    """Refuse to write over a run or to continue one of another network; give the checkpoint to go on from, if any."""
    last, page, weights = (
        folder / name for name in ("checkpoints/last.ckpt", "config.yaml", "weights/best.safetensors")
    )
    if last.exists() and not resume:
        raise InputError(f"{folder} already holds a run: add --resume to continue it, or choose another --name")
    if last.exists() and page.exists():
        before, now = (flatten(asdict(one.model)) for one in (load_page(page), run))
        changed = next((key for key in now if now[key] != before.get(key) and key != "backbone.weights"), None)
        if changed:
            raise InputError(
                f"{last}: trained with model.{changed} {before.get(changed)!r}, the page says {now[changed]!r}: "
                "change it back, or choose another --name"
            )
    if last.exists() and weights.exists() and load_artifact(weights).labels.names != labels.names:
        raise InputError(f"{last}: trained on other labels than the data has: choose another --name")
    write_text(page, page_text(run))
    return last if last.exists() else None


def check_monitor(run: Run, names: list[str]) -> None:
    """Refuse a metric that no validation of this page gives, before it is trained."""
    if run.monitor not in names:
        lower = {name.lower(): name for name in names}
        near = difflib.get_close_matches(run.monitor.lower(), lower, n=1)
        main = ", ".join(name for name in names if "/" not in name)
        mend = f"did you mean {lower[near[0]]!r}?" if near else f"choose one of {main}"
        raise InputError(f"monitor is {run.monitor!r}, which the validation does not give: {mend}")


def share_batchnorm(run: Run, task: Any, trainer: pl.Trainer) -> None:
    """Let the processes of a run share batch statistics, where the page says so."""
    if not run.engine.sync_batchnorm:
        return
    if trainer.world_size > 1 and trainer.strategy.root_device.type == "cpu":
        raise InputError("engine.sync_batchnorm works on GPUs only: set it to false, or train in one process")
    task.model = convert_sync_batchnorm(task.model)


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
    task = build_task(run, labels, configure)
    check_monitor(run, task.metric_names)
    last = prepare_folder(run, labels, folder, resume)
    logger = TensorBoardLogger(save_dir=folder, name="", version="tensorboard")
    trainer = build_trainer(run, folder, training_callbacks(run, data, folder), logger)
    share_batchnorm(run, task, trainer)
    trainer.fit(task, datamodule=data, ckpt_path=last, weights_only=False if last else None)
    weights = folder / "weights" / "best.safetensors"
    if first_process() and not weights.exists():  # no epoch at all: the weights as they started
        save_artifact(weights, task.model.state_dict(), run, labels, task.results)
    best = folder / "weights" / "best.json"
    metrics = json.loads(best.read_text()) if best.exists() else task.results
    return Fitted(folder, weights, metrics)
