"""Boxes by other people's detectors: torchvision's, and RT-DETR, D-FINE and their like of transformers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import torch
from torch import Tensor

from polarpix.devices import find_device
from polarpix.errors import InputError
from polarpix.framed import FramedPoses, FramedSegs
from polarpix.sources import Frame
from polarpix.types import FloatArray, KeypointSchema, UInt8Array

__all__ = ["TORCHVISION", "Detector", "find_detector", "load_detector"]

TORCHVISION = (
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "fcos_resnet50_fpn",
    "retinanet_resnet50_fpn",
    "retinanet_resnet50_fpn_v2",
    "ssd300_vgg16",
    "ssdlite320_mobilenet_v3_large",
)
USUAL_THRESHOLD = 0.5  # where eval.box_threshold is 0: detectors give hundreds of boxes that are none
BODY = {"nose", "left_shoulder", "right_shoulder", "left_hip", "right_hip", "left_knee", "right_ankle", "head_top"}


class Detector(ABC):
    """A network that finds boxes of one class.

    Args:
        model: the network.
        labels: the index of each class the network knows, by name.
        device: where to compute.
    """

    def __init__(self, model: Any, labels: dict[str, int], device: torch.device) -> None:
        self.model = model.eval().to(device)
        self.labels, self.device = labels, device
        self.category, self.threshold = "", USUAL_THRESHOLD

    @abstractmethod
    def find(self, images: Sequence[UInt8Array]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Corners [N, 4] in pixels, scores [N] and labels [N] of each image [H, W, 3]."""

    @torch.no_grad()
    def __call__(self, images: Sequence[UInt8Array]) -> list[FloatArray]:
        """Boxes of the chosen class, best first: [N, 5] rows of x, y, width, height, score for each image [H, W, 3]."""
        rows = []
        for image, (corners, scores, labels) in zip(images, self.find(images), strict=True):
            chosen = (labels == self.labels[self.category]) & (scores >= self.threshold)
            corners, scores = corners[chosen].float().cpu(), scores[chosen].float().cpu()
            low = corners[:, :2].clamp(min=0)
            high = corners[:, 2:].minimum(torch.tensor([image.shape[1], image.shape[0]]))
            boxes = torch.cat((low, high - low, scores[:, None]), dim=1)
            boxes = boxes[(boxes[:, 2:4] > 0).all(dim=1)]
            rows.append(boxes[boxes[:, 4].argsort(descending=True, stable=True)].numpy())
        return rows

    def stream(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, FloatArray]]:
        """Each frame with its boxes; on a GPU several frames at a time, of a webcam one."""
        most = 1 if self.device.type == "cpu" else 8
        waiting: list[Frame] = []
        for frame in frames:
            waiting.append(frame)
            if len(waiting) >= most or frame.medium.kind == "webcam":
                yield from zip(waiting, self([one.image for one in waiting]), strict=True)
                waiting = []
        if waiting:
            yield from zip(waiting, self([one.image for one in waiting]), strict=True)


class TorchvisionDetector(Detector):
    """Any detector of torchvision."""

    def find(self, images: Sequence[UInt8Array]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """As the base says."""
        tensors = [torch.from_numpy(image.copy()).permute(2, 0, 1).to(self.device).float() / 255 for image in images]
        return [(found["boxes"], found["scores"], found["labels"]) for found in self.model(tensors)]


class TransformersDetector(Detector):
    """Any network of transformers' AutoModelForObjectDetection with its image processor."""

    def __init__(self, model: Any, processor: Any, labels: dict[str, int], device: torch.device) -> None:
        super().__init__(model, labels, device)
        self.processor = processor

    def find(self, images: Sequence[UInt8Array]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """As the base says."""
        inputs = self.processor(images=list(images), return_tensors="pt").to(self.device)
        sizes = [image.shape[:2] for image in images]
        found = self.processor.post_process_object_detection(
            self.model(**inputs), target_sizes=sizes, threshold=self.threshold
        )
        return [(one["boxes"], one["scores"], one["labels"]) for one in found]


def load_detector(
    name: str, schema: KeypointSchema, device: torch.device, category: str = "", threshold: float = 0.0
) -> Detector:
    """A detector by its name.

    Args:
        name: one of :data:`TORCHVISION`, alone or as NAME=FILE with a file of its weights; or a folder or a name on
            the hub of a network for transformers, such as PekingU/rtdetr_r18vd or ustc-community/dfine-nano-coco.
        schema: the skeleton that the boxes are for.
        device: where to compute.
        category: the class to look for, by name or number; by default the skeleton's own, persons for a body.
        threshold: boxes that score less are left out; 0 stands for 0.5.

    Raises:
        InputError: no such detector, no network to fetch it, a missing package, or a class that it does not know.
    """
    kind, _, file = name.partition("=")
    if kind in TORCHVISION:
        detector: Detector = load_torchvision(kind, file, device)
    else:
        detector = load_transformers(name, device)
    detector.category = choose_category(detector.labels, category, schema, name)
    detector.threshold = threshold or USUAL_THRESHOLD
    return detector


def find_detector(predictor: FramedPoses | FramedSegs, name: str, category: str, device: str) -> Detector:
    """The detector for a predictor's skeleton and threshold, on the device of that name.

    Raises:
        InputError: a predictor that takes no boxes, no such device, or as :func:`load_detector` says.
    """
    if not isinstance(predictor, FramedPoses):
        raise InputError(f"--detector {name}: a segmentation network takes no boxes: leave it out")
    return load_detector(name, predictor.schema, find_device(device), category, predictor.run.eval.box_threshold)


def load_torchvision(name: str, file: str, device: torch.device) -> Detector:
    """torchvision's detector, with its weights for COCO from a file or from torchvision's own address."""
    from torchvision.models import get_model, get_model_weights

    weights = next(iter(get_model_weights(name)))
    names = weights.meta["categories"]
    model = get_model(name, weights=None, weights_backbone=None, num_classes=len(names))
    try:
        if file:
            state = torch.load(file, map_location="cpu", weights_only=True)
        else:
            state = weights.get_state_dict(progress=False, check_hash=True)
        model.load_state_dict(state)
    except OSError as error:  # URLError is one
        where = f"{file}: cannot be read" if file else f"--detector {name}: its weights cannot be fetched"
        mend = "check the path" if file else f"check the network, or give {name}=FILE with {weights.url}"
        raise InputError(f"{where} ({getattr(error, 'reason', error)}): {mend}") from None
    except Exception as error:  # a pickle can fail in any way
        reason = str(error).splitlines()[0]
        raise InputError(f"{file or name}: holds no weights of {name} ({reason}): give its own file") from None
    return TorchvisionDetector(model, {label: index for index, label in enumerate(names) if label != "N/A"}, device)


def load_transformers(name: str, device: torch.device) -> Detector:
    """A network and its processor from a folder or from the hub."""
    known = f"choose one of {', '.join(TORCHVISION)}, a folder, or a name on the hub such as PekingU/rtdetr_r18vd"
    if not Path(name).is_dir() and name.count("/") != 1:
        raise InputError(f"--detector {name}: no such detector: {known}")
    try:
        import transformers
    except ImportError as error:
        raise InputError(f"--detector {name}: needs transformers: pip install 'polarpix[detect]'") from error
    here = Path(name).is_dir() or is_cached(name)
    if not here:
        reach_hub(name)
    try:
        loader: Any = transformers.AutoImageProcessor
        processor = loader.from_pretrained(name, local_files_only=here)
        model = transformers.AutoModelForObjectDetection.from_pretrained(name, local_files_only=here)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"--detector {name}: cannot be loaded ({reason}): check the name and the network, or give a folder"
        ) from None
    if not hasattr(processor, "post_process_object_detection"):
        raise InputError(f"--detector {name}: is no detector: {known}")
    return TransformersDetector(model, processor, {v: int(k) for k, v in model.config.id2label.items()}, device)


def is_cached(name: str) -> bool:
    """Whether a network of the hub was fetched before."""
    from huggingface_hub import constants, try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, "config.json", cache_dir=constants.HF_HUB_CACHE), str)


def reach_hub(name: str) -> None:
    """Say at once that there is no network; the hub's own client tries for minutes.

    Raises:
        InputError: the hub cannot be reached.
    """
    from huggingface_hub import constants

    try:
        urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=10).close()
    except HTTPError:
        return  # it answers
    except OSError as error:  # URLError is one
        raise InputError(
            f"--detector {name}: cannot be fetched ({getattr(error, 'reason', error)}): check the network, "
            "or give a folder that holds it"
        ) from None


def choose_category(labels: dict[str, int], category: str, schema: KeypointSchema, name: str) -> str:
    """The class to look for.

    Raises:
        InputError: the detector does not know it.
    """
    by_number = {str(index): label for label, index in labels.items()}
    wanted = by_number.get(category, category)
    if not wanted:
        body = schema.category not in labels and len(BODY & set(schema.names)) >= 3
        wanted = "person" if body else schema.category
    if wanted not in labels:
        known = ", ".join(list(labels)[:12]) + (", ..." if len(labels) > 12 else "")
        raise InputError(f"--detector {name}: knows no {wanted!r}: choose with --category one of {known}")
    return wanted
