"""What each command does. Heavy imports happen inside, so that ``polarpix --help`` answers at once."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polarpix.config import PoseRun
from polarpix.errors import InputError

if TYPE_CHECKING:
    from polarpix.detectors import Detector
    from polarpix.engine.evaluate import Evaluation
    from polarpix.framed import FramedPoses
    from polarpix.ray_predict import RayJob

__all__ = ["demo", "evaluate", "info", "models", "predict", "publish", "train"]


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
    from polarpix.engine.fit import first_process, fit
    from polarpix.summary import training_course, write_training

    fitted = fit(run, resume)
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
    from polarpix.zoo import MODELS, evaluated_folder

    artifact = open_weights(weights, config, options)
    run = artifact_run(artifact, options, "eval", config)
    beside = Path(artifact.file).resolve().parent
    home = beside.parent if beside.name == "weights" else beside
    if weights in MODELS or not Path(weights).exists():  # a model's name
        home = evaluated_folder(weights)
    folder = Path(out) if out else home / "eval" / split
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


def predict(
    weights: str,
    source: list[str],
    boxes: str = "",
    detector: str = "",
    category: str = "",
    batch: int | None = None,
    frames: int = 0,
    frame_labels: bool = False,
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
        timing: say how many seconds the network took and waited.
        ray: predict pictures (of folders, lists in text files, fsspec addresses) on a Ray cluster, as Parquet and JSON.
        workers: how many predictors --ray runs.
        address: the Ray cluster, "auto" for the one this machine belongs to; by default one is started here.
        config: a page to predict by instead of the one inside the weights file.
        out: folder for what is written.
        device: auto, cpu, cuda, cuda:1, ...
    """
    from polarpix.framed import FramedPoses
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
    job = FileJob(source, Path(out), boxes, frames=frames, frame_labels=frame_labels)
    if detector:
        if not isinstance(predictor, FramedPoses):
            raise InputError(f"--detector {detector}: a segmentation network takes no boxes: leave it out")
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


def find_detector(predictor: FramedPoses, name: str, category: str, device: str) -> Detector:
    """The detector for a predictor's skeleton, with its threshold, on the device of that name."""
    from polarpix.detectors import load_detector
    from polarpix.predict import find_device

    return load_detector(name, predictor.schema, find_device(device), category, predictor.run.eval.box_threshold)


def category_number(category: str) -> int:
    """A category_id.

    Raises:
        InputError: no number.
    """
    if not category.isdecimal():
        raise InputError(f"--category {category}: give the number of a category (names need a --detector)")
    return int(category)


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


def models(folder: str = "", json: bool = False, check: str = "") -> int:
    """List the models in the box, the config pages with their costs beside the paper's, and the blocks and codecs.

    Args:
        folder: where the pages are; by default configs.
        json: print a JSON list instead of a table.
        check: a published checkpoint; say what it is and which pages it fits, instead.
    """
    if folder and not Path(folder).is_dir():
        raise InputError(f"--folder {folder}: no such folder: name one that holds pages")
    folder = folder or "configs"
    if check:
        from polarpix.checkpoints import checkpoint_text, describe_checkpoint

        print(checkpoint_text(describe_checkpoint(check, Path(folder))))
        return 0
    from polarpix.costs import cost_lines, page_costs
    from polarpix.zoo import model_lines

    rows = page_costs(Path(folder))
    if json:
        print(as_json(rows))
        return 0
    from polarpix.attention import ATTENTION
    from polarpix.pose.codec import CODECS
    from polarpix.pose.model import HEADS

    print("\n".join(cost_lines(rows)) if rows else f"no pages below {folder}: give --folder")
    print("\nin the box, for polarpix predict --model NAME IMAGE")
    print("\n".join(f"  {line}" for line in model_lines()))
    print(f"\nattention  {', '.join(ATTENTION)}\ncodecs     {', '.join(CODECS)}\npose heads {', '.join(HEADS)}")
    print("backbones  any timm model with a feature pyramid; attention goes into ResNet, HRNet, MobileNetV2/V3,")
    print("           EfficientNet and ConvNeXt by itself, elsewhere by model.backbone.places")
    return 0


def info(what: str = "", /) -> int:
    """Say what a weights file is, which keys a page has, or which versions and devices are here.

    Args:
        what: a weights file, run folder, exported file, model's name, "pose" or "seg" for a page's keys, or nothing.
    """
    if what in ("pose", "seg"):
        from polarpix.pages import run_parser

        run_parser(what, "train", f"Every key of a {what} page, with its default.").print_help()
        return 0
    if Path(what).suffix in (".onnx", ".pt2", ".xml"):
        from polarpix.runtime.predictors import describe, open_exported

        exported = open_exported(what, "cpu")
        print(describe(exported))
        print_metrics(exported.metrics, exported.run.monitor)
        return 0
    if what:
        from polarpix.engine.artifact import load_artifact
        from polarpix.zoo import MODELS

        artifact = load_artifact(what)
        backbone = artifact.run["model"]["backbone"]
        kind = f" ({artifact.form} form, {artifact.layout})" if artifact.form else ""
        network = f"{backbone['name']}, attention {artifact.attention}{kind}"
        print(f"{artifact.file}\n  task       {artifact.task}\n  network    {network}")
        print(f"  outputs    {len(artifact.labels.names)}: {', '.join(artifact.labels.names)}")
        print(f"  trained on {artifact.run['data']['root']}\n  commit     {artifact.commit or 'unknown'}")
        if what in MODELS:
            print(f"  card       {MODELS[what].card}")
        print_metrics(artifact.metrics, str(artifact.run["monitor"]))
        return 0
    from polarpix.engine.evaluate import conditions

    for name, value in conditions().items():
        print(f"{name:<10} {value}")
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


def print_metrics(metrics: dict[str, float], first: str) -> None:
    """One metric a line, the monitored one on top, classes and keypoints indented below."""
    order = sorted(metrics, key=lambda name: (name != first, "/" in name))
    for name in order:
        label = f"  {name}" if "/" in name else name
        print(f"{label:<28}{metrics[name]:>10.4f}")


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


def as_json(value: Any) -> str:
    """Indented JSON."""
    return json.dumps(value, indent=2)
