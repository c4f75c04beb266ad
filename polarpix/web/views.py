"""What can be looked at: overlay, heatmaps and gates of one picture, by predictors and the functions of `draw`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, TypeGuard

import cv2
import numpy as np
import torch
from torch import Tensor

from polarpix.draw import draw_boxes, draw_gates, draw_heatmaps
from polarpix.errors import InputError
from polarpix.gates import attention_blocks, record_gates
from polarpix.images import normalize
from polarpix.pose.inference import predict_heatmaps
from polarpix.predict import PosePredictor, SegPredictor
from polarpix.results import PoseResult, SegResult
from polarpix.runtime.predictors import ExportedPosePredictor, ExportedSegPredictor
from polarpix.seg.multiscale import predict_probabilities
from polarpix.sheet import tile
from polarpix.types import FloatArray, UInt8Array

__all__ = [
    "ALL",
    "BOXES",
    "FOUND",
    "LAYERS",
    "SEALED",
    "Predictor",
    "blocks",
    "can_look_inside",
    "device_of",
    "gate_picture",
    "heatmap_picture",
    "label_png",
    "outputs",
    "overlay",
    "png",
]

OpenPredictor = PosePredictor | SegPredictor  # whose network can be looked into
Predictor = OpenPredictor | ExportedPosePredictor | ExportedSegPredictor
Boxes = Sequence[Sequence[float]] | None

ALL = "all"
FOUND, BOXES = "keypoints or masks", "boxes"
LAYERS = (FOUND, BOXES)
SIDE = 640  # pixels that small pictures are enlarged to, by a whole factor
THUMB = 240  # pixels of each class on the sheet
SEALED = (
    "an exported file gives results only: for its heatmaps and gates serve the weights file that it was exported from"
)


def can_look_inside(predictor: Predictor) -> TypeGuard[OpenPredictor]:
    """Whether there are heatmaps and gates to be shown; an exported file keeps them to itself."""
    return isinstance(predictor, OpenPredictor)


def outputs(predictor: Predictor) -> tuple[str, ...]:
    """Names of the keypoints or classes."""
    if isinstance(predictor, PosePredictor | ExportedPosePredictor):
        return predictor.schema.names
    return predictor.classes.names


def blocks(predictor: Predictor) -> list[str]:
    """Names of the polarized self-attentions that can be looked into, in order."""
    return list(attention_blocks(predictor.model)) if can_look_inside(predictor) else []


def device_of(predictor: Predictor) -> str:
    """Where it computes."""
    return str(predictor.device) if can_look_inside(predictor) else "chosen by the exported file's runtime"


def enlargement(image: UInt8Array) -> int:
    """The whole factor that makes a small picture large enough to be looked at."""
    longer: int = max(image.shape[:2])
    return max(1, SIDE // longer)


def overlay(result: Any, layers: Collection[str] = (FOUND,), zoom: int = 0) -> UInt8Array:
    """The picture with what was found on it.

    Args:
        result: what a predictor gave.
        layers: what is drawn, of :data:`LAYERS`.
        zoom: whole factor; 0 enlarges small pictures.
    """
    zoom = zoom or enlargement(result.image)
    nothing = np.zeros((0, 4), np.float32)
    picture: UInt8Array = result.plot(zoom=zoom) if FOUND in layers else draw_boxes(result.image, nothing, zoom=zoom)
    if BOXES in layers and hasattr(result.prediction, "boxes"):
        # Drawn on the enlarged picture: boxes are measured from corner to corner, so they only scale.
        picture = draw_boxes(picture, np.asarray(result.prediction.boxes) * zoom)
    return picture


def first_box(image: UInt8Array, boxes: Boxes) -> FloatArray:
    """The box [1, 4] that is looked into: the first, or the whole picture."""
    height, width = image.shape[:2]
    return np.asarray([boxes[0][:4] if boxes else [0, 0, width, height]], np.float32)


def network_input(predictor: OpenPredictor, image: UInt8Array, boxes: Boxes) -> tuple[UInt8Array, Tensor]:
    """The picture [H, W, 3] that the network sees, the crop of the first box or all of it, and the same normalised."""
    if isinstance(predictor, SegPredictor):
        return image, predictor.inputs(image)
    crops, _ = predictor.crops(image, first_box(image, boxes))  # [1, 3, H, W]
    return np.ascontiguousarray(crops[0].permute(1, 2, 0).numpy()), normalize(crops.to(predictor.device))


def heatmap_picture(predictor: Predictor, image: UInt8Array, boxes: Boxes, name: str = ALL) -> UInt8Array:
    """Heatmaps of the first box's keypoints, or probabilities of the classes, over what the network saw.

    Args:
        predictor: the network.
        image: picture [H, W, 3].
        boxes: as for the predictor; the first counts.
        name: a keypoint or class; "all" for the keypoints together, or a sheet of the classes.

    Raises:
        InputError: no such keypoint or class, or an exported file.
    """
    if not can_look_inside(predictor):
        raise InputError(SEALED)
    names = outputs(predictor)
    if name != ALL and name not in names:
        raise InputError(f"no output {name!r}: choose {ALL} or one of {', '.join(names)}")
    if isinstance(predictor, PosePredictor):
        return keypoint_glow(predictor, image, boxes, name)
    probabilities = class_probabilities(predictor, image)  # [C, H, W]
    if name != ALL:
        return draw_heatmaps(image, probabilities[[names.index(name)]], top=1.0, zoom=enlargement(image))
    step = max(1, max(image.shape[:2]) // THUMB)
    small = np.ascontiguousarray(image[::step, ::step])
    cells = [draw_heatmaps(small, one[None, ::step, ::step], top=1.0) for one in probabilities]
    return tile(cells, columns=4, captions=list(names))


@torch.no_grad()
def keypoint_glow(predictor: PosePredictor, image: UInt8Array, boxes: Boxes, name: str) -> UInt8Array:
    """The heatmaps that the keypoints of the first box are read from, over its crop."""
    protocol, channels = predictor.run.eval, predictor.codec.channels_per_keypoint
    crops, _ = predictor.crops(image, first_box(image, boxes))  # [1, 3, H, W]
    maps = predict_heatmaps(
        predictor.model,
        crops.to(predictor.device),
        predictor.schema.flip_order if protocol.flip_test else None,
        protocol.shift_flipped,
        predictor.run.engine.channels_last,
        channels,
    )
    found = maps[0, ::channels].cpu().numpy()  # [K, h, w]
    seen = np.ascontiguousarray(crops[0].permute(1, 2, 0).numpy())  # [H, W, 3]
    if name == ALL:
        return draw_heatmaps(seen, found, predictor.schema, zoom=enlargement(seen))
    return draw_heatmaps(seen, found[[outputs(predictor).index(name)]], zoom=enlargement(seen))


@torch.no_grad()
def class_probabilities(predictor: SegPredictor, image: UInt8Array) -> FloatArray:
    """Probabilities [C, H, W] by the protocol of the network's page."""
    run = predictor.run
    found = predict_probabilities(predictor.model, predictor.inputs(image), run.eval, run.data.crop_size)
    return np.asarray(found[0].cpu().numpy(), np.float32)


def gate_picture(predictor: Predictor, image: UInt8Array, boxes: Boxes, block: str) -> UInt8Array:
    """Spatial and channel gate of one polarized self-attention over what the network saw of the first box.

    A branch that the block does not have is drawn as a gate of 1.

    Raises:
        InputError: no such block, a network without any, or an exported file.
    """
    if not can_look_inside(predictor):
        raise InputError(SEALED)
    seen, x = network_input(predictor, image, boxes)
    gates = record_gates(predictor.model, x)
    if block not in gates:
        raise InputError(f"no block {block!r}: choose one of {', '.join(gates)}")
    channel, spatial = (np.ones((1, 1)) if one is None else one[0].float().cpu().numpy() for one in gates[block])
    return draw_gates(seen, channel, spatial, zoom=enlargement(seen))


def png(picture: UInt8Array) -> bytes:
    """A picture [H, W, 3] as a PNG file."""
    _, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    return data.tobytes()


def label_png(result: PoseResult | SegResult) -> bytes:
    """The label map of a segmentation result as its ``save_label`` writes it.

    Raises:
        InputError: the result is of a pose network, which has none.
    """
    if not isinstance(result, SegResult):
        raise InputError("a pose network has no label map: ask for keypoints, or choose a segmentation network")
    return result.label_bytes()
