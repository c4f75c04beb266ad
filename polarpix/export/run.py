"""`polarpix export`: trace, write, compare with torch, keep."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from tqdm import tqdm

from polarpix.config import PoseRun, SegRun
from polarpix.engine.adopt import open_weights
from polarpix.engine.artifact import Artifact
from polarpix.errors import InputError
from polarpix.export.compare import Difference, check_differences, compare_pose, compare_seg
from polarpix.export.formats import FORMATS, check_packages, files_of
from polarpix.export.inputs import Pictures, noise_crops, noise_images, picture_crops, real_pictures, sized
from polarpix.export.trace import trace
from polarpix.images import check_place
from polarpix.predict import PosePredictor, SegPredictor, artifact_run
from polarpix.runtime.sessions import EXPORT_FORMAT, Session, open_session
from polarpix.zoo import MODELS

__all__ = ["Export", "export", "metadata", "parse_size"]


@dataclass(frozen=True)
class Export:
    """What was written.

    Args:
        file: the exported file.
        size: bytes, of all that belongs to it.
        differences: between it and torch.
    """

    file: Path
    size: int
    differences: list[Difference]


def export(
    weights: str | Path,
    to: str,
    out: str | Path = "",
    size: tuple[int, int] | None = None,
    check_images: str = "",
    options: Sequence[str] = (),
    config: str | Path = "",
) -> Export:
    """Write a network with preprocessing and decoding to one file, if it gives what torch gives.

    The page's protocol, with its flip test and scales, goes into the graph. A file that was there before is replaced
    only by one that passed.

    Args:
        weights: what :func:`polarpix.load` takes.
        to: a key of FORMATS.
        out: the file; by default beside the weights, of a model's name in the working folder.
        size: height and width that a segmentation network is fixed to; null for images of any size.
        check_images: a picture, folder or glob to compare on; by default the page's validation split, where it is here,
            else drawn figures.
        options: changes to the page.
        config: a page for a published checkpoint, or instead of the one inside.

    Raises:
        InputError: an unknown format, a package that is not installed, weights or pictures that are none, a place that
            cannot be written, a network that cannot be traced, or results that differ.
    """
    if to not in FORMATS:
        raise InputError(f"--to {to}: choose one of {', '.join(FORMATS)}")
    check_packages(to)
    suffix = FORMATS[to].suffix
    if Path(weights).suffix in [one.suffix for one in FORMATS.values()]:
        raise InputError(f"{weights}: exported already: give the weights file it was made from")
    if out and Path(out).suffix != suffix:
        raise InputError(f"--out {out}: --to {to} writes a file that ends in {suffix}: name one")
    artifact = open_weights(weights, config, options)
    path = Path(out) if out else Path(artifact.file).with_suffix(suffix)
    if not out and (weights in MODELS or not Path(weights).exists()):  # a model's name: its file is not the user's own
        path = Path(str(weights).replace("/", "_") + suffix)
    check_place(path)
    run = artifact_run(artifact, options, "export", config)
    predictor = _predictor(artifact, run)
    if size is not None and isinstance(predictor, PosePredictor):
        raise InputError("--size is for segmentation: a pose network takes crops of its model.input_size")
    pictures = real_pictures(run, check_images)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = tempfile.TemporaryDirectory(prefix=".export", dir=path.parent)
    with tqdm(total=3, desc=f"export to {to}", unit="step") as bar, beside as folder:
        bar.set_postfix_str("tracing")
        program, signature = trace(predictor, size)
        bar.update()
        bar.set_postfix_str("writing")
        written = Path(folder) / path.name
        FORMATS[to].write(program, signature, metadata(artifact, predictor, size), written)
        bar.update()
        bar.set_postfix_str("comparing with torch")
        session, _ = open_session(written, "cpu")
        differences = _compare(predictor, session, size, pictures)
        bar.update()
        check_differences(differences)
        for part in files_of(written):
            os.replace(part, path.with_suffix(part.suffix))
    return Export(path, sum(part.stat().st_size for part in files_of(path)), differences)


def _predictor(artifact: Artifact, run: PoseRun | SegRun) -> PosePredictor | SegPredictor:
    place = torch.device("cpu")
    return PosePredictor(artifact, run, place) if isinstance(run, PoseRun) else SegPredictor(artifact, run, place)


def _compare(
    predictor: PosePredictor | SegPredictor, session: Session, size: tuple[int, int] | None, pictures: Pictures
) -> list[Difference]:
    """On noise in batches of 1 and 3, and on pictures."""
    if isinstance(predictor, PosePredictor):
        shape = predictor.run.model.input_size
        return [
            compare_pose(predictor, session, "noise", *noise_crops(shape, 1)),
            compare_pose(predictor, session, "noise", *noise_crops(shape, 3)),
            compare_pose(predictor, session, pictures.source, *picture_crops(predictor, pictures)),
        ]
    return [
        compare_seg(predictor, session, "noise", noise_images(predictor, size)),
        compare_seg(predictor, session, pictures.source, sized(pictures, size)),
    ]


def metadata(
    artifact: Artifact, predictor: PosePredictor | SegPredictor, size: tuple[int, int] | None
) -> dict[str, str]:
    """What the file says of itself: with it alone one can predict, draw and write results."""
    udp = isinstance(predictor, PosePredictor) and predictor.codec.unbiased
    return {
        "format": EXPORT_FORMAT,
        "task": artifact.task,
        "form": artifact.form,
        "layout": artifact.layout,
        "run": json.dumps(asdict(predictor.run)),
        "labels": json.dumps(asdict(artifact.labels)),
        "metrics": json.dumps(artifact.metrics),
        "udp": json.dumps(udp),
        "size": json.dumps(size),
        "commit": artifact.commit,
        "polarpix": version("polarpix"),
        "torch": torch.__version__,
    }


def parse_size(text: str) -> tuple[int, int] | None:
    """``HEIGHT,WIDTH`` in pixels; null for an empty text.

    Raises:
        InputError: neither.
    """
    if not text:
        return None
    sides = [int(part) if part.strip().isdecimal() else 0 for part in text.split(",")]
    if len(sides) != 2 or min(sides) < 1:
        raise InputError(f"--size {text}: give HEIGHT,WIDTH in pixels, for example 360,480")
    return sides[0], sides[1]
