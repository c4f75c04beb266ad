"""What a checkpoint of anybody is: who published it, which network it holds, and which pages it fits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from torch import Tensor

from polarpix.backbones.files import find_weights, read_state_dict, unwrapped
from polarpix.backbones.publishers import PUBLISHERS, Publisher, identify, to_ours
from polarpix.costs import build_page
from polarpix.errors import InputError
from polarpix.pages import load_page, read_page

__all__ = ["Checkpoint", "attention_words", "backbone_name", "checkpoint_text", "describe_checkpoint"]

BACKBONE = "backbone.net."
ATTENTION = ".attention."
COUNTER = "num_batches_tracked"
# (bottlenecks, blocks of layer3) -> layers.
RESNETS = {(False, 2): 18, (False, 6): 34, (True, 6): 50, (True, 23): 101, (True, 36): 152}
COCO_JOINTS = 17


@dataclass(frozen=True)
class Checkpoint:
    """What is known of a file of weights.

    Args:
        file: the file.
        publisher: whose names it has.
        backbone: timm's name of its backbone; "" if it is none that the paper uses.
        outputs: rows of its last layer: maps, classes.
        attention: what attention is inside, in words.
        tensors: how many weights.
        params: how many numbers, without the batch statistics.
        fits: pages whose network it fills to the last weight.
        starts: pages whose network it starts: their attention, or their head, is not in it.
    """

    file: str
    publisher: Publisher
    backbone: str
    outputs: int
    attention: str
    tensors: int
    params: int
    fits: tuple[str, ...]
    starts: tuple[str, ...]


def describe_checkpoint(file: str | Path, folder: Path) -> Checkpoint:
    """Read a file of weights, without running anything in it, and compare it with the pages below a folder.

    Raises:
        InputError: no such file, not a file of weights, of nobody known, or a page that is not in order.
    """
    path = find_weights(file)
    theirs = unwrapped(read_state_dict(path))
    key = identify(theirs)
    if key is None:
        raise InputError(
            f"{path}: {len(theirs)} weights of a network that nobody known here has published (first name "
            f"{next(iter(theirs))}): known are {', '.join(PUBLISHERS)}"
        )
    publisher = PUBLISHERS[key]
    ours = {to_ours(name, publisher.rules): tensor for name, tensor in theirs.items()}
    backbone = backbone_name(ours)
    last = theirs.get(publisher.output)
    if last is None:  # an own network, whose head the names tell
        ends = ("head.final_layer.weight", "head.classify.weight", "ocr.cls_head.weight")
        last = next((ours[name] for name in ends if name in ours), None)
    statistics = ("running_mean", "running_var", COUNTER)
    fits, starts = matching_pages(ours, backbone, publisher.task, folder)
    return Checkpoint(
        file=str(file),
        publisher=publisher,
        backbone=backbone,
        outputs=0 if last is None else last.shape[0],
        attention=attention_words(ours),
        tensors=len(theirs),
        params=sum(prod(tensor.shape) for name, tensor in theirs.items() if not name.endswith(statistics)),
        fits=fits,
        starts=starts,
    )


def backbone_name(ours: Mapping[str, Tensor]) -> str:
    """timm's name of the backbone that weights under our names belong to; "" for others than those of the paper."""
    names = {name.removeprefix(BACKBONE): tensor for name, tensor in ours.items() if name.startswith(BACKBONE)}
    finest = names.get("stage4.0.branches.0.0.conv1.weight")
    if finest is not None:
        return f"hrnet_w{finest.shape[0]}"
    if "conv_stem.weight" in names:
        deepest = names.get("blocks.6.0.conv_pwl.weight")
        mobile = deepest is not None and not any(".se." in name for name in names)
        return "mobilenetv2_100" if mobile and deepest is not None and deepest.shape[:2] == (320, 960) else ""
    first = names.get("layer1.0.conv2.weight")
    blocks = len({match[1] for match in (re.match(r"layer3\.(\d+)\.", name) for name in names) if match})
    layers = RESNETS.get(("layer1.0.conv3.weight" in names, blocks))
    return f"resnet{layers}" if layers and first is not None and first.shape[:2] == (64, 64) else ""


def attention_words(ours: Mapping[str, Tensor]) -> str:
    """The attention that weights under our names hold, in words: its block, form and layout."""
    inserted = [name for name in ours if ATTENTION in name]
    places = len({name.partition(ATTENTION)[0] for name in inserted})
    parts = {name.partition(ATTENTION)[2] for name in inserted}
    if not places:
        return "none"
    if not parts & {"channel.q.weight", "spatial.q.weight"}:
        return f"another block than polarized self-attention, {places} of them"
    if {"channel.q.bias", "spatial.q.bias"} & parts:
        form = "paper form, parallel or sequential (their weights are alike)"
    else:
        layout = "sequential" if "channel.z1.weight" in parts else "parallel"
        form = f"released form, {layout} (psa_{layout[0]}_released)"
    return f"polarized self-attention, {form}, {places} blocks"


def matching_pages(
    ours: Mapping[str, Tensor], backbone: str, task: str, folder: Path
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The pages below a folder that weights under our names fill, and those that they start."""
    fits: list[str] = []
    starts: list[str] = []
    for path in sorted(folder.rglob("*.yaml")) if backbone else []:
        if "task" not in read_page(path):  # a keypoint schema
            continue
        run = load_page(path)
        if run.model.backbone.name.partition(".")[0] != backbone or task not in (run.task, "imagenet", ""):
            continue
        network = build_page(run)
        own = {name: t.squeeze().shape for name, t in network.state_dict().items() if not name.endswith(COUNTER)}
        have = {name: t.squeeze().shape for name, t in ours.items() if not name.endswith(COUNTER)}
        same = {name for name in own if have.get(name) == own[name]}
        known = {name for name in own if ATTENTION not in name or any(ATTENTION in other for other in have)}
        if have.keys() == own.keys() == same:
            fits.append(str(path))
        elif task == "imagenet":
            starts += [str(path)] * ({name for name in known if name.startswith(BACKBONE)} <= same)
        else:
            starts += [str(path)] * (known <= same and have.keys() <= own.keys())
    return tuple(fits), tuple(starts)


def checkpoint_text(found: Checkpoint) -> str:
    """One screen of words for :class:`Checkpoint`."""
    publisher = found.publisher
    key = "model.backbone.weights" if publisher.task == "imagenet" else "model.weights"
    rows = [
        ("publisher", publisher.source),
        ("network", f"{publisher.network}, backbone {found.backbone or 'of another kind than in the paper'}"),
        ("outputs", outputs_words(found)),
        ("attention", found.attention),
        ("size", f"{found.params / 1e6:.2f}M parameters in {found.tensors} tensors"),
        ("fits", listed(found.fits) or "no page to the last weight"),
        ("starts", listed(found.starts) or ("no page" if not found.fits else "no other page")),
        ("use", f"--{key} {found.file}"),
    ]
    if publisher.variant != "own":
        rows.append(("variant", f"--model.backbone.variant {publisher.variant} computes as its publisher does"))
    if publisher.note:
        rows.append(("note", publisher.note))
    return "\n".join([found.file, *(f"  {name:<11}{text}" for name, text in rows)])


def outputs_words(found: Checkpoint) -> str:
    """Keypoints, maps or classes."""
    if found.publisher.task != "pose":
        return f"{found.outputs} classes" if found.publisher.task else f"{found.outputs} maps or classes"
    if found.outputs == 3 * COCO_JOINTS:
        return f"{found.outputs} maps: {COCO_JOINTS} keypoints with offsets (model.codec udp_offset)"
    return f"{found.outputs} keypoints, one heatmap each"


def listed(pages: tuple[str, ...], most: int = 4) -> str:
    """The first few of them."""
    more = f" and {len(pages) - most} more" if len(pages) > most else ""
    return ", ".join(pages[:most]) + more
