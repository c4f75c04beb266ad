"""Predictions of a whole split -> instance scores, NMS, COCO results, and every metric of the protocol."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from polarpix.config import PoseDataConfig, PoseEvalConfig, PoseRun
from polarpix.errors import InputError
from polarpix.pose.coco import CocoKeypoints
from polarpix.pose.inference import instance_scores
from polarpix.pose.nme import mean_error, nme, rmse
from polarpix.pose.oks import OKS_METRICS, coco_results, evaluate_oks, oks_nms
from polarpix.pose.pck import pck, reference_length, reference_pair
from polarpix.pose.schema import load_schema
from polarpix.types import FloatArray, KeypointSchema

__all__ = ["evaluate_pose", "metric_names", "open_split", "pose_protocol"]


def open_split(
    data: PoseDataConfig, evaluation: PoseEvalConfig, split: str, known: KeypointSchema | None = None
) -> CocoKeypoints:
    """The "train", "val" or "test" split of a page; the last two with the boxes of the protocol.

    Args:
        data: the page's files.
        evaluation: the page's protocol.
        split: which.
        known: the skeleton where it need not be read from ``data.schema``.

    Raises:
        InputError: the page names no such split, or its files are not as they should be.
    """
    annotations = {"train": data.train_annotations, "val": data.val_annotations, "test": data.test_annotations}[split]
    images = {"train": data.train_images, "val": data.val_images, "test": data.test_images}[split]
    if annotations is None or images is None:
        raise InputError(f"data.{split}_annotations or data.{split}_images is empty on this page: name both")
    root = Path(data.root)
    detected = split != "train" and evaluation.boxes != "gt"
    if split != "train" and not detected and evaluation.box_threshold > 0:
        raise InputError(
            f"eval.box_threshold is {evaluation.box_threshold:g} with eval.boxes gt, which have no score: "
            "set it to 0, or name the detections"
        )
    return CocoKeypoints(
        root / annotations,
        root / images,
        schema=known or (load_schema(data.schema) if data.schema else None),
        boxes=evaluation.boxes if detected else None,
        names_from=root / data.train_annotations if split == "test" else None,
        box_threshold=evaluation.box_threshold if detected else 0.0,
        whole_image=data.whole_image and not detected,
        training=split == "train",
    )


def evaluate_pose(
    dataset: CocoKeypoints, keypoints: FloatArray, scores: FloatArray, config: PoseEvalConfig, padding: float
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Metrics and COCO results of the predictions for every instance of a split.

    OKS AP and AR, or nothing where the labels are with a server; with annotated boxes also the mean error and RMSE in
    pixels, the NME, and PCK where the protocol names thresholds, all over the instances before NMS.

    Args:
        dataset: N instances.
        keypoints: predicted, image pixels [N, K, 2].
        scores: of each keypoint [N, K].
        config: the protocol.
        padding: factor on the box that gave the crop; the padded box's area is the scale of OKS-NMS (HRNet).
    """
    instances = dataset.instances
    box_scores = np.array([one.box_score for one in instances], np.float32)  # [N]
    totals = instance_scores(torch.from_numpy(scores), torch.from_numpy(box_scores), config.visibility).numpy()  # [N]
    boxes = np.stack([one.box for one in instances])  # [N, 4]
    image_ids = np.array([one.image_id for one in instances])  # [N]
    areas = boxes[:, 2] * boxes[:, 3] * padding**2  # [N]
    kept: list[int] = []
    for image_id in np.unique(image_ids):
        rows = np.flatnonzero(image_ids == image_id)
        winners = oks_nms(keypoints[rows], totals[rows], areas[rows], dataset.schema.sigmas, config.oks_nms)
        kept += rows[winners].tolist()
    results = coco_results(image_ids[kept].tolist(), keypoints[kept], scores[kept], totals[kept], dataset.category_id)
    if not dataset.labelled:
        return {}, results
    metrics = evaluate_oks(dataset.annotations, results, dataset.schema.sigmas, dataset.category_id)
    if config.boxes == "gt":
        metrics |= point_metrics(dataset, keypoints, boxes, config)
    return {name: value for name, value in metrics.items() if not math.isnan(value)}, results


def metric_names(config: PoseEvalConfig, schema: KeypointSchema) -> list[str]:
    """The metrics that :func:`evaluate_pose` can give by a protocol.

    Raises:
        InputError: the protocol measures by two keypoints that the schema does not have.
    """
    names = list(OKS_METRICS)
    if config.boxes == "gt":
        if config.pck_reference is not None:
            reference_pair(schema, config.pck_reference)
        names += ["mean_error", "RMSE", "NME"]
        for threshold in config.pck:
            names += [f"PCK@{threshold:g}", *(f"PCK@{threshold:g}/{name}" for name in schema.names)]
    return names


def point_metrics(
    dataset: CocoKeypoints, keypoints: FloatArray, boxes: FloatArray, config: PoseEvalConfig
) -> dict[str, float]:
    """Errors in pixels, NME and PCK of predictions [N, K, 2] that belong to annotations one to one."""
    truth = np.stack([one.keypoints for one in dataset.instances])  # [N, K, 2]
    visibility = np.stack([one.visibility for one in dataset.instances])  # [N, K]
    reference = reference_length(truth, visibility, boxes, dataset.schema, config.pck_reference)  # [N]
    metrics = {
        "mean_error": mean_error(keypoints, truth, visibility),
        "RMSE": rmse(keypoints, truth, visibility),
        "NME": nme(keypoints, truth, visibility, reference),
    }
    for threshold in config.pck:
        mean, each = pck(keypoints, truth, visibility, reference, threshold)
        metrics[f"PCK@{threshold:g}"] = mean
        metrics |= {f"PCK@{threshold:g}/{name}": float(v) for name, v in zip(dataset.schema.names, each, strict=True)}
    return metrics


def protocol_name(run: PoseRun) -> str:
    """Which boxes a network was given; figures of two protocols cannot be compared (COCO: about 2 AP apart)."""
    if run.eval.boxes != "gt":
        return "detected_boxes"
    return "whole_image" if run.data.whole_image else "gt_boxes"


def pose_protocol(run: PoseRun, dataset: CocoKeypoints) -> dict[str, Any]:
    """Everything the figures depend on besides the weights, in words and numbers."""
    config = run.eval
    return {
        "protocol": protocol_name(run),
        "annotations": str(dataset.annotations),
        "annotations_sha256": dataset.annotations_sha256,
        "images": dataset.image_count,
        "images_with_boxes": len({one.image_id for one in dataset.instances}),
        "instances": len(dataset),
        "boxes": "ground truth" if config.boxes == "gt" else config.boxes,
        "boxes_sha256": dataset.boxes_sha256,
        "detector_ap": config.detector_ap,
        "whole_image": run.data.whole_image,
        "box_threshold": config.box_threshold,
        "box_padding": run.data.box_padding,
        "input_size": list(run.model.input_size),
        "codec": run.model.codec,
        "scales": [1.0],  # one crop of each box
        "flip_test": config.flip_test,
        "shift_flipped": config.shift_flipped,
        "oks_nms": config.oks_nms,
        "visibility": config.visibility,
        "sigmas": list(dataset.schema.sigmas),
        "sigmas_from": dataset.schema.sigmas_from,
        "pck_reference": config.pck_reference or "longer side of the box",
    }
