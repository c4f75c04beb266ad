"""Parameters and multiply-adds of networks, counted on the meta device: nothing is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from polarpix.config import PoseRun, SegRun
from polarpix.engine.adopt import page_labels
from polarpix.engine.artifact import form_and_layout
from polarpix.pages import load_page, read_page
from polarpix.pose.model import build_pose_model
from polarpix.psa import PolarizedSelfAttention
from polarpix.published import published_row
from polarpix.seg.model import build_seg_model

__all__ = [
    "build_page",
    "cost_lines",
    "network_costs",
    "page_cost",
    "page_costs",
    "page_outputs",
    "page_size",
    "run_costs",
    "saved_by_collapse",
]


def count_convolution(x: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """Twice the weights times the output pixels, as HRNet's tool counts; of transposed convolutions, too.

    A transposed convolution of stride 2 then counts four times the multiply-adds that it needs.
    """
    return int(2 * x[0] * prod(out_shape[2:]) * prod(weight))


def multiply_adds(call: Callable[[], Any]) -> int:
    """Multiply-adds of the convolutions and matrix products of a call on the meta device."""
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution: count_convolution})
    with counter, torch.no_grad():
        call()
    return int(counter.get_total_flops()) // 2


def network_costs(network: nn.Module, size: tuple[int, int]) -> tuple[int, int]:
    """Parameters, and multiply-adds of convolutions and matrix products for one image of ``size`` (height, width)."""
    example = torch.empty(1, 3, *size, device="meta")
    macs = multiply_adds(lambda: network.eval()(example))
    return sum(p.numel() for p in network.parameters()), macs


def saved_by_collapse(maps: list[tuple[PolarizedSelfAttention, Tensor]]) -> int:
    """Multiply-adds that the collapsed form of blocks does without on the maps [B, C, H, W] they see."""
    known: dict[torch.Size, int] = {}
    for block, x in maps:
        if x.shape not in known:
            own, costs = block.impl, []
            for impl in ("reference", "collapsed"):
                block.impl = impl
                costs.append(multiply_adds(partial(block.gates, x)))
            block.impl = own
            known[x.shape] = costs[0] - costs[1]
    return sum(known[x.shape] for _, x in maps)


def page_outputs(run: PoseRun | SegRun) -> int:
    """Keypoints or classes of a page: what the page or the named set says, else those of COCO persons."""
    return len(page_labels(run).names)


def page_size(run: PoseRun | SegRun) -> tuple[int, int]:
    """Height and width that a page is counted at: its crop."""
    height, width = run.model.input_size if isinstance(run, PoseRun) else run.data.crop_size
    return height, width


def build_page(run: PoseRun | SegRun, outputs: int | None = None) -> nn.Module:
    """The network of a page on the meta device, without weights, its attention conv by conv.

    Args:
        run: the page; its weights and the implementation of its attention are changed to that.
        outputs: keypoints or classes; null for :func:`page_outputs`.
    """
    backbone = run.model.backbone
    run.model.weights = backbone.weights = None
    if backbone.attention.startswith("psa"):
        backbone.attention_options = backbone.attention_options | {"impl": "reference"}
    outputs = page_outputs(run) if outputs is None else outputs
    with torch.device("meta"):
        if isinstance(run, PoseRun):
            return build_pose_model(run.model, outputs)
        return build_seg_model(run.model, outputs)


def run_costs(run: PoseRun | SegRun, outputs: int | None = None) -> dict[str, int]:
    """``params``, ``macs`` and ``macs_collapsed`` of a page's network; see :func:`page_costs`.

    Args:
        run: the page; it stays as it is.
        outputs: keypoints or classes; null for :func:`page_outputs`.
    """
    network = build_page(deepcopy(run), outputs)
    maps: list[tuple[PolarizedSelfAttention, Tensor]] = []
    for block in network.modules():
        if isinstance(block, PolarizedSelfAttention):
            block.register_forward_pre_hook(lambda block, inputs: maps.append((block, inputs[0])))
    params, macs = network_costs(network, page_size(run))
    return {"params": params, "macs": macs, "macs_collapsed": macs - saved_by_collapse(maps)}


def page_cost(path: Path) -> dict[str, Any]:
    """The row of one page; see :func:`page_costs`."""
    run = load_page(path)
    form, layout = form_and_layout(run)
    published = published_row(path)
    return {
        "page": str(path),
        "task": run.task,
        "backbone": run.model.backbone.name,
        "attention": run.model.backbone.attention,
        "form": form or None,
        "layout": layout or None,
        "input": list(page_size(run)),
        **run_costs(run),
        "published": published.as_dict() if published else None,
    }


def page_costs(folder: Path) -> list[dict[str, Any]]:
    """One row per page below a folder: its network as the page builds it.

    ``macs`` counts conv by conv, as the paper does: every convolution and matrix product, attention as it is written
    down. ``macs_collapsed`` is what it takes with the collapsed form, which is what runs; a page without polarized
    self-attention has nothing to collapse. ``published`` is the row of the paper that the page reproduces, or null.

    A YAML file that names no task is no page. A segmentation network is counted on the training crop, a pose network on
    its crop. A pose page without a schema file is counted with the 17 keypoints of COCO, whatever its data turn out to
    hold.

    Raises:
        InputError: a page that is not in order.
    """
    pages = [path for path in sorted(folder.glob("**/*.yaml")) if "task" in read_page(path)]  # others are schemas
    return [page_cost(path) for path in pages]


def cost_lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    """The rows of :func:`page_costs` as a table for reading, then what keeps rows from the printed figures.

    A G is what it is in the row of the paper, for other pages 10^9.
    """
    wide = max((len(row["page"]) for row in rows), default=4) + 2
    head = (
        f"{'page':<{wide}}{'attention':<16}{'params':>9}{'printed':>9}{'mult-adds':>11}{'printed':>9}{'collapsed':>11}"
    )
    yield head
    for row in rows:
        told = row["published"] or {}
        giga = told.get("macs_per_giga", 10**9)
        macs, collapsed = (f"{row[key] / giga:.2f}G" for key in ("macs", "macs_collapsed"))
        yield (
            f"{row['page']:<{wide}}{row['attention']:<16}"
            f"{row['params'] / 1e6:>8.2f}M{told.get('params_printed') or '':>9}"
            f"{macs:>11}{told.get('macs_printed') or '':>9}{collapsed:>11}"
        )
    yield ""
    yield "printed: in the paper; collapsed: what attention costs as it runs; G: 2^30 beside tables 2 and 4, else 10^9"
    for row in rows:
        if row["published"] and row["published"]["differs"]:
            yield f"{row['page']}: {row['published']['differs']}"
