"""A published checkpoint with a page in the place of an own weights file, for evaluation and prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from torch import nn

from polarpix.backbones.weights import load_network
from polarpix.config import PoseRun, SegRun
from polarpix.engine.artifact import Artifact, form_and_layout, load_artifact
from polarpix.errors import InputError
from polarpix.pages import load_page
from polarpix.pose.model import build_pose_model
from polarpix.pose.schema import COCO_SIGMAS, load_schema, schema_from_category
from polarpix.seg.classes import CAMVID, CITYSCAPES, VOC, voc_palette
from polarpix.seg.model import build_seg_model
from polarpix.types import ClassTable, KeypointSchema
from polarpix.zoo import find_weights

__all__ = ["adopt", "open_weights", "page_labels"]

TABLES = {"camvid": CAMVID, "voc": VOC, "voc_aug": VOC, "cityscapes": CITYSCAPES}


def page_labels(run: PoseRun | SegRun) -> KeypointSchema | ClassTable:
    """What the outputs of a page's network mean, without its data: a pose page names a schema, or is of COCO persons.

    Raises:
        InputError: a schema file that is not in order, or a plain folder set without class names.
    """
    if isinstance(run, PoseRun):
        if run.data.schema:
            return load_schema(run.data.schema)
        return schema_from_category({"name": "person", "keypoints": list(COCO_SIGMAS)}, "COCO persons")
    if run.data.format in TABLES:
        return TABLES[run.data.format]
    if not run.data.classes:
        raise InputError("data.classes is empty: name the classes of the folder set")
    return ClassTable(names=tuple(run.data.classes), colors=voc_palette(len(run.data.classes)))


def adopt(path: str | Path, run: PoseRun | SegRun) -> Artifact:
    """What a weights file would hold if a page had been trained to a published checkpoint.

    Args:
        path: a checkpoint of the page's whole network.
        run: the page; whatever its ``model.strict`` says, everything has to fit.

    Raises:
        InputError: a file that is no such checkpoint, or does not fill the network, inserted attention included.
    """
    labels = page_labels(run)
    run.model.backbone.weights = run.model.weights = None
    network: nn.Module
    if isinstance(run, PoseRun):
        network = build_pose_model(run.model, len(labels.names))
    else:
        network = build_seg_model(run.model, len(labels.names))
    missing = load_network(network, path).missing
    if missing:  # attention that the file knows nothing of
        raise InputError(f"{path}: has no {missing[0]}: set model.backbone.attention to none, or train from it first")
    form, layout = form_and_layout(run)
    return Artifact(
        task=run.task,
        run=asdict(run),
        labels=labels,
        metrics={},
        commit="",
        state=network.state_dict(),
        file=str(path),
        form=form,
        layout=layout,
    )


def open_weights(path: str | Path, config: str | Path = "", options: Sequence[str] = ()) -> Artifact:
    """A weights file of an own run or, with a page for it, a published checkpoint.

    Args:
        path: weights/best.safetensors, a run folder, a model's name, or a torch file (.pth, .pt, .tar, ...).
        config: the page; a published checkpoint has none inside.
        options: changes to it.

    Raises:
        InputError: no such file, a published checkpoint without a page, or one that does not fit it.
    """
    path = find_weights(path)
    if Path(path).is_dir() or Path(path).suffix == ".safetensors" or not Path(path).is_file():
        return load_artifact(path)
    if Path(path).suffix in (".onnx", ".pt2", ".xml"):
        raise InputError(f"{path}: exported, only predict and serve take it: give the weights file it was made from")
    if not config:
        raise InputError(
            f"{path}: not a weights file of an own run, and a published checkpoint has no page inside: add --config "
            f"PAGE ('polarpix models --check {path}' says which)"
        )
    return adopt(path, load_page(config, options))
