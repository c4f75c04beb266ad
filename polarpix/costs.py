"""Parameters and multiply-adds of networks, counted on the meta device: nothing is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from polarpix.config import PoseRun, SegRun
from polarpix.pages import load_page, read_page
from polarpix.pose.model import build_pose_model
from polarpix.pose.schema import COCO_SIGMAS, load_schema
from polarpix.seg.classes import CAMVID, CITYSCAPES, VOC
from polarpix.seg.model import build_seg_model

__all__ = ["network_costs", "page_costs"]


def network_costs(network: nn.Module, size: tuple[int, int]) -> tuple[int, int]:
    """Parameters, and multiply-adds of convolutions and matrix products for one image of ``size`` (height, width)."""
    example = torch.empty(1, 3, *size, device="meta")
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network.eval()(example)
    return sum(p.numel() for p in network.parameters()), counter.get_total_flops() // 2


def page_outputs(run: PoseRun | SegRun) -> int:
    """Heatmaps or classes of a page: what the page or the named set says, else those of COCO persons."""
    if isinstance(run, SegRun):
        known = {"camvid": CAMVID, "voc": VOC, "voc_aug": VOC, "cityscapes": CITYSCAPES}
        return len(run.data.classes or known[run.data.format].names)
    if run.data.schema:
        return len(load_schema(run.data.schema).names)
    return len(COCO_SIGMAS)


def page_costs(folder: Path) -> list[dict[str, Any]]:
    """One row per page below a folder: its network as the page builds it, attention counted conv by conv.

    A YAML file that names no task is no page. A segmentation network is counted on the training crop, a pose network on
    its crop. A pose page without a schema file is counted with the 17 keypoints of COCO, whatever its data turn out to
    hold.

    Raises:
        InputError: a page that is not in order.
    """
    rows: list[dict[str, Any]] = []
    for path in sorted(folder.glob("**/*.yaml")):
        if "task" not in read_page(path):  # a keypoint schema
            continue
        run = load_page(path)
        backbone = run.model.backbone
        backbone.weights = None
        if backbone.attention.startswith("psa"):
            backbone.attention_options = backbone.attention_options | {"impl": "reference"}
        with torch.device("meta"):
            if isinstance(run, PoseRun):
                size: tuple[int, int] = (run.model.input_size[0], run.model.input_size[1])
                network: nn.Module = build_pose_model(run.model, page_outputs(run))
            else:
                size = (run.data.crop_size[0], run.data.crop_size[1])
                network = build_seg_model(run.model, page_outputs(run))
        params, macs = network_costs(network, size)
        rows.append(
            {
                "page": str(path),
                "task": run.task,
                "backbone": backbone.name,
                "attention": backbone.attention,
                "input": list(size),
                "params": params,
                "macs": macs,
            }
        )
    return rows
