"""A network exported to ONNX and run by ONNX Runtime on the CPU: what a user without PyTorch waits for."""

from __future__ import annotations

from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polarpix.bench.timing import Candidate
from polarpix.errors import InputError

__all__ = ["exported", "why_not_exported"]

NEEDED = ("onnx", "onnxscript", "onnxruntime")
LARGEST_DIFFERENCE = 1e-3  # from float64, of the largest output; twice the error of torch where that is more


def why_not_exported() -> str:
    """Which package of the extra is missing; empty if none."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    return f"{', '.join(missing)} not installed: pip install 'polarpix[export]'" if missing else ""


def exported(network: nn.Module, image: Tensor, folder: Path) -> Candidate:
    """One inference of the exported network, with as many threads as torch has.

    Args:
        network: in evaluation mode, on the CPU.
        image: its input [B, 3, H, W], contiguous; the exported network takes this shape.
        folder: for the file.

    Raises:
        InputError: a package is missing, or ONNX Runtime errs more than twice as much as torch does, against float64.
    """
    reason = why_not_exported()
    if reason:
        raise InputError(reason)
    import onnxruntime

    path = folder / f"network_{len(list(folder.iterdir()))}.onnx"
    with torch.no_grad():
        truth = deepcopy(network).double()(image.double())  # [B, K, h, w]
        own = float((network(image) - truth).abs().max() / truth.abs().max())  # large in an untrained network
        torch.onnx.export(network, (image,), str(path), dynamo=True, verbose=False)
    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: image.numpy()}
    distance = float((torch.from_numpy(session.run(None, feed)[0]) - truth).abs().max() / truth.abs().max())
    if not distance <= max(LARGEST_DIFFERENCE, 2 * own):
        raise InputError(f"ONNX Runtime's output differs by {distance:.1e} of its largest value, torch's by {own:.1e}")
    return Candidate(lambda: session.run(None, feed))
