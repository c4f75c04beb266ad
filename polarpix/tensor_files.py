"""safetensors files with a checksum: the format has none, and a bit that flips inside a tensor would go unseen."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from polarpix.errors import InputError

__all__ = ["DIGEST", "digest_of", "packed", "read_tensors"]

DIGEST = "sha256"  # the key of the metadata that holds it


def digest_of(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 over name, dtype, shape and bytes of every tensor and over the metadata, each in the order of names."""
    found = hashlib.sha256()

    def part(*texts: str) -> None:
        for text in texts:  # each behind its length: no two contents become one row of bytes
            data = text.encode("utf-8", "surrogatepass")
            found.update(len(data).to_bytes(8, "little") + data)

    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        part(name, str(tensor.dtype), str(list(tensor.shape)))
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    for name in sorted(set(metadata) - {DIGEST}):
        part(name, metadata[name])
    return found.hexdigest()


def packed(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The safetensors file of tensors, whose metadata hold the digest of all."""
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    texts = {key: text for key, text in metadata.items() if key != DIGEST}
    return save(held, texts | {DIGEST: digest_of(held, texts)})


def read_tensors(path: Path, mend: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file, checked where it holds a digest; those of others hold none.

    Args:
        path: the file.
        mend: what to do about a file that is not in order, in a few words.

    Raises:
        InputError: not such a file, or one that was altered after it was written.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:  # of the file, of torch
        raise InputError(f"{path}: not a readable safetensors file ({error!s:.200}): {mend}") from error
    if DIGEST in metadata and digest_of(state, metadata) != metadata[DIGEST]:
        raise InputError(f"{path}: altered since it was written, its SHA-256 does not fit: {mend}")
    return state, metadata
