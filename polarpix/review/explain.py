"""`polarpix explain`: what the gates of every polarized self-attention do with given pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn
from tqdm import tqdm

from polarpix.box_files import boxes_of, parse_boxes
from polarpix.errors import InputError
from polarpix.gates import GateSpread, gate_spread, record_gates
from polarpix.images import list_images, normalize, read_image
from polarpix.predict import PosePredictor, SegPredictor
from polarpix.psa import PolarizedSelfAttention
from polarpix.results import check_boxes
from polarpix.types import UInt8Array

__all__ = ["BlockGates", "View", "explain", "views"]


@dataclass(frozen=True)
class View:
    """One picture as the network sees it."""

    name: str
    image: UInt8Array  # [H, W, 3]; for pose the crop of a box


@dataclass
class BlockGates:
    """The gates of one block for every view; None for the gate of a branch that the block does not have."""

    name: str
    channels: int
    kind: str  # form and layout, and the branch if there is only one
    flat: bool  # whether the form keeps the spatial gate almost constant by construction
    channel: list[GateSpread] = field(default_factory=list)
    spatial: list[GateSpread] = field(default_factory=list)
    strips: list[npt.NDArray[np.float32] | None] = field(default_factory=list)  # [C] of each view to be drawn
    heats: list[npt.NDArray[np.float32] | None] = field(default_factory=list)  # [h, w] likewise

    def constant(self, threshold: float) -> list[str]:
        """Which gates, "channel" and "spatial", are constant for every view."""
        return [
            word
            for word, spreads in (("channel", self.channel), ("spatial", self.spatial))
            if spreads and all(one.is_constant(threshold) for one in spreads)
        ]


def views(
    predictor: PosePredictor | SegPredictor, sources: Sequence[str], boxes: str = "", category: int | None = None
) -> list[tuple[Path, Any]]:
    """The pictures, each with its boxes [N, 4] for a pose network; the whole picture where no boxes are given.

    Raises:
        InputError: no picture, boxes that are none, boxes for a segmentation network, or for none of the pictures.
    """
    paths = list(dict.fromkeys(path for source in sources for path in list_images(source)))
    if isinstance(predictor, SegPredictor):
        if boxes:
            raise InputError(f"--boxes {boxes}: a segmentation network takes no boxes: leave them out")
        return [(path, None) for path in paths]
    table = parse_boxes(boxes, category)
    pairs = [(path, boxes_of(table, path)) for path in paths]
    pairs = [(path, rows) for path, rows in pairs if rows is None or len(rows)]
    if not pairs:
        raise InputError(f"--boxes {boxes}: no detection is of these images: match image_id or file_name to the files")
    return pairs


def look(predictor: PosePredictor | SegPredictor, path: Path, rows: Any) -> list[tuple[View, Any]]:
    """What the network sees of one picture, each view with its input [1, 3, H, W]."""
    image = read_image(path)
    if isinstance(predictor, SegPredictor):
        return [(View(path.name, image), predictor.inputs(image))]
    height, width = image.shape[:2]
    boxes, _ = check_boxes([[0, 0, width, height]] if rows is None else rows, image.shape, str(path))
    crops, _ = predictor.crops(image, boxes)  # [N, 3, H, W]
    names = [path.name if rows is None else f"{path.name}, box {','.join(f'{v:g}' for v in box)}" for box in boxes]
    return [
        (View(name, crop.permute(1, 2, 0).numpy()), normalize(crop[None].to(predictor.device)))
        for name, crop in zip(names, crops, strict=True)
    ]


def explain(
    predictor: PosePredictor | SegPredictor, pairs: Sequence[tuple[Path, Any]], drawn: int
) -> tuple[list[BlockGates], list[View], int]:
    """The gates of every block for every view of the pictures.

    Args:
        predictor: the network.
        pairs: as :func:`views` gives them.
        drawn: of so many views the gates themselves are kept; of the others their spread.

    Returns:
        The blocks in the network's order, the views that are kept, and how many there were.

    Raises:
        InputError: a network without polarized self-attention, or a picture that cannot be read.
    """
    blocks = blocks_of(predictor.model)
    kept: list[View] = []
    count = 0
    for path, rows in tqdm(pairs, desc="explain", unit="image"):
        for view, inputs in look(predictor, path, rows):
            for name, gates in record_gates(predictor.model, inputs).items():
                block = blocks[name]
                for gate, spreads, maps, shape in zip(
                    gates, (block.channel, block.spatial), (block.strips, block.heats), (1, 2), strict=True
                ):
                    array = None if gate is None else gate.float().cpu().numpy()[0]
                    if array is not None:
                        spreads.append(gate_spread(array))
                        array = array.reshape(array.shape[:1] if shape == 1 else array.shape[1:])
                    if count < drawn:
                        maps.append(array)
            if count < drawn:
                kept.append(view)
            count += 1
    return list(blocks.values()), kept, count


def blocks_of(network: nn.Module) -> dict[str, BlockGates]:
    """Every polarized self-attention of a network, by its name, without gates yet.

    Raises:
        InputError: there is none.
    """
    found: dict[str, BlockGates] = {}
    for name, block in network.named_modules():
        if isinstance(block, PolarizedSelfAttention):
            branch = "" if block.branches == "both" else f", {block.branches} only"
            kind = f"{block.form}, {block.layout}{branch}"
            found[name] = BlockGates(name, block.channels, kind, block.form == "released" and block.spatial is not None)
    if not found:
        raise InputError(
            "the network has no polarized self-attention, so there are no gates to show: "
            "take one trained with attention psa_p or psa_s"
        )
    return found
