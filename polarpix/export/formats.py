"""A traced program written as ONNX, torch.export or OpenVINO file, with its metadata inside."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from polarpix.errors import InputError
from polarpix.runtime.seal import blank_seal, sealed
from polarpix.runtime.torch_file import plain_file

__all__ = ["FORMATS", "Format", "Signature", "check_packages", "convert_to_openvino", "files_of"]

OPSET = 18  # the first with antialiased Resize; read by every onnxruntime since 1.14


@dataclass(frozen=True)
class Signature:
    """Names of what goes in and comes out of a graph, and of its free dimensions.

    Args:
        inputs: in order.
        outputs: in order.
        free: names of the first axes of the first input, whose sizes are free.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    free: tuple[str, ...]


@dataclass(frozen=True)
class Format:
    """One kind of exported file.

    Args:
        suffix: of its name.
        packages: what writing and checking it needs.
        write: program, signature, metadata, path.
    """

    suffix: str
    packages: tuple[str, ...]
    write: Callable[[ExportedProgram, Signature, Mapping[str, str], Path], None]


def check_packages(kind: str) -> None:
    """Refuse a format whose packages are not installed.

    Raises:
        InputError: names them and the extra.
    """
    missing = [name for name in FORMATS[kind].packages if find_spec(name) is None]
    if missing:
        raise InputError(f"--to {kind} needs {', '.join(missing)}: pip install 'polarpix[export]'")


def write_onnx(program: ExportedProgram, signature: Signature, metadata: Mapping[str, str], path: Path) -> None:
    """One .onnx file; the metadata are its metadata_props."""
    import onnx

    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):  # it tells of its progress
        warnings.simplefilter("ignore")
        found: Any = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=list(signature.inputs),
            output_names=list(signature.outputs),
            custom_translation_table=_translations(),
        )
    model = found.model_proto
    _name_axes(model, signature)
    onnx.helper.set_model_props(model, {**metadata, "seal": blank_seal(".onnx")})
    model.producer_name = "polarpix"
    path.write_bytes(sealed(model.SerializeToString(), ".onnx"))


def _translations() -> dict[Any, Any]:
    """What the exporter has no ONNX for: Python's round of a size, to the even neighbour as ONNX rounds."""
    from onnxscript import INT64
    from onnxscript import opset18 as op

    def rounded(number: Any, digits: Any = None) -> Any:
        return op.Cast(op.Round(number), to=INT64.dtype)

    return {round: rounded}


def _name_axes(model: Any, signature: Signature) -> None:
    """Words in place of the tracer's symbols for the free sizes."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    words = {dim.dim_param: name for dim, name in zip(dims, signature.free, strict=False)}
    symbols = re.compile(rf"\b({'|'.join(map(re.escape, words))})\b")
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = symbols.sub(lambda found: words[found[1]], dim.dim_param)


def write_torch_export(program: ExportedProgram, signature: Signature, metadata: Mapping[str, str], path: Path) -> None:
    """One .pt2 file; the metadata are an extra file in it."""
    stream = io.BytesIO()
    torch.export.save(program, stream)
    path.write_bytes(plain_file(stream.getvalue(), metadata))


def write_openvino(program: ExportedProgram, signature: Signature, metadata: Mapping[str, str], path: Path) -> None:
    """An .xml file with its .bin beside it, by way of ONNX; the metadata are in its rt_info."""
    onnx = path.with_suffix(".onnx")
    write_onnx(program, signature, metadata, onnx)
    convert_to_openvino(onnx, metadata, path)
    onnx.unlink()


def convert_to_openvino(onnx: Path, metadata: Mapping[str, str], path: Path) -> None:
    """An ONNX file as .xml and .bin, in float32."""
    import openvino

    model = openvino.convert_model(str(onnx))
    openvino.save_model(model, str(path), compress_to_fp16=False)
    weights = hashlib.sha256(path.with_suffix(".bin").read_bytes()).hexdigest()
    texts = {**metadata, "weights": weights, "seal": blank_seal(".xml")}
    model.set_rt_info(json.dumps(texts), ["polarpix"])
    openvino.save_model(model, str(path), compress_to_fp16=False)  # the same weights, now with their digest
    path.write_bytes(sealed(path.read_bytes(), ".xml"))


FORMATS: dict[str, Format] = {
    "onnx": Format(".onnx", ("onnx", "onnxscript", "onnxruntime"), write_onnx),
    "torch_export": Format(".pt2", (), write_torch_export),
    "openvino": Format(".xml", ("onnx", "onnxscript", "openvino"), write_openvino),
}


def files_of(path: Path) -> Sequence[Path]:
    """Everything that belongs to an exported file, the one that is named last."""
    return [path.with_suffix(".bin"), path] if path.suffix == ".xml" else [path]
