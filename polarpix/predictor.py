"""Any file of a network to its predictor; torch is imported only for files that need it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from polarpix.errors import InputError
from polarpix.framed import check_batch
from polarpix.runtime.predictors import ExportedPosePredictor, ExportedSegPredictor, load_exported
from polarpix.zoo import is_exported

if TYPE_CHECKING:
    from polarpix.predict import PosePredictor, SegPredictor

__all__ = ["load"]


def load(
    path: str | Path,
    device: str = "auto",
    overrides: Sequence[str] = (),
    config: str | Path = "",
    batch: int | None = None,
) -> PosePredictor | SegPredictor | ExportedPosePredictor | ExportedSegPredictor:
    """A predictor from a weights file, a run folder, a model's name, or an exported file.

    Args:
        path: weights/best.safetensors, the run folder that holds it, or a published checkpoint with a page for it; or
            a file of ``polarpix export``: .onnx, which needs onnxruntime and no torch, .pt2 or .xml; "body" or
            "street", the models in the box; "user/name", a model on the Hugging Face Hub.
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", ...
        overrides: page options such as ``--eval.flip_test=false``.
        config: a page to predict by instead of the one inside the weights file.
        batch: crops or images per forward pass; by default 32 crops, 1 image.

    Raises:
        InputError: no such file, one that does not fit, a device that is not there, a runtime that is not installed,
            or options for an exported file, whose protocol is fixed.
    """
    if not is_exported(path):
        from polarpix.predict import load as load_weights

        return load_weights(path, device, overrides, config, batch)
    if config or overrides:
        given = f"--config {config}" if config else overrides[0]
        raise InputError(f"{path}: exported, its protocol is fixed, {given} cannot change it: export again with it")
    return load_exported(path, device, check_batch(batch))
