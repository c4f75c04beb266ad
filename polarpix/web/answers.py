"""What the JSON endpoint answers, as pydantic models: they are the OpenAPI page."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, Field

from polarpix.types import KeypointSchema

__all__ = ["Answer", "ErrorLine", "Health", "ModelCard", "PoseAnswer", "SegAnswer", "answer"]


class ErrorLine(BaseModel):
    """What went wrong, in one line."""

    error: str = Field(examples=["photo.jpg: image is 20000x20000: at most 16000000 pixels are taken, make it smaller"])


class Health(BaseModel):
    """The server's state."""

    status: Literal["ok"] = "ok"
    version: str
    device: str = Field(examples=["cpu"])
    waiting: int = Field(description="Requests that wait for the network.")


class ModelCard(BaseModel):
    """One of the networks that the server was started with."""

    name: str = Field(description="What a request calls it.")
    task: Literal["pose", "seg"]
    outputs: list[str] = Field(description="Names of the keypoints or classes, in the order of the answers.")
    takes_boxes: bool = Field(description="Whether it looks at one box at a time.")
    backbone: str
    attention: str
    calibrated: bool = Field(description="Whether its scores are probabilities.")
    blocks: list[str] = Field(description="Its polarized self-attentions that can be looked into.")
    exported: bool = Field(description="An exported file: it answers alike, but has no heatmaps or gates to show.")


class Keypoint(BaseModel):
    """One keypoint of an instance."""

    name: str
    x: float = Field(description="Pixels from the centre of the leftmost pixel.")
    y: float = Field(description="Pixels from the centre of the topmost pixel.")
    score: float = Field(description="Probability of lying in place, where the network is calibrated; else unscaled.")
    covariance: tuple[tuple[float, float], tuple[float, float]] = Field(description="Square pixels, rows x and y.")


class Instance(BaseModel):
    """What was found in one box."""

    box: tuple[float, float, float, float] = Field(description="x, y, width, height in pixels.")
    box_score: float
    score: float = Field(description="Box score times the mean score of the keypoints.")
    keypoints: list[Keypoint]


class Rle(BaseModel):
    """A mask in COCO's compressed run-length code."""

    size: tuple[int, int] = Field(description="Height and width in pixels.")
    counts: str


class ClassMask(BaseModel):
    """The pixels of one class; together the masks cover the picture."""

    class_index: int = Field(description="As in the label PNG of networks without file values of their own.")
    name: str
    score: float = Field(description="Mean confidence of its pixels.")
    share: float = Field(description="Part of the picture's pixels, 0 to 1.")
    segmentation: Rle


class PoseAnswer(BaseModel):
    """Keypoints of every box, after OKS-NMS; fewer instances than boxes may come back."""

    task: Literal["pose"] = "pose"
    model: str
    width: int
    height: int
    names: list[str]
    skeleton: list[tuple[int, int]] = Field(description="Pairs of keypoints that are drawn as lines.")
    instances: list[Instance]


class SegAnswer(BaseModel):
    """One mask per class that occurs."""

    task: Literal["seg"] = "seg"
    model: str
    width: int
    height: int
    names: list[str]
    masks: list[ClassMask]


Answer = Annotated[PoseAnswer | SegAnswer, Field(discriminator="task")]


def answer(model: str, result: Any) -> PoseAnswer | SegAnswer:
    """The result of a predictor as it is sent.

    Args:
        model: the network's name.
        result: what the predictor gave, of either task.
    """
    height, width = result.image.shape[:2]
    if hasattr(result, "schema"):
        schema: KeypointSchema = result.schema
        skeleton = [(int(a), int(b)) for a, b in schema.skeleton]
        return PoseAnswer(
            model=model,
            width=width,
            height=height,
            names=list(schema.names),
            skeleton=skeleton,
            instances=instances(result.prediction, schema.names),
        )
    names = list(result.classes.names)
    label = result.prediction.label
    shares = np.bincount(label.ravel(), minlength=len(names)) / label.size
    masks = []
    for row in result.to_coco():
        index = int(row["category_id"]) - 1
        code = Rle(size=tuple(row["segmentation"]["size"]), counts=row["segmentation"]["counts"])
        masks.append(
            ClassMask(class_index=index, name=names[index], score=row["score"], share=shares[index], segmentation=code)
        )
    return SegAnswer(model=model, width=width, height=height, names=names, masks=masks)


def instances(found: Any, names: tuple[str, ...]) -> list[Instance]:
    """The instances of a pose prediction, the best first."""
    rows = []
    for i in np.argsort(-found.instance_scores, kind="stable"):
        points = zip(
            names, found.keypoints[i].tolist(), found.scores[i].tolist(), found.covariance[i].tolist(), strict=True
        )
        rows.append(
            Instance(
                box=tuple(found.boxes[i].tolist()),
                box_score=float(found.box_scores[i]),
                score=float(found.instance_scores[i]),
                keypoints=[
                    Keypoint(name=name, x=x, y=y, score=score, covariance=covariance)
                    for name, (x, y), score, covariance in points
                ],
            )
        )
    return rows
