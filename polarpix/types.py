"""What travels: the value classes that every step of the two tasks reads and writes.

Axis letters, the same everywhere: B batch, N instances of one image, K keypoints, C channels or classes,
H, W image height and width in pixels, h, w height and width of a heatmap. Images are RGB. Points are (x, y) in pixels
of the image they belong to, with the centre of the top-left pixel at (0, 0). Boxes are (x, y, width, height).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from polarpix.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Batch",
    "ClassTable",
    "FloatArray",
    "IntArray",
    "KeypointSchema",
    "PoseBatch",
    "PosePrediction",
    "PoseSample",
    "SegBatch",
    "SegPrediction",
    "SegSample",
    "UInt8Array",
]

UInt8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class KeypointSchema:
    """Names, symmetry, drawing lines and OKS sigmas of one kind of skeleton; indices count from 0.

    ``sigmas_from`` says where the sigmas come from ("coco", "schema file", "default ...") and goes into every report.

    Raises:
        InputError: an index outside the names, a sigma that is not positive, or lengths that differ.
    """

    names: tuple[str, ...]
    flip_pairs: tuple[tuple[int, int], ...]
    skeleton: tuple[tuple[int, int], ...]
    sigmas: tuple[float, ...]
    sigmas_from: str
    category: str = "object"

    def __post_init__(self) -> None:
        k = len(self.names)
        if not k:
            raise InputError("keypoint schema has no names: list at least one")
        if len(set(self.names)) != k:
            raise InputError(f"keypoint schema names repeat: {self.names!r:.200}")
        if len(self.sigmas) != k:
            raise InputError(f"keypoint schema has {len(self.sigmas)} sigmas for {k} names: give one per name")
        if any(not s > 0 for s in self.sigmas):
            raise InputError(f"keypoint schema sigmas must be positive: {self.sigmas!r:.200}")
        for key, pairs in (("flip_pairs", self.flip_pairs), ("skeleton", self.skeleton)):
            for pair in pairs:
                if len(pair) != 2 or not all(0 <= i < k for i in pair):
                    raise InputError(f"keypoint schema {key} holds {pair}: indices must lie in 0..{k - 1}")
        swapped = [i for pair in self.flip_pairs for i in pair]
        if len(set(swapped)) != len(swapped):
            raise InputError(f"keypoint schema flip_pairs name a keypoint twice: {self.flip_pairs!r:.200}")

    @property
    def flip_order(self) -> tuple[int, ...]:
        """The permutation [K] that swaps left and right: ``flipped = keypoints[flip_order]``."""
        order = list(range(len(self.names)))
        for a, b in self.flip_pairs:
            order[a], order[b] = b, a
        return tuple(order)


@dataclass(frozen=True)
class ClassTable:
    """Names and colours of the classes of a segmentation set; a label is an index here or ``ignore``."""

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    ignore: int = 255

    def __post_init__(self) -> None:
        if not self.names:
            raise InputError("class table has no names: list at least one class")
        if len(self.colors) != len(self.names):
            raise InputError(
                f"class table has {len(self.colors)} colors for {len(self.names)} names: give one per name"
            )
        if 0 <= self.ignore < len(self.names):
            raise InputError(f"ignore label {self.ignore} is also class {self.names[self.ignore]!r}: choose another")


@dataclass(frozen=True)
class PoseSample:
    """One annotated or detected instance with its picture, as a data set gives it."""

    image: UInt8Array  # [H, W, 3]
    keypoints: FloatArray  # [K, 2], pixels of `image`
    visibility: IntArray  # [K], COCO: 0 not labelled, 1 hidden, 2 visible
    box: FloatArray  # [4], x, y, width, height
    area: float  # square pixels, as annotated: the scale of OKS
    file: str
    image_id: int
    instance_id: int  # the annotation's id, or the position in the detection file
    box_score: float = 1.0  # 1 for annotated boxes


@dataclass(frozen=True)
class Batch:
    """Tensors that move to a device together."""

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """The same batch elsewhere; takes what ``Tensor.to`` takes."""
        return type(self)(**{f.name: getattr(self, f.name).to(*args, **kwargs) for f in fields(self)})

    def pin_memory(self) -> Self:
        """The same batch in page-locked memory, from where a GPU reads faster."""
        return type(self)(**{f.name: getattr(self, f.name).pin_memory() for f in fields(self)})


@dataclass(frozen=True)
class PoseBatch(Batch):
    """What a pose network trains and is evaluated on."""

    image: Tensor  # uint8 [B, 3, H, W], the crop
    target: Tensor  # float32 [B, K, h, w] (a codec with more channels: [B, M, h, w])
    weight: Tensor  # float32 [B, K], 0 where a keypoint must not be learned
    to_image: Tensor  # float32 [B, 2, 3], crop pixels -> image pixels
    index: Tensor  # int64 [B], position in the data set


@dataclass(frozen=True)
class SegSample:
    """One picture with its label map, as a data set gives it."""

    image: UInt8Array  # [H, W, 3]
    label: UInt8Array  # [H, W], class index or the table's ignore label
    file: str


@dataclass(frozen=True)
class SegBatch(Batch):
    """What a segmentation network trains and is evaluated on."""

    image: Tensor  # uint8 [B, 3, H, W]
    label: Tensor  # uint8 [B, H, W]
    index: Tensor  # int64 [B], position in the data set


@dataclass(frozen=True)
class PosePrediction:
    """The instances found on one image."""

    keypoints: FloatArray  # [N, K, 2], pixels of the original file as it is looked at (EXIF applied)
    scores: FloatArray  # [N, K], probability of lying in place where they are calibrated, else the heatmap's height
    boxes: FloatArray  # [N, 4], x, y, width, height
    box_scores: FloatArray  # [N]
    instance_scores: FloatArray = field(default_factory=lambda: np.zeros(0, np.float32))  # [N]
    covariance: FloatArray | None = None  # [N, K, 2, 2], square pixels

    def __post_init__(self) -> None:
        n = len(self.boxes)
        if self.keypoints.ndim != 3 or self.keypoints.shape[2] != 2:
            raise ValueError(f"keypoints are {self.keypoints.shape}; must be [N, K, 2]")
        for name in ("keypoints", "scores", "box_scores"):
            if len(getattr(self, name)) != n:
                raise ValueError(f"{name} hold {len(getattr(self, name))} instances, boxes {n}")
        if len(self.instance_scores) != n:
            mean = self.scores.mean(axis=1) if n else np.zeros(0, np.float32)
            object.__setattr__(self, "instance_scores", (self.box_scores * mean).astype(np.float32))
        shape = (*self.keypoints.shape, 2)
        if self.covariance is not None and self.covariance.shape != shape:
            raise ValueError(f"covariance is {self.covariance.shape}; must be {shape}")


@dataclass(frozen=True)
class SegPrediction:
    """The label map of one image."""

    label: UInt8Array  # [H, W], class index
    confidence: FloatArray  # [H, W], probability of that class, calibrated where the weights say how
