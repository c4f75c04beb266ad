"""What ``polarpix export`` does. Heavy imports happen inside, as in :mod:`polarpix.commands`."""

from __future__ import annotations

from collections.abc import Sequence

from polarpix.errors import InputError

__all__ = ["export"]


def export(
    weights: str,
    to: str = "",
    out: str = "",
    size: str = "",
    check_images: str = "",
    config: str = "",
    options: Sequence[str] = (),
) -> int:
    """Write a network with its decoding to one file for ONNX, torch.export or OpenVINO, compared with torch first.

    Args:
        weights: weights/best.safetensors, a run folder, a model's name; a published checkpoint (.pth) with --config.
        to: onnx, torch_export or openvino.
        out: the file, .onnx, .pt2 or .xml (.bin goes beside it); by default beside the weights, or below runs/named.
        size: HEIGHT,WIDTH that a segmentation network is fixed to; by default it takes images of any size.
        check_images: a picture, folder or glob to compare on; by default the page's validation split, or drawn figures.
        config: a page to export by instead of the one inside the weights file.
    """
    if not to:
        raise InputError("export needs --to onnx, torch_export or openvino")
    from polarpix.export.compare import difference_lines
    from polarpix.export.run import export as write
    from polarpix.export.run import parse_size

    found = write(weights, to, out, parse_size(size), check_images, options, config)
    print("\n".join(difference_lines(found.differences)))
    print(f"{found.file}: {found.size / 1e6:.1f} MB")
    print(f"next:    polarpix predict {found.file} IMAGE")
    return 0
