"""Published checkpoints into our networks: rename what is named otherwise, say what did not match."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from polarpix.backbones.files import WRAPPERS, find_weights, read_metadata, read_state_dict, unwrapped
from polarpix.backbones.publishers import PUBLISHERS, TORCHVISION_MOBILENETV2, identify, to_ours
from polarpix.errors import InputError
from polarpix.psa import PolarizedSelfAttention

__all__ = [
    "RENAMINGS",
    "LoadReport",
    "Renaming",
    "load_network",
    "load_weights",
    "rename",
    "start_from",
]


@dataclass(frozen=True)
class LoadReport:
    """What became of every tensor.

    Args:
        source: where the weights came from.
        loaded: names in the network that were filled.
        missing: names in the network that the file does not have; attention that the file knows nothing of included.
        unexpected: names of the file (renamed) that the network does not have, such as a classifier; without those that
            a backbone was built without on purpose.
        mismatched: names in both whose shapes differ, with the two shapes: "name: file [..], network [..]".
    """

    source: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{self.source}: {len(self.loaded)} loaded, {len(self.missing)} missing, "
            f"{len(self.unexpected)} unexpected, {len(self.mismatched)} of another shape"
        )


@dataclass(frozen=True)
class Renaming:
    """One way in which a file names the same weights otherwise.

    Args:
        origin: who names them so, for reports.
        applies: (names in the file, names in the network) -> whether this renaming is needed.
        rename: name in the file -> name in the network; a name it does not know comes back unchanged.
    """

    origin: str
    applies: Callable[[Set[str], Set[str]], bool]
    rename: Callable[[str], str]


def _is_torchvision_mobilenetv2(file: Set[str], network: Set[str]) -> bool:
    return {"features.1.conv.0.0.weight", "features.2.conv.3.weight", "features.18.0.weight"} <= file


def _is_flattened(file: Set[str], network: Set[str]) -> bool:
    return not file & network and bool({_flattened(name) for name in file} & network)


def _flattened(name: str) -> str:
    return re.sub(r"^([a-z]+)\.(\d+)\.", r"\1_\2.", name)


def _without(prefix: str) -> Renaming:
    def applies(file: Set[str], network: Set[str]) -> bool:
        return bool(file) and all(name.startswith(prefix) for name in file)

    return Renaming(f"wrapper {prefix}", applies, lambda name: name.removeprefix(prefix))


INSERTED = ".attention."  # in the name of every weight of an inserted attention

# Applied in this order, each to what the ones before it left.
RENAMINGS: tuple[Renaming, ...] = (
    *(_without(prefix) for prefix in (*WRAPPERS, "backbone.", "net.")),
    Renaming(
        "torchvision mobilenet_v2",
        _is_torchvision_mobilenetv2,
        lambda name: to_ours(name, TORCHVISION_MOBILENETV2),
    ),
    # timm's feature extractors of ConvNeXt and others call stages.0 stages_0.
    Renaming("timm classification model", _is_flattened, _flattened),
)


def load_weights(model: nn.Module, source: str | Path, *, strict: bool = False) -> LoadReport:
    """Fill a network from a file of weights.

    Args:
        model: a timm network, or a :class:`polarpix.backbones.extract.Backbone` around one.
        source: a .pth or .safetensors file with timm's or a publisher's names, or "package:NAME"
            (:data:`polarpix.backbones.files.PACKAGES`).
        strict: refuse the file unless it fills everything but inserted attention. Weights that the network has no
            place for, such as a classifier, are never an error.

    Returns:
        What was loaded and what was not.

    Raises:
        InputError: no such file or package, not a file of weights, nothing in it that fits, or ``strict`` not met.
    """
    file = find_weights(source)
    own = model.state_dict()
    # The names of the file are those of the timm network, which a backbone keeps in .net.
    inside = "net." if all(name.startswith("net.") for name in own) else ""
    network = {name.removeprefix(inside) for name in own}
    tensors = unwrapped(read_state_dict(file))
    publisher = identify(tensors)
    if publisher is not None and PUBLISHERS[publisher].task != "imagenet":
        ours = {to_ours(name, PUBLISHERS[publisher].rules): tensor for name, tensor in tensors.items()}
        tensors = {name.removeprefix("backbone.net."): tensor for name, tensor in ours.items()}
    theirs = {inside + name: tensor for name, tensor in rename(tensors, network).items()}
    dropped = {inside + name for name in getattr(model, "dropped", ())}  # a Backbone's
    report = _fill(model, theirs, str(source), strict=strict, file=file, dropped=dropped)
    return _without_prefix(report, inside)


def load_network(model: nn.Module, source: str | Path, *, strict: bool = True) -> LoadReport:
    """Fill a whole pose or segmentation network, head included, from a published checkpoint.

    Args:
        model: a network with a ``backbone`` (:class:`polarpix.backbones.extract.Backbone`).
        source: a .pth or .safetensors file that :func:`polarpix.backbones.publishers.identify` knows.
        strict: refuse the file unless its names and shapes are those of the network; only attention that the file knows
            nothing of may start anew.

    Returns:
        What was loaded and what was not.

    Raises:
        InputError: no such file, not a checkpoint, one of nobody known or of a classifier, or ``strict`` not met.
    """
    file = find_weights(source)
    tensors = unwrapped(read_state_dict(file))
    key = identify(tensors)
    if key is None:
        raise InputError(
            f"{file}: nobody's network that is known here (first name {next(iter(tensors))}): "
            f"known are {', '.join(PUBLISHERS)}"
        )
    publisher = PUBLISHERS[key]
    if publisher.task == "imagenet":
        raise InputError(f"{file}: a {publisher.network} ({publisher.source}): name it as model.backbone.weights")
    _refuse_other_form(model, file)
    theirs = {to_ours(name, publisher.rules): tensor for name, tensor in tensors.items()}
    backbone = model.get_submodule("backbone")
    dropped = {f"backbone.net.{name}" for name in getattr(backbone, "dropped", ())}
    return _fill(model, theirs, str(source), strict=strict, file=file, dropped=dropped, whole=True)


def _refuse_other_form(model: nn.Module, file: Path) -> None:
    """An own weights file says which form and layout its blocks have; the weights of some are of one shape."""
    held = read_metadata(file)
    for block in (module for module in model.modules() if isinstance(module, PolarizedSelfAttention)):
        form, layout = held.get("form") or block.form, held.get("layout") or block.layout
        if (form, layout) != (block.form, block.layout):
            raise InputError(
                f"{file}: holds attention of the {form} form, {layout}; this network has the {block.form} form, "
                f"{block.layout}: set model.backbone.attention to that of the file ('polarpix info {file}' says it)"
            )


def start_from(model: nn.Module, source: str | None, strict: bool) -> None:
    """Fill a whole network as its page says, if it says so; what a file not read strictly leaves open is a warning.

    Raises:
        InputError: as in :func:`load_network`.
    """
    if source is None:
        return
    report = load_network(model, source, strict=strict)
    open_ends = {"missing": report.missing, "unexpected": report.unexpected, "of another shape": report.mismatched}
    told = [f"{kind}: {', '.join(names[:3])}{', ...' * (len(names) > 3)}" for kind, names in open_ends.items() if names]
    if told:
        warnings.warn(f"{report}; {'; '.join(told)}", stacklevel=2)


def _fill(
    model: nn.Module,
    theirs: Mapping[str, Tensor],
    source: str,
    *,
    strict: bool,
    file: Path,
    dropped: Set[str],
    whole: bool = False,
) -> LoadReport:
    """Load what fits of tensors under the network's names; ``whole`` makes strict mean no name left over, too."""
    own = model.state_dict()
    fits = {name: tensor for name, tensor in theirs.items() if name in own and _same_values(tensor, own[name])}
    report = LoadReport(
        source=source,
        loaded=tuple(fits),
        # Old files have no counter of batches; it plays no part with a fixed momentum.
        missing=tuple(name for name in own if name not in theirs and not name.endswith("num_batches_tracked")),
        unexpected=tuple(name for name in theirs if name not in own and name not in dropped),
        mismatched=tuple(
            f"{name}: file {list(tensor.shape)}, network {list(own[name].shape)}"
            for name, tensor in theirs.items()
            if name in own and name not in fits
        ),
    )
    if not fits:
        raise InputError(
            f"{file}: none of its {len(theirs)} tensors fits {type(model).__name__} "
            f"(first names: {next(iter(theirs), 'none')} there, {next(iter(own), 'none')} here): name its own backbone"
        )
    if strict:
        _refuse_gaps(report, theirs, file, whole)
    shaped = {name: tensor.reshape(own[name].shape) for name, tensor in fits.items()}
    model.load_state_dict(shaped, strict=False)
    return report


def _same_values(tensor: Tensor, own: Tensor) -> bool:
    """Whether two shapes differ in sides of 1 at most: [C/8, 1, 1] and [C/8] hold the same weights."""
    return tensor.shape == own.shape or (tensor.dim() > 0 and tensor.squeeze().shape == own.squeeze().shape)


def _without_prefix(report: LoadReport, prefix: str) -> LoadReport:
    lists = {
        key: tuple(name.removeprefix(prefix) for name in getattr(report, key))
        for key in ("loaded", "missing", "unexpected", "mismatched")
    }
    return LoadReport(report.source, **lists)


def rename(tensors: Mapping[str, Tensor], network: Set[str]) -> dict[str, Tensor]:
    """The tensors of a file under the names of the network, by every row of :data:`RENAMINGS` that applies."""
    renamed = dict(tensors)
    for row in RENAMINGS:
        if row.applies(renamed.keys(), network):
            renamed = {row.rename(name): tensor for name, tensor in renamed.items()}
    return renamed


def _refuse_gaps(report: LoadReport, theirs: Mapping[str, Tensor], file: Path, whole: bool) -> None:
    attends = any(INSERTED in name for name in theirs)  # then its own attention, of this very form, has to be there
    missing = [name for name in report.missing if attends or INSERTED not in name]
    left_over = [name for name in report.unexpected if whole or INSERTED in name]
    for names, words in (
        (report.mismatched, "{}"),
        (missing, "has no {}"),
        (left_over, "holds {}, which this network has not"),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise InputError(f"{file}: {words.format(names[0] + more)}: take the weights of this very network")
