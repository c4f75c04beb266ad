"""A predictor's network, preprocessing and decoding traced into one program of plain operations."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import Graph, Node

from polarpix.calibration import covariance_fit
from polarpix.errors import InputError
from polarpix.export.formats import Signature
from polarpix.export.graph import PoseGraph, SegGraph
from polarpix.predict import PosePredictor, SegPredictor

__all__ = ["graph_of", "trace", "traced"]

BATCH = 2  # sizes of 1 would be taken for fixed ones
ODD_SIZE = (75, 101)  # no multiple of any stride
CHECKS = (torch.ops.aten._assert_scalar.default, torch.ops.aten._assert_tensor_metadata.default)


def trace(predictor: PosePredictor | SegPredictor, size: tuple[int, int] | None) -> tuple[ExportedProgram, Signature]:
    """The program of a predictor on the CPU, by its page's protocol.

    Args:
        predictor: whose network.
        size: height and width that a segmentation network is fixed to; null for images of any size.

    Raises:
        InputError: sliding windows over images of any size, whose number cannot be in a graph; or a network that the
            tracer cannot follow.
    """
    if isinstance(predictor, PosePredictor):
        height, width = predictor.run.model.input_size
        inputs: tuple[Tensor, ...] = (_picture(height, width), torch.eye(2, 3).repeat(BATCH, 1, 1))
        signature = Signature(("image", "to_image"), ("keypoints", "scores", "covariance"), ("batch",))
    else:
        if size is None and predictor.run.eval.mode == "sliding":
            raise InputError(
                "eval.mode is sliding: how many windows an image has cannot be in a graph for any size: add "
                "--size HEIGHT,WIDTH, or --eval.mode whole"
            )
        inputs = (_picture(*(size or ODD_SIZE)),)
        signature = Signature(("image",), ("label", "confidence"), ("batch", *(() if size else ("height", "width"))))
    try:
        return traced(graph_of(predictor), inputs, len(signature.free)), signature
    except Exception as error:  # whatever a network has that the tracer cannot follow
        backbone, reason = predictor.run.model.backbone, " ".join(str(error).split())[:200]
        mend = ": --size HEIGHT,WIDTH may do" if len(signature.free) > 1 else ""
        name = f"{backbone.name} with attention {backbone.attention}"
        raise InputError(f"{name} cannot be traced ({reason}){mend}") from error


def graph_of(predictor: PosePredictor | SegPredictor) -> PoseGraph | SegGraph:
    """The module that does all a predictor does with pixels."""
    if isinstance(predictor, SegPredictor):
        return SegGraph(predictor.model, predictor.run.eval, predictor.run.data.crop_size)
    protocol = predictor.run.eval
    order = predictor.schema.flip_order if protocol.flip_test else None
    fit = covariance_fit(predictor.calibration)
    return PoseGraph(predictor.model, predictor.codec, order, protocol.shift_flipped, fit)


def traced(graph: nn.Module, inputs: tuple[Tensor, ...], free: int) -> ExportedProgram:
    """The program of a module, for any size of the first axis of each input, and of the first ``free`` of the first.

    What the tracer left to check is dropped: sizes that the example alone has. Other sizes are compared afterwards.
    """
    axes: list[dict[int, Any]] = [dict.fromkeys(range(free), Dim.DYNAMIC), *({0: Dim.DYNAMIC} for _ in inputs[1:])]
    with torch.no_grad():
        program = torch.export.export(
            graph.eval(),
            inputs,
            dynamic_shapes=tuple(axes),
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )
    found = program.graph_module.graph
    for node in list(found.nodes):
        if node.op == "call_function" and node.target in CHECKS:
            found.erase_node(node)
    _in_whole_numbers(found)
    found.eliminate_dead_code()
    program.graph_module.recompile()
    return program


def _in_whole_numbers(graph: Graph) -> None:
    """ceil(a / b) of sizes as -(-a // b): a .pt2 file knows no ceil, which pooling with rounding up leaves behind."""
    for node in list(graph.nodes):
        parts = node.args[0] if node.target is math.ceil else None
        if not isinstance(parts, Node) or parts.target is not operator.truediv:
            continue
        size, step = parts.args
        with graph.inserting_before(node):
            cells = _call(graph, operator.floordiv, _call(graph, operator.neg, size), step)
            node.replace_all_uses_with(_call(graph, operator.neg, cells))
        graph.erase_node(node)


def _call(graph: Graph, function: Callable[..., Any], *sizes: Any) -> Node:
    """A node of a function of sizes, each a node or a number, with the size that the tracer knows it to be."""
    node = graph.call_function(function, sizes)
    node.meta["val"] = function(*(one.meta["val"] if isinstance(one, Node) else one for one in sizes))
    return node


def _picture(height: int, width: int) -> Tensor:
    """Noise uint8 [BATCH, H, W, 3]."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (BATCH, height, width, 3), dtype=torch.uint8, generator=generator)
