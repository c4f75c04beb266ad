"""Train a page: seed, trainer, callbacks, resume."""

from __future__ import annotations

import difflib
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
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
from pytorch_lightning.utilities.exceptions import SIGTERMException

from polarpix.backbones.extract import is_hrnet
from polarpix.backbones.insert import attention_blocks, convert_sync_batchnorm
from polarpix.config import PoseRun, SegRun
from polarpix.engine.artifact import load_artifact, save_artifact
from polarpix.engine.callbacks import (
    Divergence,
    EpochSeed,
    EvenBuffers,
    Interruption,
    LastValidation,
    MetricsTable,
    MovedFolder,
    Pictures,
    StepClock,
    WeightsFile,
)
from polarpix.engine.ending import Ending
from polarpix.engine.faults import FiniteLoss, LostWorker, Termination, Unreadable, peer_lost
from polarpix.engine.folder import Presence, WholeFiles, held, missed
from polarpix.engine.optim import build_optimizer, build_schedule
from polarpix.engine.resume import prepare_folder
from polarpix.errors import InputError, TerminatedError
from polarpix.page_parts import EngineConfig
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
    "run_trainer",
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

    Where a head reads some maps of the pyramid only, what the others alone need gets no gradient: behind a linear head,
    and in an HRNet, which computes all of its maps at once.
    """
    if run.engine.strategy == "ddp" or several_processes(run.engine):
        unread = run.model.head == "linear" or is_hrnet(run.model.backbone.name)
        return DDPStrategy(broadcast_buffers=False, find_unused_parameters=unread)
    return run.engine.strategy


def several_processes(engine: EngineConfig) -> bool:
    """Whether a page with strategy auto asks for more than one process, all GPUs of this machine counted for auto."""
    devices = str(engine.devices)
    if devices in ("auto", "-1"):
        count = torch.cuda.device_count() if engine.accelerator in ("auto", "gpu", "cuda") else 1
    else:
        count = int(devices) if devices.isdigit() else devices.count(",") + 1
    return count > 1 or engine.nodes > 1


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
    warnings.filterwarnings("ignore", ".*broadcast_buffers. is deprecated.*")  # Lightning 2.6 knows no other name
    warnings.filterwarnings("ignore", ".*sync_dist=True.*")  # our metrics are of the whole split already


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
            callbacks=[*callbacks, LostWorker(), Bar()],
            plugins=[WholeFiles()],
            logger=logger,
            log_every_n_steps=1,
            enable_model_summary=False,
        )
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise InputError(
            f"engine.accelerator {engine.accelerator}, devices {engine.devices}: {' '.join(str(error).split())}: "
            "set --engine.accelerator auto --engine.devices auto"
        ) from error


def training_callbacks(run: Run, data: Data, folder: Path, ending: Ending) -> list[Callback]:
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
        Interruption(),
        MovedFolder(folder),
        Presence(folder),
        FiniteLoss(folder / "checkpoints" / "last.ckpt"),
        EpochSeed(run.seed),
        StepClock(),
        LastValidation(),
        LearningRateMonitor(logging_interval="epoch"),
        Pictures(data, folder / "pictures", run.engine.pictures),
    ]
    if run.engine.skip_unreadable:
        callbacks.append(Unreadable())
    if run.engine.ema:
        callbacks.append(EMAWeightAveraging(decay=run.engine.ema))
    callbacks += [EvenBuffers(), Divergence(), MetricsTable(folder / "metrics.csv")]
    callbacks += [Termination(data, folder / "checkpoints" / "last.ckpt", ending)]
    callbacks += [checkpoints, WeightsFile(checkpoints, folder / "weights" / "best.safetensors"), last]
    return callbacks


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


def run_trainer(trainer: pl.Trainer, step: Callable[..., Any], *args: Any, **options: Any) -> None:
    """Call ``trainer.fit``, ``validate`` or ``test``; an interruption stays a ``KeyboardInterrupt``.

    The trainer ends its work in order and then leaves the program without a word.

    Raises:
        TerminatedError: the process was asked to end.
        InputError: a loading process died, or another process of the training.
    """
    try:
        step(*args, **options)
    except SIGTERMException:
        raise TerminatedError("asked to end, and ended in order: add --resume to go on") from None
    except SystemExit:
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise
    except RuntimeError as error:
        callbacks: list[Callback] = getattr(trainer, "callbacks", [])
        noted = next((one.line for one in callbacks if isinstance(one, LostWorker)), "")
        line = noted or (peer_lost(error) if trainer.world_size > 1 else "")
        if not line:
            raise
        raise InputError(line) from error


def fit(run: Run, resume: bool = False, ending: Ending | None = None) -> Fitted:
    """Train a page and leave runs/<task>/<name>/: config, checkpoints, weights, metrics, pictures, TensorBoard.

    Args:
        run: the page.
        resume: continue from the last checkpoint if there is one; the result is that of an uninterrupted run.
        ending: entered by a command that does more than to train, and wants to end in order then too.

    Raises:
        InputError: the folder already holds a run and ``resume`` is false, another process trains in it, or the page or
            its data are not in order.
        TerminatedError: the process was asked to end.
    """
    with held(run_folder(run)):
        return _fit(run, run_folder(run), resume, ending or Ending())


def _fit(run: Run, folder: Path, resume: bool, ending: Ending) -> Fitted:
    pl.seed_everything(run.seed, workers=True, verbose=False)
    data = build_data(run)
    labels = data.labels
    data.dataset("val")
    task = build_task(run, labels, configure)
    check_monitor(run, task.metric_names)
    last = prepare_folder(run, labels, folder, resume)
    logger = TensorBoardLogger(save_dir=folder, name="", version="tensorboard")
    trainer = build_trainer(run, folder, training_callbacks(run, data, folder, ending), logger)
    share_batchnorm(run, task, trainer)
    with missed(folder):
        run_trainer(trainer, trainer.fit, task, datamodule=data, ckpt_path=last, weights_only=True)
    weights = folder / "weights" / "best.safetensors"
    if first_process() and not weights.exists():  # no epoch at all: the weights as they started
        save_artifact(weights, task.model.state_dict(), run, labels, task.results)
    return Fitted(folder, weights, load_artifact(weights).metrics if first_process() else task.results)
