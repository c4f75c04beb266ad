"""What the commands that run networks do. Heavy imports happen inside, so that ``polarpix --help`` answers at once."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polarpix.about import print_metrics
from polarpix.config import PoseRun
from polarpix.errors import InputError

if TYPE_CHECKING:
    from polarpix.engine.evaluate import Evaluation
    from polarpix.ray_predict import RayJob

__all__ = ["calibrate", "demo", "evaluate", "predict", "publish", "train"]


def train(config: str = "", resume: bool = False, print_config: bool = False, options: Sequence[str] = ()) -> int:
    """Train a config page: checkpoints, weights, metrics, pictures and a report in runs/<task>/<name>/.

    Args:
        config: the page, a YAML file; see configs/.
        resume: continue the run from its last checkpoint.
        print_config: print the resolved page and stop.
    """
    from polarpix.pages import load_page, page_text

    if not config:
        raise InputError(
            "train needs --config PAGE: take one from configs/, for example configs/seg/camvid_mobilenetv2_psa_p.yaml"
        )
    run = load_page(config, options)
    if print_config:
        print(page_text(run), end="")
        return 0
    from polarpix.engine.ending import Ending

    with Ending() as ending:
        from polarpix.engine.fit import first_process, fit
        from polarpix.summary import training_course, write_training

        fitted = fit(run, resume, ending)
        if not first_process():
            return 0
        page = write_training(run, fitted.folder, fitted.metrics, page_text(run))
        for name, value in training_course(fitted.folder).items():
            print(f"{name:<28}{value:>10g}")
        print_metrics(fitted.metrics, run.monitor)
        print(f"report:  {page}\nweights: {fitted.weights}")
        print(f"next:    polarpix eval {fitted.weights}\n         polarpix predict {fitted.weights} IMAGE")
    return 0


def evaluate(
    weights: str,
    split: str = "val",
    config: str = "",
    out: str = "",
    record: str = "",
    submission: str = "",
    options: Sequence[str] = (),
) -> int:
    """Evaluate a weights file: metrics with their whole protocol, COCO results, pictures, one report page.

    Args:
        weights: weights/best.safetensors, a run folder or a model's name; with --config a published checkpoint (.pth).
        split: val or test.
        config: a page to evaluate by instead of the one inside the weights file.
        out: folder for report.html, record.json, samples.json and results.json; by default <run folder>/eval/<split>.
        record: a further file for the figures with all they depend on, for example below benchmarks/results.
        submission: folder for the predicted label maps, named and laid out for the server of VOC or Cityscapes.
    """
    from polarpix.engine.adopt import open_weights
    from polarpix.engine.evaluate import evaluate as measure
    from polarpix.engine.fit import first_process
    from polarpix.images import check_place
    from polarpix.predict import artifact_run
    from polarpix.summary import write_evaluation, write_record
    from polarpix.zoo import named_folder

    artifact = open_weights(weights, config, options)
    run = artifact_run(artifact, options, "eval", config)
    beside = Path(artifact.file).resolve().parent
    home = beside.parent if beside.name == "weights" else beside
    folder = Path(out) if out else (named_folder(weights) or home) / "eval" / split
    records = [folder / "record.json", *([Path(record)] if record else [])]
    for path in records:
        check_place(path)
    found = measure(artifact, run, split, submission=Path(submission) if submission else None)
    if not first_process():
        return 0
    command = " ".join(["polarpix", *sys.argv[1:]])
    write_evaluation(found, folder, command)
    for path in records:
        write_record(found, run, path, command)
    print_protocol(found)
    print_metrics(found.metrics, run.monitor)
    print(f"report: {folder / 'report.html'}")
    return 0


def calibrate(weights: str, options: Sequence[str] = ()) -> int:
    """Fit what the scores mean on the validation split, and write it into the weights file; training does so by itself.

    Args:
        weights: weights/best.safetensors or a run folder; the file is written anew, its tensors stay as they are.
    """
    from polarpix.calibration import calibration_error
    from polarpix.engine.artifact import load_artifact
    from polarpix.engine.calibrate import calibrate as fit
    from polarpix.predict import artifact_run

    if not Path(weights).exists():
        raise InputError(f"{weights}: no such file here: give a weights file or run folder of your own")
    artifact = load_artifact(weights)
    done, counts = fit(artifact, artifact_run(artifact, options, "calibrate"))
    found = done.calibration
    assert found is not None
    before, after = calibration_error(counts), calibration_error(counts, found)
    print(f"fitted on val: {found.samples:,} samples, ECE {before:.4f} before, {after:.4f} after, on the same samples")
    print(f"weights: {done.file}\nnext:    polarpix eval {weights} --split test")
    return 0


def predict(
    weights: str,
    source: list[str],
    boxes: str = "",
    detector: str = "",
    category: str = "",
    batch: int | None = None,
    frames: int = 0,
    frame_labels: bool = False,
    ellipses: float = 0.0,
    timing: bool = False,
    ray: bool = False,
    workers: int = 2,
    address: str = "",
    config: str = "",
    out: str = "predictions",
    device: str = "auto",
    options: Sequence[str] = (),
) -> int:
    """Predict images and videos: overlays, and COCO keypoint JSON or label PNGs.

    Args:
        weights: weights/best.safetensors, a run folder, an exported file, a model (default body); a .pth with --config.
        source: images, folders, globs, videos, http(s) addresses, numbers of webcams.
        boxes: x,y,width,height in pixels for every image, or a COCO detection JSON; by default the whole image.
        detector: what finds the boxes instead: a detector of torchvision, or of transformers by folder or hub name.
        category: the category_id of the detections to take, where the JSON holds several; or the detector's class.
        batch: boxes or images per forward pass; by default 32 boxes, 1 image.
        frames: how many frames of each video or webcam at most; by default all.
        frame_labels: write the label PNG of every video frame too.
        ellipses: draw around each keypoint where its true place lies with this probability, for example 0.9.
        timing: say how many seconds the network took and waited.
        ray: predict pictures (of folders, lists in text files, fsspec addresses) on a Ray cluster, as Parquet and JSON.
        workers: how many predictors --ray runs.
        address: the Ray cluster, "auto" for the one this machine belongs to; by default one is started here.
        config: a page to predict by instead of the one inside the weights file.
        out: folder for what is written.
        device: auto, cpu, cuda, cuda:1, ...
    """
    from polarpix.box_files import category_number
    from polarpix.predict_files import FileJob, predict_files, seconds_line
    from polarpix.predictor import load

    if boxes and detector:
        raise InputError(f"--boxes {boxes} and --detector {detector}: give one of the two")
    if frames < 0 or workers < 1:
        raise InputError(f"--frames {frames}, --workers {workers}: give no fewer than 0 frames and 1 worker")
    if ray:
        from polarpix.ray_predict import RayJob

        job_settings = (tuple(options), config, boxes, category, detector, batch, device)
        return predict_on_ray(RayJob(weights, out, *job_settings, workers=workers, address=address), source)
    predictor = load(weights, device, options, config, batch)
    if not 0 <= ellipses < 1 or (ellipses and not isinstance(predictor.run, PoseRun)):
        raise InputError(f"--ellipses {ellipses:g}: give a probability below 1, of keypoints: for example 0.9")
    job = FileJob(source, Path(out), boxes, frames=frames, frame_labels=frame_labels, ellipses=ellipses)
    if detector:
        from polarpix.detectors import find_detector

        job.detector = find_detector(predictor, detector, category, device)
    elif category:
        job.category = category_number(category)
    if isinstance(predictor.run, PoseRun) and not (boxes or detector or predictor.run.data.whole_image):
        warnings.warn(
            "no --boxes: every whole image is taken as the box of one instance, though the network learned from boxes: "
            "give x,y,width,height, a COCO detection JSON or a --detector",
            stacklevel=1,
        )
    predict_files(predictor, job)
    for line in job.failed:
        print(f"polarpix: {line}", file=sys.stderr)
    print(f"{job.done} of {job.done + len(job.failed)} images predicted: {out}")
    if timing:
        print(seconds_line(job.clock))
    return 2 if job.failed else 0


def predict_on_ray(job: RayJob, sources: list[str]) -> int:
    """Predict pictures on a cluster and say how it went."""
    from polarpix.ray_predict import predict_ray

    now, before, failed = predict_ray(job, sources)
    for line in failed:
        print(f"polarpix: {line}", file=sys.stderr)
    total = now + before + len(failed)
    print(f"{now + before} of {total} images predicted, {before} of them before: {job.out}")
    return 2 if failed else 0


def publish(
    weights: str,
    repo: str = "",
    out: str = "",
    record: str = "",
    title: str = "",
    about: str = "",
    data: str = "",
    data_licence: str = "",
    licence: str = "",
    half: bool = False,
    private: bool = False,
) -> int:
    """Write a model card for weights, and upload both to the Hugging Face Hub or put them into a folder.

    Args:
        weights: weights/best.safetensors or a run folder.
        repo: user/name, to upload to.
        out: in its place a folder to write to, or a file NAME.safetensors, beside which the card is NAME.md.
        record: record.json of an evaluation; by default that of the run folder.
        title: the card's heading; by default the run's name.
        about: a sentence on what the network is for.
        data: the training data's name and where it comes from.
        data_licence: the licence or terms of the data.
        licence: of the weights, as the Hub names it, for example apache-2.0.
        half: keep the weights in 16 bits: half the size.
        private: of a new repository: for its owner only.
    """
    if bool(repo) == bool(out):
        raise InputError("publish needs --repo user/name or --out FOLDER, one of them")
    from polarpix.hub import Facts, push, save_pretrained

    facts = Facts(title=title, about=about, data=data, data_licence=data_licence, licence=licence)
    if repo:
        print(f"pushed: {push(weights, repo, facts=facts, record=record, half=half, private=private)}")
        print(f"next:   polarpix predict {repo} IMAGE")
    else:
        print(f"written: {save_pretrained(weights, out, facts=facts, record=record, half=half)}")
        print(f"next:    polarpix predict {out} IMAGE")
    return 0


def demo(out: str = "runs/demo", record: str = "", started: float = 0.0, photo: str = "") -> int:
    """Train a small network for each task on drawn figures, evaluate, predict, and write one page that shows it all.

    Args:
        out: folder for the data, the runs and the page.
        record: a file for the figures with time, seed, commit, versions and device; for an --out that is new.
        started: seconds since 1970 from which the record counts the time; make says when it began. By default now.
        photo: a photograph to show the models in the box on; by default drawn figures.
    """
    from polarpix.demo.run import run_demo

    command, picture = " ".join(["polarpix", *sys.argv[1:]]), Path(photo) if photo else None
    page = run_demo(Path(out), Path(record) if record else None, command, started, picture)
    print(f"\nThe page is at {page.resolve()}")
    return 0


def print_protocol(found: Evaluation) -> None:
    """The protocol and the conditions, one a line."""
    print(f"protocol of this evaluation ({found.task}, {found.split})")
    for name, value in (found.protocol | found.conditions).items():
        print(f"  {name:<16}{short(value)}")


def short(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, list) and len(value) > 4 and len(set(value)) > 1:
        return ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in value)
    return str(value)
