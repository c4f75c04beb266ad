"""Exported files opened: a function over arrays and the texts inside, for each kind of file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from polarpix.errors import InputError
from polarpix.runtime.onnx_file import check_onnx
from polarpix.runtime.openvino_file import check_openvino, check_weights
from polarpix.runtime.seal import EXPORT_FORMAT, check_seal, read_whole
from polarpix.runtime.torch_file import archive, check_torch_file

__all__ = ["EXPORT_FORMAT", "SESSIONS", "Session", "Shape", "open_session"]

MOST_LETTERS = 2**20  # of one of the texts; a page or a list of names has some thousands
SEALS = ("seal", "weights")  # among the metadata: checksums of a file and of the one beside it

Array = npt.NDArray[Any]
Shape = tuple[int | None, ...]
"""Null where a size is free."""


@dataclass(frozen=True)
class Session:
    """A graph, ready to run: its inputs in order give its outputs in order.

    Args:
        file: where it is from.
        run: arrays to arrays.
        inputs: shapes of the inputs.
        outputs: shapes of the outputs, as far as the file tells.
    """

    file: str
    run: Callable[..., list[Array]]
    inputs: tuple[Shape, ...]
    outputs: tuple[Shape, ...]

    def __call__(self, *inputs: Array) -> list[Array]:
        """Run the graph.

        Raises:
            InputError: it cannot be run: a graph that does not hold together, or too little memory.
        """
        try:
            return self.run(*inputs)
        except Exception as error:  # each runtime has classes of its own
            raise InputError(
                f"{self.file}: its graph cannot be run ({_first_line(error)}): take a smaller batch or picture, or "
                "export it again"
            ) from error


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
    return session, {key: text for key, text in metadata.items() if key not in SEALS}


def _checked(path: Path, kind: str, check: Callable[[bytes], tuple[Any, dict[str, str]]]) -> tuple[Any, dict[str, str]]:
    """What a check makes of a file and the metadata, before any runtime has seen it.

    Raises:
        InputError: a file that is damaged, holds what it should not, or is of another version of polarpix.
    """
    try:
        found, metadata = check(read_whole(path))
        if max(map(len, metadata.values()), default=0) > MOST_LETTERS:
            raise ValueError(f"a text of more than {MOST_LETTERS:,} letters among its metadata")
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, OSError) as error:
        reason = f"{type(error).__name__}: {error}" if isinstance(error, LookupError) else _first_line(error)
        raise InputError(f"{path}: not a readable {kind} file ({reason:.200}): copy or export it again") from error
    if metadata.get("format") != EXPORT_FORMAT:
        raise InputError(
            f"{path}: not exported by this polarpix (format {metadata.get('format')!r:.60}, must be "
            f"{EXPORT_FORMAT!r}): export it again"
        )
    return found, metadata


def _onnx(path: Path, device: str) -> tuple[Session, dict[str, str]]:
    try:
        import onnxruntime
    except ImportError:
        raise InputError(f"{path}: needs onnxruntime: pip install onnxruntime, or 'polarpix[export]'") from None
    here = onnxruntime.get_available_providers()
    gpu, cpu = "CUDAExecutionProvider", "CPUExecutionProvider"
    if device not in ("auto", "cpu", "cuda") or (device == "cuda" and gpu not in here):
        raise InputError(f"device {device!r}: this onnxruntime has {', '.join(here)}: choose auto or cpu")

    def check(data: bytes) -> tuple[bytes, dict[str, str]]:
        metadata = check_onnx(data)
        if metadata.get("format") == EXPORT_FORMAT:
            check_seal(data, ".onnx")
        return data, metadata

    data, metadata = _checked(path, "ONNX", check)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it has to say of errors comes with them, in one line
    try:
        session = onnxruntime.InferenceSession(
            data, options, providers=[gpu, cpu] if device != "cpu" and gpu in here else [cpu]
        )
    except Exception as error:  # each kind of damage has a class of its own
        raise InputError(f"{path}: not a readable ONNX file ({_first_line(error)}): export it again") from error
    names = [one.name for one in session.get_inputs()]

    def run(*inputs: Array) -> list[Array]:
        return list(session.run(None, dict(zip(names, inputs, strict=True))))

    shapes = (
        tuple(tuple(n if isinstance(n, int) else None for n in one.shape) for one in ends)
        for ends in (session.get_inputs(), session.get_outputs())
    )
    return Session(str(path), run, *shapes), metadata


def _torch_export(path: Path, device: str) -> tuple[Session, dict[str, str]]:
    try:
        import torch
        from torch.export.passes import move_to_device_pass

        from polarpix.devices import find_device
    except ImportError:
        raise InputError(f"{path}: needs torch: pip install torch, or export to ONNX") from None
    place = find_device(device)
    parts, metadata = _checked(path, "torch.export", check_torch_file)
    log = logging.getLogger("torch.export")
    silent, log.disabled = log.disabled, True  # it prints tracebacks of what it raises anyhow
    try:
        program = torch.export.load(archive(parts))
        strange = [n.target for n in program.graph.nodes if n.op == "call_function" and not _is_operator(n.target)]
        if strange:
            raise ValueError(f"an operator {strange[0]!s:.80}")
        ends: list[list[Shape]] = [[], []]
        for node in program.graph.nodes:
            if node.op == "placeholder" and node.name in program.graph_signature.user_inputs:
                ends[0].append(_shape_of(node))
            elif node.op == "output":
                ends[1] = [_shape_of(one) for one in node.args[0]]
        if place.type != "cpu":
            program = move_to_device_pass(program, place)
        module = program.module()
    except Exception as error:  # JSON, schema and tracing errors alike
        raise InputError(f"{path}: not a readable torch.export file ({_first_line(error)}): export it again") from error
    finally:
        log.disabled = silent

    def run(*inputs: Array) -> list[Array]:
        with torch.inference_mode():
            return [one.cpu().numpy() for one in module(*(torch.from_numpy(array).to(place) for array in inputs))]

    return Session(str(path), run, tuple(ends[0]), tuple(ends[1])), metadata


def _is_operator(target: Any) -> bool:
    """Whether a node of a program is an operator, or arithmetic of sizes."""
    import torch

    return isinstance(target, torch._ops.OpOverload) or getattr(target, "__module__", "") in (
        "_operator",
        "math",
        "torch",
    )


def _shape_of(node: Any) -> Shape:
    return tuple(n if isinstance(n, int) else None for n in node.meta["val"].shape)


def _openvino(path: Path, device: str) -> tuple[Session, dict[str, str]]:
    try:
        import openvino
    except ImportError:
        raise InputError(f"{path}: needs openvino: pip install openvino, or 'polarpix[export]'") from None
    if device not in ("auto", "cpu"):
        raise InputError(f"device {device!r}: openvino runs on the CPU here: choose auto or cpu")
    beside = path.with_suffix(".bin")
    if not beside.is_file():
        raise InputError(f"{beside}: no such file: the weights of {path.name} lie beside it")

    def check(data: bytes) -> tuple[tuple[bytes, bytes], dict[str, str]]:
        weights = read_whole(beside)
        metadata = check_openvino(data, weights)
        if metadata.get("format") == EXPORT_FORMAT:
            check_seal(data, ".xml")
            check_weights(weights, metadata.get("weights", ""), beside.name)
        return (data, weights), metadata

    (text, weights), metadata = _checked(path, "OpenVINO", check)
    core = openvino.Core()
    try:
        model = core.read_model(BytesIO(text), BytesIO(weights))
        # float32 as exported; on some processors the default is a smaller type
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    except Exception as error:  # whatever its parser or compiler says
        raise InputError(f"{path}: not a readable OpenVINO file ({_first_line(error)}): export it again") from error
    request = compiled.create_infer_request()

    def run(*inputs: Array) -> list[Array]:
        request.infer(list(inputs))
        return [np.array(request.get_output_tensor(i).data) for i in range(len(compiled.outputs))]

    shapes = (
        tuple(tuple(None if n.is_dynamic else n.get_length() for n in one.partial_shape) for one in ends)
        for ends in (model.inputs, model.outputs)
    )
    return Session(str(path), run, *shapes), metadata


def _first_line(error: Exception) -> str:
    return " ".join((str(error).strip().splitlines() or [type(error).__name__])[0].split())[:300]


SESSIONS: Mapping[str, Callable[[Path, str], tuple[Session, dict[str, str]]]] = {
    ".onnx": _onnx,
    ".pt2": _torch_export,
    ".xml": _openvino,
}
"""Suffix -> what opens such a file."""
