"""Weights files: safetensors that say what they are (config with form and layout, labels, metrics, commit)."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polarpix.attention import build_attention
from polarpix.calibration import Calibration, read_calibration
from polarpix.config import PoseRun, SegRun
from polarpix.errors import InputError
from polarpix.images import write_bytes
from polarpix.metadata import read_labels, read_run
from polarpix.psa import PolarizedSelfAttention
from polarpix.tensor_files import DIGEST, packed, read_tensors
from polarpix.types import ClassTable, KeypointSchema
from polarpix.zoo import WEIGHTS, find_weights, no_weights

__all__ = [
    "Artifact",
    "commit",
    "form_and_layout",
    "load_artifact",
    "load_state",
    "save_artifact",
    "write_artifact",
    "write_text",
]

FORMAT = "polarpix-1"


def write_text(path: Path, text: str) -> None:
    """Write a whole file or nothing: a reader never sees half of it, a power cut included."""
    write_bytes(path, text.encode(), lasting=True)


def commit() -> str:
    """The commit of the source tree the package runs from, with "+" if it was changed; "" outside a checkout."""
    folder = Path(__file__).resolve().parents[1]  # the whole package

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        tracked = git("ls-files", "--error-unmatch", "__init__.py")
        head = git("rev-parse", "--short=12", "HEAD") if tracked else ""
        return head + ("+" if head and git("status", "--porcelain", "--untracked-files=no", ".") else "")
    except FileNotFoundError:
        return ""


@dataclass(frozen=True)
class Artifact:
    """What a weights file holds besides the tensors."""

    task: str  # pose or seg
    run: dict[str, Any]  # the whole resolved page
    labels: KeypointSchema | ClassTable
    metrics: dict[str, float]
    commit: str
    state: dict[str, Tensor]
    file: str
    form: str = ""  # of the polarized self-attention inside: paper or released; "" where it has another attention
    layout: str = ""  # parallel or sequential
    calibration: Calibration | None = None  # of its scores
    digest: str = ""  # of the file that was read, which it fits; "" where it holds none, as older ones do

    @property
    def attention(self) -> str:
        """The shelf's name of the attention inside, which fixes its form and layout."""
        return str(self.run["model"]["backbone"]["attention"])


def form_and_layout(run: PoseRun | SegRun) -> tuple[str, str]:
    """Form and layout of the polarized self-attention of a page; two empty strings where it has another attention."""
    backbone = run.model.backbone
    with torch.device("meta"):  # draws no random numbers
        block = build_attention(backbone.attention, 32, **backbone.attention_options)
    return (block.form, block.layout) if isinstance(block, PolarizedSelfAttention) else ("", "")


def save_artifact(
    path: Path,
    state: dict[str, Tensor],
    run: PoseRun | SegRun,
    labels: KeypointSchema | ClassTable,
    metrics: dict[str, float],
    calibration: Calibration | None = None,
) -> None:
    """Write tensors and metadata to one safetensors file, atomically."""
    page, kind = dataclasses.asdict(run), form_and_layout(run)
    write_artifact(path, Artifact(run.task, page, labels, metrics, commit(), state, str(path), *kind, calibration))


def write_artifact(path: Path, artifact: Artifact) -> None:
    """Write a weights file that :func:`load_artifact` reads as the same, atomically."""
    metadata = {
        "format": FORMAT,
        "task": artifact.task,
        "form": artifact.form,
        "layout": artifact.layout,
        "run": json.dumps(artifact.run),
        "labels": json.dumps(dataclasses.asdict(artifact.labels)),
        "metrics": json.dumps(artifact.metrics),
        "commit": artifact.commit,
    }
    if artifact.calibration is not None:
        metadata["calibration"] = json.dumps(artifact.calibration.values())
    write_bytes(path, packed(artifact.state, metadata), lasting=True)


def load_artifact(path: str | Path) -> Artifact:
    """Read a weights file written by :func:`save_artifact`, of a path or a name as :func:`find_weights` takes it.

    Raises:
        InputError: the file is missing, is no safetensors file, was altered since it was written, or was not written by
            polarpix.
    """
    path = find_weights(path)
    if path.is_dir() and (path / WEIGHTS).is_file():
        path = path / WEIGHTS
    if not path.is_file():
        raise InputError(no_weights(path))
    state, metadata = read_tensors(path, "copy, download or train it again")
    if metadata.get("format") != FORMAT:
        raise InputError(f"{path}: not a polarpix weights file (format {metadata.get('format')!r}, must be {FORMAT!r})")
    try:
        task = metadata["task"]
        labels = read_labels(task, json.loads(metadata["labels"]))
        run, metrics = json.loads(metadata["run"]), json.loads(metadata["metrics"])
        read_run(run)
        kind = metadata.get("form", ""), metadata.get("layout", "")
        calibration = read_calibration(json.loads(metadata.get("calibration", "null")))
        more = (metadata["commit"], state, str(path), *kind, calibration, metadata.get(DIGEST, ""))
        return Artifact(task, run, labels, dict(metrics), *more)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:  # somebody wrote it by hand
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise InputError(f"{path}: its metadata is damaged ({reason:.200}): copy or train it again") from error


def load_state(model: nn.Module, artifact: Artifact) -> None:
    """Load the tensors into a model of the same architecture.

    Raises:
        InputError: another attention form or layout, class count or architecture; names the first difference.
    """
    for block in (module for module in model.modules() if isinstance(module, PolarizedSelfAttention)):
        if artifact.form and (block.form, block.layout) != (artifact.form, artifact.layout):  # some are of one shape
            raise InputError(
                f"{artifact.file}: holds attention of the {artifact.form} form, {artifact.layout}; this model has the "
                f"{block.form} form, {block.layout}: set model.backbone.attention to {artifact.attention!r}"
            )
    own = model.state_dict()
    missing = [key for key in own if key not in artifact.state]
    unexpected = [key for key in artifact.state if key not in own]
    shapes = [
        f"{key} {tuple(artifact.state[key].shape)} in the file, {tuple(own[key].shape)} in the model"
        for key in own
        if key in artifact.state and artifact.state[key].shape != own[key].shape
    ]
    if missing or unexpected or shapes:
        found = [f"{len(missing)} tensors missing ({missing[0]}, ...)"] if missing else []
        found += [f"{len(unexpected)} not expected ({unexpected[0]}, ...)"] if unexpected else []
        found += [f"{len(shapes)} of another shape ({shapes[0]})"] if shapes else []
        raise InputError(
            f"{artifact.file}: does not fit this model: {'; '.join(found)}; "
            f"it holds attention {artifact.attention!r} and {len(artifact.labels.names)} outputs: use its own config"
        )
    with torch.no_grad():
        model.load_state_dict(artifact.state)
