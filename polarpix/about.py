"""What `polarpix models` and `polarpix info` say. Heavy imports happen inside, as in :mod:`polarpix.commands`."""

from __future__ import annotations

from json import dumps
from pathlib import Path

from polarpix.errors import InputError
from polarpix.zoo import is_exported

__all__ = ["info", "models", "print_metrics"]


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
        print(dumps(rows, indent=2))
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
    if is_exported(what):
        from polarpix.runtime.predictors import describe, open_exported

        exported = open_exported(what, "cpu")
        print(describe(exported))
        print_metrics(exported.metrics, exported.run.monitor)
        return 0
    if what:
        from polarpix.calibration import described
        from polarpix.engine.artifact import load_artifact
        from polarpix.metadata import printable
        from polarpix.zoo import MODELS

        artifact = load_artifact(what)
        backbone = artifact.run["model"]["backbone"]
        kind = f" ({artifact.form} form, {artifact.layout})" if artifact.form else ""
        network = f"{backbone['name']}, attention {artifact.attention}{kind}"
        print(printable(f"{artifact.file}\n  task       {artifact.task}\n  network    {network}"))
        print(printable(f"  outputs    {len(artifact.labels.names)}: {', '.join(artifact.labels.names)}"))
        data = artifact.run["data"]
        print(printable(f"  trained on {Path(data['root'], data.get('train_annotations', ''))}"))
        print(printable(f"  commit     {artifact.commit or 'unknown'}"))
        print(printable(f"  scores     {described(artifact.calibration)}"))
        fits = f"SHA-256 {artifact.digest[:12]}..., fits" if artifact.digest else "none: written before there was one"
        print(f"  checksum   {fits}")
        if what in MODELS:
            print(f"  card       {MODELS[what].card}")
        print_metrics(artifact.metrics, str(artifact.run["monitor"]))
        return 0
    from polarpix.engine.evaluate import conditions

    for name, value in conditions().items():
        print(f"{name:<10} {value}")
    return 0


def print_metrics(metrics: dict[str, float], first: str) -> None:
    """One metric a line, the monitored one on top, classes and keypoints indented below."""
    order = sorted(metrics, key=lambda name: (name != first, "/" in name))
    for name in order:
        label = f"  {name}" if "/" in name else name
        print(f"{label:<28}{metrics[name]:>10.4f}")
