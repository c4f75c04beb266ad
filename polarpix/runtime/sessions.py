"""Exported files opened: a function over arrays and the texts inside, for each kind of file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from polarpix.errors import InputError

__all__ = ["EXPORT_FORMAT", "METADATA_FILE", "SESSIONS", "Session", "open_session"]

EXPORT_FORMAT = "polarpix-export-2"
METADATA_FILE = "polarpix.json"  # among the extra files of a .pt2

Array = npt.NDArray[Any]
Session = Callable[..., list[Array]]
"""The inputs of the graph in order -> its outputs in order."""


def open_session(path: str | Path, device: str = "auto") -> tuple[Session, dict[str, str]]:
    """An exported file of polarpix, ready to run, and its metadata.

    Args:
        path: a file whose suffix is one of :data:`SESSIONS`.
        device: auto (what the runtime has: a GPU if there is one), cpu or cuda; cuda:1, ... for a .pt2 too.

    Raises:
        InputError: no such file, another suffix, a runtime that is not installed, a device that it cannot use, or a
            file that is damaged or was not exported by polarpix.
    """
    path = Path(path)
    if path.suffix not in SESSIONS:
        raise InputError(f"{path}: not an exported network: give a file that ends in {', '.join(SESSIONS)}")
    if not path.is_file():
        raise InputError(f"{path}: no such file: give one that 'polarpix export' has written")
    session, metadata = SESSIONS[path.suffix](path, device)
    if metadata.get("format") != EXPORT_FORMAT:
        found = metadata.get("format")
        raise InputError(
            f"{path}: not exported by this polarpix (format {found!r}, must be {EXPORT_FORMAT!r}): export it again"
        )
    return session, metadata


def _onnx(path: Path, device: str) -> tuple[Session, dict[str, str]]:
    try:
        import onnxruntime
    except ImportError:
        raise InputError(f"{path}: needs onnxruntime: pip install onnxruntime, or 'polarpix[export]'") from None
    here = onnxruntime.get_available_providers()
    gpu, cpu = "CUDAExecutionProvider", "CPUExecutionProvider"
    if device not in ("auto", "cpu", "cuda") or (device == "cuda" and gpu not in here):
        raise InputError(f"device {device!r}: this onnxruntime has {', '.join(here)}: choose auto or cpu")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; what it warns of is of no use to who runs it
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=[gpu, cpu] if device != "cpu" and gpu in here else [cpu]
        )
    except Exception as error:  # each kind of damage has a class of its own
        raise InputError(f"{path}: not a readable ONNX file ({_first_line(error)}): export it again") from error
    names = [one.name for one in session.get_inputs()]

    def run(*inputs: Array) -> list[Array]:
        return list(session.run(None, dict(zip(names, inputs, strict=True))))

    return run, dict(session.get_modelmeta().custom_metadata_map)


def _torch_export(path: Path, device: str) -> tuple[Session, dict[str, str]]:
    try:
        import torch
        from torch.export.passes import move_to_device_pass

        from polarpix.devices import find_device
    except ImportError:
        raise InputError(f"{path}: needs torch: pip install torch, or export to ONNX") from None
    place = find_device(device)
    extra = {METADATA_FILE: ""}
    try:
        program = torch.export.load(path, extra_files=extra)
    except Exception as error:  # zip, pickle and JSON errors alike
        raise InputError(f"{path}: not a readable torch.export file ({_first_line(error)}): export it again") from error
    if place.type != "cpu":
        program = move_to_device_pass(program, place)
    module = program.module()

    def run(*inputs: Array) -> list[Array]:
        with torch.inference_mode():
            return [one.cpu().numpy() for one in module(*(torch.from_numpy(array).to(place) for array in inputs))]

    return run, json.loads(extra[METADATA_FILE] or "{}")


def _openvino(path: Path, device: str) -> tuple[Session, dict[str, str]]:
    try:
        import openvino
    except ImportError:
        raise InputError(f"{path}: needs openvino: pip install openvino, or 'polarpix[export]'") from None
    if device not in ("auto", "cpu"):
        raise InputError(f"device {device!r}: openvino runs on the CPU here: choose auto or cpu")
    if not path.with_suffix(".bin").is_file():
        raise InputError(f"{path.with_suffix('.bin')}: no such file: the weights of {path.name} lie beside it")
    core = openvino.Core()
    try:
        model = core.read_model(path)
        # float32 as exported; on some processors the default is a smaller type
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    except Exception as error:  # whatever its parser or compiler says
        raise InputError(f"{path}: not a readable OpenVINO file ({_first_line(error)}): export it again") from error
    request = compiled.create_infer_request()

    def run(*inputs: Array) -> list[Array]:
        request.infer(list(inputs))
        return [np.array(request.get_output_tensor(i).data) for i in range(len(compiled.outputs))]

    known = model.has_rt_info(["polarpix"])
    return run, json.loads(model.get_rt_info(["polarpix"]).astype(str)) if known else {}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


SESSIONS: Mapping[str, Callable[[Path, str], tuple[Session, dict[str, str]]]] = {
    ".onnx": _onnx,
    ".pt2": _torch_export,
    ".xml": _openvino,
}
"""Suffix -> what opens such a file."""
