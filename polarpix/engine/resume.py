"""Whether a run may start or go on in its folder, and from which checkpoint."""

from __future__ import annotations

import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from polarpix.backbones.files import check_archive
from polarpix.config import PoseRun, SegRun
from polarpix.engine.artifact import load_artifact, write_text
from polarpix.errors import InputError
from polarpix.pages import flatten, load_page, page_text

__all__ = ["check_checkpoint", "prepare_folder"]

# What a checkpoint brings along: on a page that goes on with it, another value would do harm or nothing at all.
IN_OPTIMIZER = ("name", "lr", "backbone_lr", "attention_lr", "weight_decay", "decay_norm")
STARTING = ("model.backbone.weights", "model.weights", "model.strict")  # what a run started from
PARTS = {"state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks", "pytorch-lightning_version"}


def prepare_folder(run: PoseRun | SegRun, labels: Any, folder: Path, resume: bool) -> Path | None:
    """Refuse to write over a run or to continue one of another page; give the checkpoint to go on from, if any.

    Raises:
        InputError: the folder holds a run and ``resume`` is false, or one that cannot be continued.
    """
    last, page, weights = (
        folder / name for name in ("checkpoints/last.ckpt", "config.yaml", "weights/best.safetensors")
    )
    begun = weights.exists() and not last.exists()
    if begun and not in_first_epoch(folder):
        raise InputError(f"{weights}: is of a run without {last.name}, which cannot go on: choose another --name")
    if (last.exists() or begun) and not resume:
        raise InputError(f"{folder} already holds a run: add --resume to continue it, or choose another --name")
    if last.exists() and page.exists():
        before, now = (kept_keys(one) for one in (load_page(page), run))
        changed = next((key for key in now if now[key] != before.get(key)), None)
        if changed:
            raise InputError(
                f"{last}: trained with {changed} {before.get(changed)!r}, the page says {now[changed]!r}: "
                "change it back, or choose another --name"
            )
    if last.exists() and weights.exists() and load_artifact(weights).labels.names != labels.names:
        raise InputError(f"{last}: trained on other labels than the data has: choose another --name")
    if last.exists():
        check_checkpoint(last)
    write_text(page, page_text(run))
    return last if last.exists() else None


def in_first_epoch(folder: Path) -> bool:
    """Whether what lies here is of a run that was cut off at the end of its first epoch, and may start anew.

    Best checkpoint and weights are written before the last checkpoint is.
    """
    best, table = folder / "checkpoints" / "best.ckpt", folder / "metrics.csv"
    rows = table.read_text().splitlines()[1:] if table.exists() else []
    if not best.exists() or len(rows) > 1:
        return False
    try:
        return bool(check_checkpoint(best).get("epoch") == 0)
    except InputError:
        return False


def kept_keys(run: PoseRun | SegRun) -> dict[str, Any]:
    """The keys of a page, dotted, that must not change between two halves of a run."""
    return {
        key: value
        for key, value in flatten(asdict(run)).items()
        if (key.startswith("model.") and key not in STARTING)
        or (key.startswith("optim.") and key.removeprefix("optim.") in IN_OPTIMIZER)
    }


def check_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint from end to end, so that damage is one line before anything starts; gives what it holds.

    Raises:
        InputError: the file is cut off or damaged, no checkpoint of a training, or holds objects whose reading runs
            code; nothing in it is run.
    """
    best = path.with_name("best.ckpt")
    other = f"copy {best} over it to go on from the best epoch" if best.exists() else "copy it again"
    mend = f"{other}, or choose another --name"
    try:
        check_archive(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(f"{path}: holds more than a training writes, and could run code: {mend}") from error
    except Exception as error:  # a damaged pickle can raise anything
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise InputError(f"{path}: checkpoint is damaged or cut off ({reason:.100}): {mend}") from error
    if not isinstance(content, dict) or not content.keys() >= PARTS:
        raise InputError(f"{path}: is no checkpoint of a training: {mend}")
    return content
